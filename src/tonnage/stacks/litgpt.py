"""litgpt: its own models; head and loss in chunks of 128 tokens.

Reference: https://github.com/Lightning-AI/litgpt/blob/v0.5.13/litgpt/ (finetune/lora.py, finetune/full.py, model.py,
lora.py, utils.py ``chunked_cross_entropy``).
"""

from __future__ import annotations

from typing import Final

from tonnage.releases import Releases
from tonnage.stacks import Stack

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
    adapters="",
    packs_head=True,
    modules={
        "query": ("q_proj", "query_key_value", "qkv_proj", "c_attn", "Wqkv"),
        "key": ("k_proj", "query_key_value", "qkv_proj", "c_attn", "Wqkv"),
        "value": ("v_proj", "query_key_value", "qkv_proj", "c_attn", "Wqkv"),
        "projection": ("o_proj", "dense", "out_proj", "self_attention.dense"),
        "mlp": ("gate_proj", "up_proj", "down_proj", "gate_up_proj", "fc1", "fc2", "dense_h_to_4h", "dense_4h_to_h"),
        "head": ("lm_head",),
    },
    reference="https://github.com/Lightning-AI/litgpt/blob/v0.5.13/litgpt/finetune/lora.py",
)
