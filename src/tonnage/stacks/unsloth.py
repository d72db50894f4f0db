"""unsloth: TRL's trainers over models, adapters, a loss and checkpoints of its own.

Reference: https://pypi.org/project/unsloth/2026.10.9/ unsloth/models/ (llama.py, rl.py: the optimizer) and
https://pypi.org/project/unsloth_zoo/2026.10.9/ unsloth_zoo/ (training_utils.py: adapters in fp32 whatever the weights'
format; gradient_checkpointing.py: ``UnslothCheckpointFunction``, whose buffers are kept; fused_losses/).

What is not stated of it: older releases; full fine-tuning and other types of model, for which it compiles
transformers' modules (unsloth_zoo/compiler.py); Gemma 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tonnage.arch.stacks.unsloth import FastAttention, model, scratch
from tonnage.arch.stacks.unsloth_loss import FusedHead
from tonnage.releases import Releases
from tonnage.stacks import Stack

if TYPE_CHECKING:
    from tonnage.arch.model import Model
    from tonnage.arch.tuning.adapters import Tuning
    from tonnage.memory.recompute import Recompute


COMPILED: Final = (
    "unsloth's functions are answered as their code allocates without torch.compile: with torch 2.11 and newer it "
    "compiles every layer as one, which may take less or more while that layer runs"
)
COPIES: Final = (
    "where layers are not compiled, xformers is given keys and values of one layer for every query head: none, up to "
    "these copies and those of their gradients (utils/attention_dispatch.py, run_attention)"
)
OLDER: Final = (
    "unsloth before 2026.10 is answered as 2026.10: its loss took as many logits at a time as half of the free memory "
    "holds, and its rotations were turned back in place"
)


def _resident(found: Model, tuning: Tuning | None, stream: int, plan: Recompute | None) -> tuple[tuple[str, int], ...]:
    """Tensors that are kept: what matrices are unpacked into, and what inputs of layers come back to."""
    unpacked = 0 if tuning is None else scratch(found, tuning)
    away = plan is not None and plan.staged is not None and stream > plan.staged and len(found.decoder.layers) > 1
    return (
        *([("what every packed matrix is unpacked into", unpacked)] if unpacked else []),
        *([(f"buffer {n}, which layers' inputs come back to", stream) for n in "AB"] if away else []),
    )


def _spread(found: Model, tokens: int) -> tuple[str, int] | None:
    """Copies of one layer's keys and values for every query head, and of their gradients."""
    copies = [
        4 * 2 * tokens * (b.N - b.K) * b.H
        for layer, _ in found.decoder.distinct()
        for b in (s.block for s in layer.sublayers)
        if isinstance(b, FastAttention)
    ]
    return (COPIES, max(copies)) if max(copies, default=0) else None


STACK: Final = Stack(
    name="unsloth",
    releases=Releases("unsloth", newest=(2026, 10), oldest=(2025, 1), last={2025: 12}),
    precision=(((0, 0), "bf16-autocast"),),
    adapted=(((0, 0), "bf16-autocast"),),
    optimizer=(((0, 0), "adamw-fused"),),
    steps="adamw-8bit",
    makes_mask=(((0, 0), False),),
    shards="ddp",
    recomputes=("none", "full", "unsloth"),
    recompute=(((0, 0), "unsloth"),),
    reentrant=(((0, 0), True),),
    resident=_resident,
    spread=_spread,
    copies="unsloth puts modules that copies are trained of (modules_to_save) on the host: answered as staying",
    restated=model,
    losses=("unsloth", "full"),
    own_losses={"unsloth": FusedHead()},
    told_of_loss=(
        "head and loss are unsloth's: the gradient of the hidden states is made in the forward pass, from a part of "
        "the logits at a time"
    ),
    kernels=False,
    targets=("all-linear",),
    places=True,
    reference="https://pypi.org/project/unsloth/2026.10.9/ unsloth/models/llama.py",
    left_out=(((2026, 10), (COMPILED,)), ((0, 0), (OLDER,))),
    unstated=(
        "unsloth compiles transformers' modules of {model}: answered as transformers' and peft's operations, with "
        "unsloth's loss and checkpoints"
    ),
)
