"""Experts by Liger's fused kernels: one ``autograd.Function`` from tokens to their weighed outputs.

It keeps gate and up of all tokens, and makes the rest again on the way back: there it makes gradients of both stacks of
matrices, whether these are trained or not, beside the tokens' copies for every expert.

Leaves out: how many tiles the experts' tokens fill where they are not spread evenly, 8 B each.

Reference: https://github.com/linkedin/Liger-Kernel/blob/v0.8.5/src/liger_kernel/ops/fused_moe.py
(``LigerFusedMoEFunction``, ``compute_routing_metadata``) and src/liger_kernel/transformers/swiglu.py
(``LigerExperts``), the same in 0.8.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tonnage.arch.tape import Grads, Parameter, Value
from tonnage.errors import UnsupportedError
from tonnage.tensors import Axes, size

TILE: Final = 64
"""Tokens of a tile (``BLOCK_M_TOKEN``)."""
CHOICES: Final = 1024
"""Choices that one block of the histogram counts, at most."""


def tiles(choices: int, experts: int) -> int:
    """Tiles of the experts' tokens, spread evenly.

    >>> tiles(4096, 8), tiles(100, 8)
    (64, 8)
    """
    each, more = divmod(choices, experts)
    return more * -(-(each + 1) // TILE) + (experts - more) * -(-each // TILE)


def mixed(x: Value, stacks: Sequence[Parameter], chosen: Value, weights: Value, *, adapted: bool = False) -> Value:
    """Every token through its experts, weighed.

    Args:
        x: tokens, B x T x D.
        stacks: gate and up of all experts in one, and down, as ``nn.Linear`` has its matrix.
        chosen: each token's experts, B x T x K.
        weights: theirs, of the same shape.
        adapted: adapters are on the matrices.

    Raises:
        UnsupportedError: adapters; the Trainer patches what peft has wrapped by then, and that fails.
    """
    if adapted:
        raise UnsupportedError(
            "adapters on experts fail beside Liger's, which are put in their place behind peft", key="lora_targets",
            hint="--lora-targets attention, or --kernels none",
        )  # fmt: skip
    tape, pairs, form = x.tape, chosen.axes, x.dtype
    (_, E), F = stacks[1].axes[0], stacks[1].axes[-1]
    rows, used = size(pairs), pairs[-1][1]
    both: Axes = (*pairs, ("X", 2), F)

    def whole(label: str, *counts: int) -> Value:
        return tape.new(label, tuple(("N", n) for n in counts), "int32")

    narrow = tape.new("chosen, int32", pairs, "int32")
    # A block counts the tokens of as many choices as fit.
    tokens = max(1, CHOICES // (1 << (used - 1).bit_length()))
    parts = whole("tokens of each expert, in parts", E, -(-(rows // used) // tokens))
    counts = whole("tokens of each expert", E)
    starts, ends = whole("where experts begin", E + 1), whole("where tiles begin", E + 1)
    tiled = [whole("tiles", tiles(rows, E)) for _ in range(2)]
    order = [whole("order of tokens", rows) for _ in range(3)]
    del parts, ends
    inner = tape.new("gate and up", both, form)
    gated = tape.new("gated", (*pairs, F), form)
    each = tape.new("expert output", (*pairs, x.axes[-1]), form)
    out = tape.new("output of experts", x.axes, form)
    before, formats, shapes = x.axes, [s.dtype for s in stacks], [s.axes for s in stacks]
    weighed = weights.dtype

    def back(g: Value) -> Grads:
        inner = tape.new("gradient of gate and up", both, g.dtype)
        gated = tape.new("gated again, weighed", (*pairs, F), g.dtype)
        scores = tape.new("gradient of routing weights", pairs, g.dtype)
        down = tape.new("gradient of down", shapes[1], formats[1])
        each = tape.new("gradient of tokens of experts", (*pairs, before[-1]), g.dtype)
        tokens = tape.new("gradient of tokens", before, g.dtype)
        up = tape.new("gradient of gate and up", shapes[0], formats[0])
        del inner, gated, each
        fits = [scores]

        def fitted() -> Value:
            made = fits.pop()
            return made if made.dtype == weighed else tape.new("gradient of routing weights", pairs, weighed)

        return tokens, up, down, fitted

    tape.record((out,), (x, *stacks, weights), back, (x, inner, weights, starts, *order, *tiled), custom=True)
    del narrow, counts, gated, each
    return out
