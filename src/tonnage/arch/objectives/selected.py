"""Log-probabilities of given tokens from all logits: what TRL's losses were made of up to 1.14.

Up to 1.13 one sequence goes after the other, by operations of torch: in 16 bit the log-softmax of each is kept, in fp32
the logits themselves. 1.14 has a kernel, which keeps the logits. Its losses name the logits, and those of the
reference, until the step's numbers are logged, where parts of them are copied.

Leaves out: what ``nonzero`` takes for itself on a device.

Reference: https://github.com/huggingface/trl/blob/v1.12.0/trl/trainer/utils.py (selective_log_softmax,
entropy_from_logits), https://github.com/huggingface/trl/blob/v1.14.2/trl/kernels/logprob_entropy.py
"""

from __future__ import annotations

from typing import Final, Literal

from tonnage.arch import ops
from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.loss import log_softmax
from tonnage.arch.objectives.last import last_states
from tonnage.arch.tape import HALF, WIDTH, Grads, Value
from tonnage.releases import Since, Version, since
from tonnage.tensors import Axes, size

Way = Literal["tiles", "kernel", "rows", "copied rows"]

WAYS: Final[Since[Way]] = (
    ((1, 15), "tiles"), ((1, 14), "kernel"), ((1, 6), "rows"), ((0, 0), "copied rows")
)  # fmt: skip
"""How a release of TRL takes log-probabilities: from tiles of logits (``scored.py``), by its kernel from all of them,
or by operations of torch; before 1.6 DPO copied the logits first."""
ROWS: Final = 128
"""Tokens whose entropy is made at once (``entropy_from_logits``)."""


def way(release: Version) -> Way:
    """Of a release of TRL."""
    return since(release, WAYS)


def handed_out(f: Forward, head: Head, hand: list[Value]) -> Value:
    """What the head makes of hidden states; under autocast accelerate casts it to fp32.

    They are handed over: the last of the hand is taken, the rest let go of when the head is through.
    """
    tape = f.tape
    made = head.forward(f, hand.pop())
    hand.clear()
    if tape.autocast is None:
        return made
    # The model is through, and with it what autocast has cached.
    tape.casts.clear()
    tape.outside = len(tape.events)
    return ops.cast(made, "fp32")


def of_all(f: Forward, head: Head, hand: list[Value], how: Way) -> list[Value]:
    """Log-probabilities of every next token, the logits that they are of, and the entropy where it is there as well.

    The hidden states are handed over; labels and masks are views of the batch.
    """
    logits = handed_out(f, head, hand)
    f.tape.category = "loss"
    (B, T, V) = logits.axes
    short = ops.narrow(logits, (B, ("T", T[1] - 1), V))
    whole = []
    if how == "copied rows":
        short = ops.copy(short, label="logits but the last")
        rest: Axes = short.axes[:2]
        # The reference's are those of the policy.
        what = ("labels", "labels that count") if f.tape.recording else ()
        whole = [logits, *(f.tape.new(label, rest, "int64") for label in what)]
    del logits
    logps, entropy = selected(short, whole[1] if len(whole) > 1 else None, how)
    if entropy is not None:
        return [logps, short, entropy]
    return [zeroed(logps), short, *whole]


def of_written(
    f: Forward, head: Head, hand: list[Value], tokens: int, how: Way, *, in_place: bool, told: bool = True
) -> list[Value]:
    """Log-probabilities of the last tokens and their entropies, each joined from a list of one.

    Args:
        f, head: the pass and its head.
        hand: all hidden states, which are handed over.
        tokens: that were written.
        how: log-probabilities are taken.
        in_place: logits are divided by the temperature where they are, not into another tensor.
        told: the entropies are asked for.
    """
    # The model's code names all of them until its head is through.
    hand.append(last_states(f, hand[0], tokens + 1))
    logits = handed_out(f, head, hand)
    tape = f.tape
    tape.category = "loss"
    (B, _, V) = logits.axes
    written: Axes = (B, ("T", tokens), V)
    if how != "kernel" and in_place:
        logits = divided(logits, written)
    # The last token's are left out, and so many of the rest taken: two slices.
    short = ops.narrow(ops.narrow(logits, written), written)
    if how != "kernel" and not in_place:
        short = ops.scaled(short, "logits over temperature")
    logps, entropy = selected(short, None, how)
    if entropy is None and told:
        entropy = entropies(short.detached())
    joined = ops.copy(logps, label="log-probabilities, joined")
    return [joined, *([tape.new("entropy, joined", written[:2], entropy.dtype)] if told and entropy else [])]


def divided(x: Value, part_of: Axes) -> Value:
    """``view.div_(number)`` of a part: the gradient is copied whole, and that part again."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = Value(x.storage, axes, dtype)

    def back(g: Value) -> Grads:
        base = tape.new("gradient of logits", axes, dtype)
        part = tape.new("gradient, copied", part_of, dtype)
        tape.new("gradient over temperature", part_of, dtype)
        del part
        return (base,)

    tape.record((out,), (x,), back, ())
    return out


def selected(logits: Value, index: Value | None, how: Way, mask: Value | None = None) -> tuple[Value, Value | None]:
    """``selective_log_softmax`` of logits (axes ``B T V``), and the entropy where the same kernel makes it.

    Args:
        logits: of the tokens that count, a view.
        index: the tokens, where they are no view of what is alive anyway.
        how: by the kernel or by operations of torch.
        mask: tokens that count, where the kernel is handed them.
    """
    if how == "kernel":
        return _by_kernel(logits, index, mask)
    return (_from_halves(logits, index) if logits.dtype in HALF else _from_sums(logits, index)), None


def _by_kernel(logits: Value, index: Value | None, mask: Value | None) -> tuple[Value, Value]:
    """Keeps the logits, and makes two more numbers a token."""
    tape, axes, dtype = logits.tape, logits.axes, logits.dtype
    out = tape.new("log-probabilities", axes[:2], "fp32")
    entropy, log_sum, expected = (
        tape.new(label, axes[:2], "fp32") for label in ("entropy", "logarithms of sums", "expected logits")
    )
    saved = (logits, *([] if index is None else [index]), log_sum, expected, *([] if mask is None else [mask]))
    tape.record((out,), (logits,), lambda g: (tape.new("gradient of logits", axes, dtype),), saved, custom=True)
    return out, entropy


def _rows(logits: Value) -> list[Value]:
    """``for row in logits``."""
    (_, n), T, V = logits.axes
    return list(ops.split(logits, ((T, V),) * n))


def _from_halves(logits: Value, index: Value | None) -> Value:
    """A log-softmax for each sequence."""
    picked = []
    for row in _rows(logits):
        scores = log_softmax(row)
        picked.append(gathered(scores, index))
        del row
    return _stacked(picked)


def _from_sums(logits: Value, index: Value | None) -> Value:
    """Logits less the logarithm of their sum, which each sequence has of its own."""
    chosen = gathered(logits, index)
    sums = []
    for row in _rows(logits):
        sums.append(_log_sum(row))
        del row
    return ops.sub(chosen, _stacked(sums), "log-probabilities")


def gathered(x: Value, index: Value | None) -> Value:
    """``x.gather(-1, index)``: keeps both; its gradient is put into zeros."""
    tape, whole, dtype = x.tape, x.axes, x.dtype
    out = tape.new("logits of labels", whole[:-1], dtype)
    saved = (x,) if index is None else (x, index)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of labels", whole, dtype),), saved)
    return out


def _stacked(values: list[Value]) -> Value:
    """``torch.stack``, whose gradient is seen in parts."""
    tape, first = values[0].tape, values[0]
    axes, dtype = (("B", len(values)), *first.axes), first.dtype
    out = tape.new("joined", axes, dtype)
    parts = tuple(v.axes for v in values)
    tape.record((out,), tuple(values), lambda g: tuple(g.view(p) for p in parts), ())
    return out


def _log_sum(row: Value) -> Value:
    """``logsumexp``: keeps what it is given and its result."""
    tape, whole, dtype = row.tape, row.axes, row.dtype
    out = tape.new("logarithms of sums", whole[:-1], dtype)
    # The kernel's own: what is left of the logits without the highest.
    tape.scratch("exponentials", size(whole) * WIDTH[dtype])

    def back(g: Value) -> Grads:
        apart = tape.new("logits less the sum", whole, dtype)
        share = tape.new("shares", whole, dtype)
        grad = tape.new("gradient of logits", whole, dtype)
        del apart, share
        return (grad,)

    tape.record((out,), (row,), back, (row, out))
    return out


def zeroed(x: Value, kept: Value | None = None) -> Value:
    """``x[mask == 0] = 0.0`` of a view: the mask is kept, and the gradient is copied into a tensor of its own first."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    hidden = tape.new("labels that do not count", axes, "bool")
    out = Value(x.storage, axes, dtype)

    def back(g: Value) -> Grads:
        whole = tape.new("gradient of log-probabilities", axes, dtype)
        part = tape.new("gradient, copied", axes, dtype)
        tape.new("gradient of what counts", axes, dtype)
        del part
        return (whole,)

    tape.record((out,), (x,), back, (hidden,))
    return out


def entropies(logits: Value) -> Value:
    """``entropy_from_logits``, without a gradient: of sequences whose last token is left out, all is copied first."""
    tape, ((_, rows), (_, tokens), V), dtype = logits.tape, logits.axes, logits.dtype
    flat = tape.new("logits in a row", logits.axes, dtype) if rows > 1 and logits.axes != logits.storage.axes else None
    parts: list[Value] = []
    scores = None
    for start in range(0, rows * tokens, ROWS):
        axes: Axes = (("N", min(ROWS, rows * tokens - start)), V)
        scores = tape.new("log-softmax", axes, dtype)
        likely = tape.new("probabilities", axes, dtype)
        product = tape.new("probabilities times logarithms", axes, dtype)
        del likely
        total = tape.new("sums", axes[:1], dtype)
        del product
        parts.append(tape.new("entropy", axes[:1], dtype))
        del total
    made = tape.new("entropy", logits.axes[:2], dtype)
    parts.clear()
    del flat, scores
    return made


def averaged(logits: Value, labels: int) -> list[Value]:
    """``logits[mask].mean(-1).sum()``, and how many they are: those that count are copied."""
    tape, dtype = logits.tape, logits.dtype
    mask = tape.new("labels that count", logits.axes[:2], "bool")
    places = tape.new("places", (("X", 2), ("N", labels)), "int64")
    counted = tape.new("logits that count", (("N", labels), logits.axes[2]), dtype)
    del places, mask
    means = tape.new("means", (("N", labels),), dtype)
    del counted
    total = tape.new("sum of means", (), dtype)
    del means
    return [total, tape.new("number of tokens", (), "int64")]
