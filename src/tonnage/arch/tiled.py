"""TRL's fused head: log-likelihoods of tokens from tiles of logits, of which each is made again in the backward pass.

It is what ``SFTTrainer`` of TRL 1.16 trains with. Its sums over the vocabulary run in kernels of Triton.

Reference: https://github.com/huggingface/trl/blob/v1.16.0/trl/ kernels/chunked_logprob.py (``ChunkedLogProbFunction``),
trainer/utils.py (``add_fused_lm_head``), trainer/sft_trainer.py (``compute_loss``)

Leaves out: what the kernel that counts and gathers labels takes for itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tonnage.arch import ops
from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.loss import Loss
from tonnage.arch.tape import Grads, Parameter, Tape, Value, needs_grad
from tonnage.tensors import Axes

TOKENS: Final = 4096
WORDS: Final = 32768
"""A tile's rows and columns."""
SUMS: Final = 7
"""What the kernel sums for every token, in fp32."""


class Tiled(Loss):
    """The loss of every label but the first of each sequence."""

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """Mean cross entropy of what the head would make of ``x`` (axes ``B T D``)."""
        tape = f.tape
        tape.category = "loss"
        B, (_, T) = labels.axes
        shown: Axes = (B, ("T", T - 1))
        rows: Axes = (("X", B[1] * (T - 1)),)
        part = ops.narrow(x, (*shown, x.axes[2]))
        mask = tape.new("labels that count", shown, "bool")
        picked = _picked(part, mask, (*rows, x.axes[2]))
        names = _picked(labels.view(shown), mask, rows)
        weight = tape.parameter(head.alias_of or f"{head.name}.weight", (("V", head.V), ("D", head.D)))
        scores, entropy = _scores(picked, weight, names)
        del picked, names, part
        # Each goes into the shape of the labels; the entropy and whether the label came first are for the logs.
        found = [_spread(v, mask) for v in (scores, entropy)]
        best = tape.new("label came first", shown, "bool")
        del scores, entropy
        negative = tape.new("negative scores", shown, "fp32")
        tape.record((negative,), (found[0],), lambda g: (tape.new("gradient of scores", shown, "fp32"),), ())
        count = tape.new("number of labels", (("X", 1),), "int64")
        total = tape.new("sum of losses", (("X", 1),), "fp32")
        tape.record((total,), (negative,), lambda g: (g.view(shown),), ())
        least = tape.new("number of labels, at least one", (("X", 1),), "int64")
        loss = tape.new("loss", (("X", 1),), "fp32")
        tape.record((loss,), (total,), lambda g: (tape.new("gradient of sum", (("X", 1),), "fp32"),), (least,))
        del count, best, mask
        return loss


def _picked(x: Value, mask: Value, axes: Axes) -> Value:
    """``x[mask]``: a copy, whose gradient is put into zeros; the mask is kept."""
    tape, whole, dtype = x.tape, x.axes, x.dtype
    places: Axes = (*axes[:1], ("X", 2))
    held = [tape.new("places of labels", places, "int64")]
    out = tape.new("rows that count", axes, dtype)
    held.clear()

    def back(g: Value) -> Grads:
        grad = tape.new("gradient of rows", whole, dtype)
        tape.new("places of labels", places, "int64")
        return (grad,)

    tape.record((out,), (x,), back, (mask,))
    return out


def _spread(x: Value, mask: Value) -> Value:
    """``zeros.masked_scatter(mask, x)``: the mask is kept."""
    tape, axes, shown = x.tape, x.axes, mask.axes
    held = [tape.new("zeros", shown, "fp32")]
    out = tape.new("of every label", shown, "fp32")
    held.clear()
    tape.record((out,), (x,), lambda g: (tape.new("gradient of rows", axes, "fp32"),), (mask,))
    return out


def tiles(n: int, each: int) -> Iterator[int]:
    """Sizes of pieces of ``n``.

    >>> list(tiles(70000, 32768))
    [32768, 32768, 4464]
    """
    return (min(each, n - at) for at in range(0, n, each))


def _scores(x: Value, weight: Parameter, names: Value) -> tuple[Value, Value]:
    """``ChunkedLogProbFunction``: the log-likelihood and the entropy of every row."""
    tape, rows, form = x.tape, x.axes[:1], x.tape.autocast or x.dtype
    held = [tape.new("sums of rows", rows, "fp32") for _ in range(SUMS)]
    buffer = [_buffer(tape, rows, form)]
    _run(x, weight, form, named=False)
    passing = [tape.new("logarithm of sums", rows, "fp32")]
    top = tape.new("logarithm of sums", rows, "fp32")
    passing.clear()
    scores = tape.new("scores", rows, "fp32")
    passing = [tape.new("mean of logits", rows, "fp32")]
    entropy = tape.new("entropy", rows, "fp32")
    passing.clear()
    passing = [tape.new("is the highest", rows, "bool"), tape.new("beats the others", rows, "bool")]
    best = tape.new("label came first", rows, "bool")
    passing.clear()
    held.clear()
    buffer.clear()
    flows, makes, axes = needs_grad(x), needs_grad(weight), x.axes
    kept = (x.detached(), names.detached(), top, entropy.detached())

    def back(g: Value, *_: Value | None) -> Grads:
        wide = [tape.new("gradient of rows", axes, "fp32")] if flows else []
        wide += [tape.new("weight gradient", weight.axes, "fp32")] if makes else []
        tile = _buffer(tape, rows, form)
        left = _run(kept[0], weight, form, named=True)
        grads = [ops.cast(v, to) for v, to in zip(wide, [x_dtype] * flows + [weight.dtype] * makes, strict=True)]
        del tile, left
        return (grads[0] if flows else None, grads[-1] if makes else None)

    x_dtype = x.dtype
    tape.record((scores, entropy), (x, weight), back, kept, custom=True)
    del best, top
    return scores, entropy


def _buffer(tape: Tape, rows: Axes, form: str) -> Value:
    """Where every tile of logits lies, as wide as the widest could be."""
    category, tape.category = tape.category, "logits"
    made = tape.product("tile of logits", (("T", min(rows[0][1], TOKENS)), ("V", WORDS)), form)
    tape.category = category
    return made


def _run(x: Value, weight: Parameter, form: str, *, named: bool) -> list[Value]:
    """Copies of rows and of the weight in the format of the product, tile by tile; those that names still hold.

    ``named`` is the backward pass, in which a tile's part of the weight is held until the next one is there.
    """
    tape, (words, width) = x.tape, weight.axes
    rows: list[Value] = []
    part: list[Value] = []
    for n in tiles(x.axes[0][1], TOKENS):
        if x.dtype != form:
            made = tape.new("rows cast", (("T", n), width), form)
            rows = [made]
            del made
        for m in tiles(words[1], WORDS):
            if weight.dtype != form:
                made = tape.new("weight cast", (("V", m), width), form)
                part = [made] if named else []
                del made
    return [*rows, *part]
