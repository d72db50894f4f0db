"""torchtune: its own models, all of the weights in one format.

Reference: https://github.com/pytorch/torchtune/blob/v0.6.1/ (recipes/full_finetune_single_device.py,
recipes/lora_finetune_single_device.py; torchtune/modules/peft/lora.py: adapters in the format of the weights).
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.objectives.chunked import Chunked
from tonnage.arch.stacks.torchtune import model
from tonnage.releases import Releases
from tonnage.stacks import Stack

STACK: Final = Stack(
    name="torchtune",
    releases=Releases("torchtune", newest=(0, 6), oldest=(0, 2), last={}),
    precision=(((0, 0), "bf16"),),
    optimizer=(((0, 0), "adamw-foreach"),),
    makes_mask=(((0, 0), False),),
    shards="fsdp",
    recomputes=("none", "full"),
    losses=("chunked", "full"),
    kernels=False,
    input_grads=False,
    restated=model,
    own_losses={"chunked": Chunked(chunks=8, wide=True, names=True)},
    told_of_loss="head and loss run in eight chunks, whose logits in fp32 are all kept (CEWithChunkedOutputLoss)",
    adapters="",
    modules={
        "output_proj": ("o_proj", "out_proj", "dense"),
        "mlp": ("gate_proj", "up_proj", "down_proj", "gate_up_proj", "fc1", "fc2"),
    },
    packs=(
        "torchao's NF4 unpacks a matrix through tensors of up to 8 B an element, which are left out: packed matrices "
        "are answered as bitsandbytes'"
    ),
    compiles="layers",
    reference="https://github.com/pytorch/torchtune/blob/v0.6.1/recipes/full_finetune_single_device.py",
)
