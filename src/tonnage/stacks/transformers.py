"""transformers' Trainer, and plain loops over its models."""

from __future__ import annotations

from typing import Final

from tonnage.releases import Releases
from tonnage.stacks import Stack

STACK: Final = Stack(
    name="transformers",
    releases=Releases("transformers", newest=(5, 23), oldest=(4, 45), last={4: 57}),
    # Release 5 loads a checkpoint in its own format, release 4 in fp32 (the dtype of from_pretrained).
    precision=(((5, 0), ""), ((0, 0), "fp32")),
    # TrainingArguments.optim, with torch 2.8 or newer.
    optimizer=(((4, 54), "adamw-fused"), ((0, 0), "adamw-foreach")),
    # masking_utils.find_packed_sequence_indices of 4.53 to 4.57 finds packing in every batch that comes without a mask.
    makes_mask=(((5, 0), False), ((4, 53), True), ((0, 0), False)),
    shards="ddp",
    recomputes=("none", "full", "every", "first", "selective", "modules"),
    # gradient_checkpointing_enable of modeling_utils, v4.57.6 and v5.0.0.
    reentrant=(((5, 0), False), ((0, 0), True)),
    # needs_embedding_grads of the same, v5.0.0.
    hooks=(((5, 0), True), ((0, 0), False)),
    compiles="model",
    reference="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/training_args.py",
)
