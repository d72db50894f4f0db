"""unsloth: transformers' Trainer over kernels of its own.

Reference: https://github.com/unslothai/unsloth/blob/v0.1.801-beta/unsloth/models/llama.py. Its norms, rotations, gated
blocks and adapters are fused, its loss makes logits in chunks, and its checkpoints lie on the host: all of that keeps
less than transformers' operations, with which it is answered here.
"""

from __future__ import annotations

from typing import Final

from tonnage.releases import Releases
from tonnage.stacks import Stack

STACK: Final = Stack(
    name="unsloth",
    releases=Releases("unsloth", newest=(2026, 8), oldest=(2025, 1), last={2025: 12}),
    precision=(((0, 0), "bf16-autocast"),),
    adapted=(((0, 0), "bf16-autocast"),),
    optimizer=(((0, 0), "adamw-fused"),),
    makes_mask=(((0, 0), False),),
    shards="ddp",
    recomputes=("none", "full"),
    recompute=(((0, 0), "full"),),
    places=True,
    reference="https://github.com/unslothai/unsloth/blob/v0.1.801-beta/unsloth/models/llama.py",
    left_out=(
        "unsloth's fused kernels, its loss by chunks and its checkpoints on the host are answered as transformers' own "
        "operations, all logits and checkpoints on the device, which take more",
    ),
)
