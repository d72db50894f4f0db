"""transformers' Trainer."""

from __future__ import annotations

from typing import Final

from tonnage.stacks import Stack

STACK: Final = Stack(
    name="transformers",
    versions=("5", "4"),
    # Release 5 loads a checkpoint in its own format, release 4 in fp32 (from_pretrained's dtype).
    precision={"5": "", "4": "fp32"},
    # TrainingArguments.optim: the fused step with torch 2.8 and newer, foreach before.
    optimizer={"5": "adamw-fused", "4": "adamw-foreach"},
    shards="ddp",
    recomputes=("none", "full"),
    reference="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/training_args.py",
)
