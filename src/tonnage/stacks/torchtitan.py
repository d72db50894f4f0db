"""torchtitan on one device: its own models, fp32 weights under autocast.

Reference: https://github.com/pytorch/torchtitan/blob/v0.2.2/torchtitan/ (distributed/utils.py ``maybe_enable_amp``:
what is not sharded runs under autocast; config/job_config.py: every second layer is checkpointed when nothing is said).
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.objectives.chunked import Chunked
from tonnage.arch.stacks.torchtitan import model
from tonnage.releases import Releases
from tonnage.stacks import Stack

STACK: Final = Stack(
    name="torchtitan",
    releases=Releases("torchtitan", newest=(0, 2), oldest=(0, 1), last={}),
    precision=(((0, 0), "bf16-mixed"),),
    optimizer=(((0, 0), "adamw-fused"),),
    makes_mask=(((0, 0), False),),
    shards="fsdp",
    recomputes=("none", "full", "every", "first", "selective"),
    recompute=(((0, 0), "every-2"),),
    losses=("full",),
    own_losses={"full": Chunked(chunks=1, wide=True)},
    restated=model,
    kernels=False,
    input_grads=False,
    compiles="layers",
    reference="https://github.com/pytorch/torchtitan/blob/v0.2.2/torchtitan/train.py",
)
