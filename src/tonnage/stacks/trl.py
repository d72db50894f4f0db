"""TRL's trainers, as supervised fine-tuning uses them: transformers' Trainer with defaults of their own.

Reference: https://github.com/huggingface/trl/blob/v1.9.0/trl/trainer/ (sft_config.py, base_config.py: checkpoints, and
bf16 where neither format is named; utils.py ``create_model_from_path``: weights in fp32; sft_trainer.py: adapters in
bf16 beside packed matrices), and https://pypi.org/project/trl/1.16.0/. Before 0.27 adapters were left in fp32 there,
and so were norms: models/utils.py of 0.26 (``prepare_peft_model``, ``peft_module_casting_to_bf16``).

Without Liger's kernels the loss is over tiles of logits since 1.15, over chunks of labels from 1.7 on, and before over
all logits; there what is logged (entropy, accuracy) takes two more tensors of these for several sequences, as the
backward pass does.
"""

from __future__ import annotations

from typing import Final

from tonnage.releases import Releases
from tonnage.stacks import Stack

OLDER: Final = "objectives of TRL before 1.0 are answered as those of 1.0"

STACK: Final = Stack(
    name="trl",
    releases=Releases("trl", newest=(1, 16), oldest=(0, 20), last={0: 29}),
    precision=(((0, 0), "bf16-mixed"),),
    adapted=(((0, 0), "bf16-mixed"),),
    optimizer=(((0, 0), "adamw-fused"),),
    makes_mask=(((0, 0), False),),
    shards="ddp",
    recomputes=("none", "full", "every", "first"),
    recompute=(((0, 0), "full"),),
    packed_adapters=(((0, 27), "bf16"), ((0, 0), "")),
    prepares=(((0, 27), ""), ((0, 25), "norms"), ((0, 0), "all")),
    losses=("full", "fused", "liger", "trl", "trl-chunks"),
    pursues=(((1, 0), ()), ((0, 0), (OLDER,))),
    trainers=None,
    loss=(((1, 15), "trl"), ((1, 7), "trl-chunks"), ((0, 0), "full")),
    places=True,
    # "use_reentrant" of its trainers, 0.28.0; before, transformers' own.
    reentrant=(((0, 28), False), ((0, 0), True)),
    # transformers', which its releases from 1.0 on run with.
    hooks=(((1, 0), True), ((0, 0), False)),
    compiles="model",
    bounds=(((1, 16), True), ((0, 0), False)),
    reference="https://github.com/huggingface/trl/blob/v1.9.0/trl/trainer/sft_trainer.py",
)
