"""LLaMA-Factory: transformers' Trainer; what is trained is cast to fp32, and layers are checkpointed.

Reference: https://github.com/hiyouga/LLaMA-Factory/blob/v0.9.5/src/llamafactory/model/adapter.py
(``cast_trainable_params_to_fp32``), model/model_utils/checkpointing.py and hparams/model_args.py
(``use_reentrant_gc``).
"""

from __future__ import annotations

from typing import Final

from tonnage.releases import Releases
from tonnage.stacks import Stack

STACK: Final = Stack(
    name="llama-factory",
    releases=Releases("LLaMA-Factory", newest=(0, 9), oldest=(0, 9), last={}),
    precision=(((0, 0), "bf16-mixed"),),
    adapted=(((0, 0), "bf16-autocast"),),
    optimizer=(((0, 0), "adamw-fused"),),
    masks=True,
    makes_mask=(((0, 0), False),),
    shards="ddp",
    recomputes=("none", "full"),
    recompute=(((0, 0), "full"),),
    reentrant=(((0, 0), True),),
    targets=("all-linear",),
    freezes=("vision", "projector"),
    places=True,
    compiles="model",
    reference="https://github.com/hiyouga/LLaMA-Factory/blob/v0.9.5/src/llamafactory/model/adapter.py",
)
