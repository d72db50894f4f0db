"""Losses of an actor and its critic: proximal policy optimization, as TRL's last trainer of it writes it.

Both models hand out all their hidden states, and what they cache, which nobody asks for; all logits are there, and
those of the answer are divided by the temperature in place.

Reference: https://github.com/huggingface/trl/blob/v1.12.0/trl/ experimental/ppo/ppo_trainer.py (train, forward,
PolicyAndValueWrapper), experimental/utils.py (get_reward), trainer/utils.py (selective_log_softmax)
"""

from __future__ import annotations

from collections.abc import Callable

from tonnage.arch import ops
from tonnage.arch.ends import Head
from tonnage.arch.exponentials import log_sum_exp
from tonnage.arch.forward import Forward
from tonnage.arch.loss import Loss, log_softmax
from tonnage.arch.model import Model
from tonnage.arch.tape import Grads, Tape, Value
from tonnage.tensors import Axes

Ends = Callable[[Forward, Head, Value, Value], list[Value]]


def placed(model: Model) -> Model:
    """The model as it runs where every sequence comes with positions of its own: so are its tables of angles."""
    stack = model.decoder
    rows = stack.stem.position_ids
    stem = stack.stem.but(
        rotary=tuple(r.but(batched=True) for r in stack.stem.rotary),
        position_ids="batch" if rows == "rotary" and stack.stem.rotary else rows,
    )
    return model.but(stacks=(stack.but(stem=stem),))


def caches(new: tuple[Value, ...], window: int | None) -> tuple[Value, ...]:
    """What a pass over whole sequences caches: each part is joined with nothing."""
    # The empty cache is in the format of the keys, to which autocast raises the values.
    return tuple(_joined(ops.cast(part, ops.promoted(part.dtype, new[0].dtype))) for part in new)


def _joined(part: Value) -> Value:
    tape, axes = part.tape, part.axes
    category, tape.category = tape.category, "kv_cache"
    out = tape.new("keys or values", axes, part.dtype)
    tape.category = category
    # Heads lie before tokens.
    out.storage.by_heads = len(axes) == 4 and axes[1][1] > 1
    tape.record((out,), (part,), lambda g: (g.view(axes),), ())
    return out


class Valued(Loss):
    """The critic: one number for every token."""

    joins = True

    def named(self, tape: Tape, ids: Axes) -> list[Value]:
        """The ids where no padding is, and the mask."""
        return [tape.new("token ids without padding", ids, "int64"), tape.new("mask", ids, "bool")]

    def enter(self, f: Forward) -> None:
        """Keys and values are cached."""
        f.store = caches

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """Values, axes ``B T V`` with one ``V``."""
        return values(f, head, x)


def values(f: Forward, head: Head, x: Value) -> Value:
    """``score`` of all hidden states."""
    weight = f.tape.parameter(f"{head.name}.weight", (("V", head.V), ("D", head.D)))
    f.tape.category = "loss"
    made = ops.linear(x, weight, None, 1, (("V", head.V),))
    return made if f.tape.autocast is None else ops.cast(made, "fp32")


class Clipped(Loss):
    """The actor: clipped ratios of probabilities (arXiv:1707.06347), and a clipped error of the critic's values.

    Args:
        completion: tokens of a sequence that were written.
        generated: sequences that one rollout is for.
        stores: keys and values are cached, which checkpointed layers do not.
    """

    completion: int
    generated: int
    stores: bool = True

    def inputs(self, tape: Tape, ids: Axes) -> list[Value]:
        """What a rollout leaves, and what this pass takes of it."""
        own: Axes = (ids[0], ("T", self.completion))
        rows = ("B", self.generated)
        whole: Axes = (rows, ("T", self.completion))
        return [
            tape.new("queries", (rows, ("T", ids[1][1] - self.completion)), "int64"),
            *(tape.new("rollout", (rows, ids[1]), "int64") for _ in range(2)),
            *(tape.new("numbers of answers", whole, "int64") for _ in range(3)),
            *(tape.new("numbers of answers", whole, "fp32") for _ in range(8)),
            *(tape.new("masks of answers", whole, "bool") for _ in range(2)),
            tape.new("answers of this pass", own, "int64"),
            *(tape.new("numbers of this pass", own, "fp32") for _ in range(4)),
        ]

    def enter(self, f: Forward) -> None:
        """Keys and values are cached."""
        if self.stores:
            f.store = caches

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """The loss over written tokens."""
        tape = f.tape
        logits = head.forward(f, x)
        # Here both models are through, and the critic's hidden states are let go of.
        tape.pause()
        if tape.autocast is not None:
            logits = ops.cast(logits, "fp32")
        f.logits += [logits, x]
        tape.category = "loss"
        written: Axes = (logits.axes[0], ("T", self.completion))
        given = _tempered(logits, (*written, logits.axes[2]))
        logps = ops.scaled(_selected(given), "log-probabilities without padding")
        judged = [tape.new("values and their errors", written, "fp32") for _ in range(6)]
        ratio = ops.unary(ops.scaled(logps, "log ratio"), "exp", saves="output")
        gain = tape.new("negative advantages", written, "fp32")
        lost = ops.mul(ratio, gain)
        held = ops.mul(ops.unary(ratio, "clamp"), gain)
        most = _most(lost, held)
        mask = tape.new("labels that count", written, "bool")
        loss = _mean(ops.mul(most, mask))
        del judged
        return loss


def _tempered(logits: Value, part: Axes) -> Value:
    """``logits[:, a:b]`` divided in place: the whole table's gradient is copied, and its slice twice."""
    tape, whole, dtype = logits.tape, logits.axes, logits.dtype
    base = Value(logits.storage, whole, dtype)

    def back(g: Value) -> Grads:
        out = tape.new("gradient of logits", whole, dtype)
        copied = tape.new("gradient of a slice", part, dtype)
        divided = tape.new("gradient of a slice, divided", part, dtype)
        del copied, divided
        return (out,)

    tape.record((base,), (logits,), back, ())
    return ops.narrow(base, part)


def _selected(logits: Value) -> Value:
    """``selective_log_softmax``: row by row; in fp32 by sums of exponentials, else by a table of log-probabilities."""
    (B, T, V), dtype = logits.axes, logits.dtype
    one: Axes = ((B[0], 1), T, V)
    if dtype == "fp32":
        chosen = _gathered(logits)
        sums = []
        for row in ops.split(logits, (one,) * B[1]):
            sums.append(log_sum_exp(row))
        joined = ops.cat(tuple(sums), (B, T), "logarithms of sums")
        sums.clear()
        return ops.sub(chosen, joined, "log-probabilities")
    found = []
    for row in ops.split(logits, (one,) * B[1]):
        table = log_softmax(row)
        found.append(_gathered(table))
    return ops.cat(tuple(found), (B, T), "log-probabilities")


def _gathered(x: Value) -> Value:
    """``x.gather(-1, index)``: its gradient is put into zeros."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("of labels", axes[:-1], dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of gathered", axes, dtype),), ())
    return out


def _most(a: Value, b: Value) -> Value:
    """``torch.max(a, b)``: keeps both."""
    tape, axes = a.tape, a.axes
    out = tape.new("most", axes, a.dtype)

    def back(g: Value) -> Grads:
        return tape.new("gradient of most", axes, a_dtype), tape.new("gradient of most", axes, a_dtype)

    a_dtype = a.dtype
    tape.record((out,), (a, b), back, (a, b))
    return out


def _mean(x: Value) -> Value:
    """A sum over a number of labels."""
    tape, axes = x.tape, x.axes
    whole, out = tape.new("sum", (), "fp32"), tape.new("loss", (), "fp32")
    del whole
    tape.record((out,), (x,), lambda g: (g.view(axes),), ())
    return out


def referred(completion: int) -> Ends:
    """Log-probabilities of a reference from all its logits, of which the answer's are divided in place."""

    def ends(f: Forward, head: Head, x: Value, ids: Value) -> list[Value]:
        logits = head.forward(f, x)
        part: Axes = (logits.axes[0], ("T", completion), logits.axes[2])
        return [_selected(_tempered(logits, part))]

    return ends


def judged(f: Forward, head: Head, x: Value, ids: Value) -> list[Value]:
    """What a critic or a judge makes of its hidden states."""
    return [values(f, head, x)]
