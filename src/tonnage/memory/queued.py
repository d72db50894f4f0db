"""What a step of a prompt takes under MLX beside weights and caches: scores, and results that its queue still holds.

MLX runs ahead of the GPU: an array that nothing reads any more is freed only when the command buffer that used it has
run. Read in ml-explore/mlx 0.32.1: mlx/transforms.cpp (``MAX_ACTIVE_TASKS``), mlx/backend/metal/device.cpp (a buffer is
committed at so many operations or bytes), mlx/backend/metal/eval.cpp (what it retains), mlx/fast.cpp (attention that is
no kernel of its own makes its scores, and softmax writes over them); and mlx-lm 0.32.0, mlx_lm/models/cache.py (a cache
that grows is copied). How far the queue runs ahead is a race, on MLX's CPU backend as on Metal: repeated runs of one
prompt differ there by 1 to 5 %. So this is a range.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tonnage.arch.model import Layer, Model
from tonnage.formats import Format
from tonnage.memory.cache import states
from tonnage.record import Record
from tonnage.tensors import Tensor, size
from tonnage.units import MiB

FUSED: Final = (64, 72, 80, 96, 128)
"""Widths of heads whose attention over a prompt is one kernel on Metal; others make the scores."""
ACTIVE: Final = 11
"""Command buffers that may be under way: ten, and the one that is being filled."""
COMMITTED: Final = (40 * MiB, 50 * MiB)
"""Inputs of a command buffer at which it is committed: on the base and Pro chips, on Max and Ultra. [byte]"""
OPERATIONS: Final = 0.5
"""Command buffers of a layer at least: about 25 of 40 to 50 operations."""
MASKED: Final = 1
"""Bytes of an element of the mask of attention that is no kernel. [byte]"""


class Step(Record):
    """A step of a prompt.

    Args:
        tokens: of all sequences together that are read at once.
        seen: tokens of a sequence at the end of the prompt.
        ringed: windowed layers keep a ring.
        packed: bytes of a weight. [byte]
        larger: the chip is a Max or an Ultra.
    """

    tokens: int
    seen: int
    ringed: bool
    packed: float
    larger: bool = True

    @property
    def committed(self) -> int:
        """Inputs at which a command buffer is committed. [byte]"""
        return COMMITTED[self.larger]


def held(model: Model, step: Step, form: Format, cache: Callable[[Layer], int]) -> tuple[int, int, int]:
    """At least, likely and at most what a step takes beside weights and caches. [byte]

    Args:
        model: what runs.
        step: what is read.
        form: format of the computation.
        cache: a layer's cache. [byte]
    """
    live = scores = copied = 0
    flight = 0.0
    for layer, times in model.decoder.distinct():
        used = _used(layer)
        outs = [_outs(t, used) for t in layer.weights()]
        widest = sum(sorted(outs, reverse=True)[:2])
        live = max(live, form.nbytes(step.tokens * (model.width + widest)))
        # A matrix's result is taken up by about as much that is turned, normed, activated or added.
        whole = form.nbytes(step.tokens * (2 * sum(outs) + 4 * model.width))
        flight = max(flight, whole * min(times, ACTIVE / _committed(layer, step, form)))
        scores = max(scores, _scores(layer, step, form))
        copied = max(copied, cache(layer))
    low = live + scores
    likely = max(low, scores + int(flight) + copied)
    return low, likely, scores * 3 // 2 + 2 * int(flight) + 3 * copied + 2 * step.committed


def _committed(layer: Layer, step: Step, form: Format) -> float:
    """Command buffers that a layer fills."""
    count, filled, used = 0.0, 0.0, _used(layer)
    for t in layer.weights():
        out = _outs(t, used)
        if not out:
            continue
        filled += t.numel * step.packed + form.nbytes(step.tokens * (out + t.numel // max(1, _rows(t))))
        if filled > step.committed:
            count, filled = count + 1, 0.0
    return max(OPERATIONS, count)


def _scores(layer: Layer, step: Step, form: Format) -> int:
    """The scores of one layer and their mask, where attention is no kernel. [byte]"""
    heads = max((dict(t.axes).get("N", 0) for t in layer.weights() if t.role == "attention"), default=0)
    most = 0
    for t, window in states(layer, 1, 1, repeated=False):
        if t.role != "cache" or dict(t.axes).get("H", 0) in FUSED:
            continue
        seen = min(step.seen, window - 1 + step.tokens) if window is not None and step.ringed else step.seen
        most = max(most, step.tokens * seen * MASKED + form.nbytes(heads * step.tokens * seen))
    return most


def _rows(t: Tensor) -> int:
    dims = t.dims or (1,) * len(t.axes)
    return size(t.axes[: -dims[-1]])


def _used(layer: Layer) -> int:
    """Experts that a token goes to."""
    return max((getattr(sub.block, "used", None) or 1 for sub in layer.sublayers), default=1)


def _outs(t: Tensor, used: int) -> int:
    """Elements of a token in a matrix's result: of an expert, those of all that it goes to."""
    dims = t.dims or (1,) * len(t.axes)
    if len(dims) < 2 or t.role in ("norm", "buffer"):
        return 0
    return size(t.axes[1 : -dims[-1]]) * used if t.role == "expert" else size(t.axes[: dims[0]])
