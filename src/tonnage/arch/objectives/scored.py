"""Log-probabilities of given tokens: what TRL's losses are made of, without the table of logits.

The head goes through tiles of 4,096 tokens and 32,768 words, in one buffer. Only the tokens whose label counts are
scored; the backward pass makes each tile again and adds gradients up in fp32.

Leaves out: what ``nonzero``, ``masked_select`` and ``masked_scatter`` take for themselves on a device.

Reference: https://github.com/huggingface/trl/blob/v1.16.0/trl/ kernels/chunked_logprob.py (ChunkedLogProbFunction),
trainer/utils.py (add_fused_lm_head); Triton's kernels allocate nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tonnage.arch import ops
from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Back, Grads, Parameter, Tape, Value, needs_grad
from tonnage.tensors import Axes, Axis

Lengths = int | tuple[int, int] | None
"""Tokens of a sequence that are scored; of chosen and of rejected ones; all but the first."""
TILE_TOKENS: Final = 4096
TILE_WORDS: Final = 32768
STATISTICS: Final = (
    "highest logits", "sums of exponentials", "sums of logits", "sums of squares", "sums over words",
    "highest before label", "logits of labels",
)  # fmt: skip


def counted(tokens: int, completion: int | None) -> int:
    """Labels of a sequence that count: each stands behind the token that it is the next of.

    >>> counted(512, None), counted(512, 128)
    (511, 128)
    """
    return min(tokens - 1, tokens if completion is None else completion)


def labels(rows: int, tokens: int, completion: Lengths) -> int:
    """Labels of a batch that count; of a batch whose halves are answers of two lengths, those of both.

    >>> labels(4, 512, 128), labels(4, 512, (128, 100))
    (512, 456)
    """
    if isinstance(completion, tuple):
        return sum(rows // 2 * counted(tokens, n) for n in completion)
    return rows * counted(tokens, completion)


def log_probs(f: Forward, head: Head, x: Value, completion: Lengths, extra: tuple[str, ...] = ()) -> list[Value]:
    """The log-probability of every next token, zero where its label does not count.

    Args:
        f: the pass.
        head: whose matrix is taken.
        x: last hidden states, axes ``B T D``.
        completion: labels of a sequence that count; of chosen and rejected ones where they differ; None for all.
        extra: what is told of every token beside: ``entropy``, ``mean_logits``, ``is_top1``.

    Returns:
        The log-probabilities (fp32, ``B T-1``), then what is told beside, and what the output holds of a loss.
    """
    tape = f.tape
    if head.project is not None:
        x = head.project.forward(f, x)
    tape.category = "loss"
    (B, T, D) = x.axes
    rest: Axes = (B, ("T", T[1] - 1))
    mask = tape.new("labels that count", rest, "bool")
    rows = labels(B[1], T[1], completion)
    chosen = rows_of(ops.narrow(x, (*rest, D)), mask, (("N", rows), D), "hidden states of labels that count")
    targets = _indexed(tape, "labels", (("N", rows),), "int64")
    weight = tape.parameter(head.alias_of or f"{head.name}.weight", (("V", head.V), ("D", head.D)))
    bias = tape.parameter(head.bias_alias_of or f"{head.name}.bias", (("V", head.V),)) if head.bias else None
    flat = _Tiles(chosen, weight, bias).run(targets, extra)
    del chosen, targets
    found = [_scattered(v, mask, rest) for v in flat]
    flat.clear()
    count = tape.new("labels that count, summed", (), "int64")
    tape.new("negated sum", (), "fp32")
    return [*found, count, tape.new("mean likelihood", (), "fp32"), mask]


def _indexed(tape: Tape, label: str, axes: Axes, dtype: str) -> Value:
    """``x[mask]``: the places are listed first."""
    places = _places(tape, axes[0])
    out = tape.new(label, axes, dtype)
    del places
    return out


def _places(tape: Tape, rows: Axis) -> Value:
    """Sequence and token of every label that counts."""
    return tape.new("places", (("X", 2), rows), "int64")


def rows_of(x: Value, mask: Value, axes: Axes, label: str) -> Value:
    """``x[mask]``, whose gradient is put into a whole tensor of zeros; the places are sorted first."""
    tape, whole, dtype = x.tape, x.axes, x.dtype
    out = _indexed(tape, label, axes, dtype)

    def back(g: Value) -> Grads:
        zeros = tape.new(f"gradient of {label}", whole, dtype)
        places = _places(tape, axes[0])
        # Indices in one, sorted, with where each came from, and as much again for the sort itself.
        tape.scratch("sorted places", 5 * 8 * axes[0][1])
        del places
        return (zeros,)

    tape.record((out,), (x,), back, (mask,))
    return out


def _scattered(x: Value, mask: Value, rest: Axes) -> Value:
    """Zeros with the values where the mask says."""
    tape, own, dtype = x.tape, x.axes, x.dtype
    zeros = tape.new("zeros", rest, dtype)
    out = tape.new("log-probabilities", rest, dtype)
    del zeros
    tape.record((out,), (x,), lambda g: (tape.new("gradient of labels that count", own, dtype),), (mask,))
    return out


class _Tiles:
    """The head's product in tiles, forward and again in the backward pass."""

    def __init__(self, hidden: Value, weight: Parameter, bias: Parameter | None) -> None:
        self.tape = hidden.tape
        self.axes, self.dtype = hidden.axes, hidden.dtype
        self.rows, self.width = hidden.axes[0][1], hidden.axes[1][1]
        self.hidden: Value | None = hidden
        self.weight, self.bias = weight, bias
        self.form = self.tape.autocast or hidden.dtype

    def _buffer(self) -> Value:
        before, self.tape.category = self.tape.category, "logits"
        made = self.tape.new("logits of a tile", (("T", min(self.rows, TILE_TOKENS)), ("V", TILE_WORDS)), self.form)
        self.tape.category = before
        return made

    def _walk(self, held: list[Value], named: list[Value] | None) -> Iterator[int]:
        """Words of every tile, with the casts of what it multiplies.

        ``held`` and ``named`` are the code's own names, which hold the last casts until the next are bound; the
        forward pass names no weight.
        """
        tape = self.tape
        casts, copies = self.dtype != self.form, self.weight.dtype != self.form
        for start in range(0, self.rows, TILE_TOKENS):
            tokens = min(TILE_TOKENS, self.rows - start)
            if casts:
                held[:] = [tape.new("cast hidden states", (("T", tokens), ("D", self.width)), self.form)]
            for first in range(0, self.weight.axes[0][1], TILE_WORDS):
                words = min(TILE_WORDS, self.weight.axes[0][1] - first)
                if copies:
                    cast = tape.new("cast weight", (("V", words), ("D", self.width)), self.form)
                    if named is not None:
                        named[:] = [cast]
                    del cast
                if copies and self.bias is not None:
                    tape.new("cast bias", (("V", words),), self.form)
                yield words

    def run(self, targets: Value, extra: tuple[str, ...]) -> list[Value]:
        """The log-probability of each row's target, and what is told beside."""
        tape, rows = self.tape, self.axes[:1]
        assert self.hidden is not None
        statistics = [tape.new(label, rows, "fp32") for label in STATISTICS]
        buffer = self._buffer()
        held: list[Value] = []
        for _ in self._walk(held, None):
            pass
        log_sum = _of_two(tape, "logarithms of sums", rows)
        chosen = tape.new("log-probabilities", rows, "fp32")
        found = [chosen]
        entropy = None
        if "entropy" in extra:
            entropy = _of_two(tape, "entropy", rows)
            found.append(entropy)
        if "mean_logits" in extra:
            found.append(tape.new("mean logits", rows, "fp32"))
        if "is_top1" in extra:
            at_top, first = tape.new("at the top", rows, "bool"), tape.new("before others", rows, "bool")
            found.append(tape.new("highest", rows, "bool"))
            del at_top, first
        statistics.clear()
        held.clear()
        del buffer
        saved = (self.hidden, targets, log_sum, *([entropy] if entropy is not None else []))
        flows = needs_grad(self.hidden)
        tape.record((chosen,), (self.hidden, self.weight, self.bias), self._back(flows), saved, custom=True)
        self.hidden = None
        return found

    def _back(self, flows: bool) -> Back:
        tape, weight, bias = self.tape, self.weight, self.bias

        def back(g: Value) -> Grads:
            gx = tape.new("gradient of hidden states in fp32", self.axes, "fp32") if flows else None
            gw = tape.new("weight gradient in fp32", weight.axes, "fp32") if weight.trained else None
            gb = tape.new("bias gradient in fp32", bias.axes, "fp32") if bias is not None and bias.trained else None
            buffer = self._buffer()
            held: list[Value] = []
            named: list[Value] = []
            for words in self._walk(held, named):
                if gb is not None:
                    tape.new("bias gradient of a tile", (("V", words),), "fp32")
            made = tuple(
                None if grad is None else ops.cast(grad, dtype, "gradient")
                for grad, dtype in ((gx, self.dtype), (gw, weight.dtype), (gb, weight.dtype))
            )
            held.clear()
            named.clear()
            del buffer
            return made

        return back


def _of_two(tape: Tape, label: str, rows: Axes) -> Value:
    """A result whose second operand is made first."""
    part = tape.new(f"{label}, part", rows, "fp32")
    out = tape.new(label, rows, "fp32")
    del part
    return out
