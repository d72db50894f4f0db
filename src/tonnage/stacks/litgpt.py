"""litgpt: its own models; head and loss in chunks of 128 tokens.

Reference: https://github.com/Lightning-AI/litgpt/blob/v0.5.13/litgpt/ (finetune/lora.py, finetune/full.py, model.py,
lora.py, utils.py ``chunked_cross_entropy``), and Lightning Fabric's precision plugins, whose ``convert_output`` casts a
model's output to fp32. It asks for bitsandbytes 0.42.0; since 0.5, beside packed matrices, it puts bitsandbytes'
StableEmbedding in place of the embedding once the optimizer is made, so that the table gets a gradient.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.arch.objectives.chunked import Chunked
from tonnage.arch.stacks.litgpt import QKV, lora, model
from tonnage.releases import Releases, Version
from tonnage.stacks import Stack


def _restated(found: Model, version: Version, _: int | None) -> Model:
    return model(found, version)


STACK: Final = Stack(
    name="litgpt",
    releases=Releases("litgpt", newest=(0, 5), oldest=(0, 0), last={}),
    precision=(((0, 0), "bf16-mixed"),),
    adapted=(((0, 0), "bf16-mixed"),),
    optimizer=(((0, 0), "adamw-foreach"),),
    makes_mask=(((0, 0), False),),
    shards="fsdp",
    recomputes=("none", "full"),
    losses=("chunked", "full"),
    kernels=False,
    input_grads=False,
    restated=_restated,
    own_losses={"chunked": Chunked(tokens=128, widened=True, names=True, before=True)},
    told_of_loss="head and loss run in chunks of 128 tokens; all logits are cast to fp32 and held by the loop",
    lora=lora,
    keeps_inputs=True,
    embeds=(((0, 5), True), ((0, 0), False)),
    keeps=("outputs",),
    adapters="",
    packs_head=True,
    modules={
        "query": (QKV, "q_proj", "query_key_value", "qkv_proj"),
        "key": (QKV, "k_proj", "query_key_value", "qkv_proj"),
        "value": (QKV, "v_proj", "query_key_value", "qkv_proj"),
        "projection": ("o_proj", "dense", "out_proj", "self_attention.dense"),
        "mlp": ("gate_proj", "up_proj", "down_proj", "gate_up_proj", "fc1", "fc2", "dense_h_to_4h", "dense_4h_to_h"),
        "head": ("lm_head", "embed_out"),
    },
    reference="https://github.com/Lightning-AI/litgpt/blob/v0.5.13/litgpt/finetune/lora.py",
)
