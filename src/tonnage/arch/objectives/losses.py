"""Losses that do without the whole table of logits, or without a second one.

Each stands for the head and the loss together: ``forward`` takes the last hidden states and gives the loss. They are
stated as the modelled code allocates, chunk by chunk.

References: https://github.com/linkedin/Liger-Kernel/blob/v0.8.5/src/liger_kernel/ops/ (fused_linear_cross_entropy.py,
cross_entropy.py) and transformers/model/loss_utils.py; of older releases, ``_WAYS`` tells the differences.
"""

from __future__ import annotations

from typing import Final, Literal

from tonnage.arch import ops
from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.fused import NEWEST
from tonnage.arch.loss import Loss, padded_labels, shifted_labels
from tonnage.arch.tape import HALF, Grads, Parameter, Tape, Value, needs_grad
from tonnage.releases import Since, Version, since
from tonnage.tensors import Axes

Way = Literal["one buffer", "added in place", "multiplied apart", "added from a cast", "cast up"]

_WAYS: Final[Since[Way]] = (
    ((8, 3), "one buffer"),
    ((8, 1), "added in place"),
    ((6, 2), "multiplied apart"),
    ((5, 0), "added from a cast"),
    ((0, 0), "cast up"),
)
"""How Liger's fused loss goes through its chunks.

``one buffer``: every chunk's logits lie in the same tensor, and its part of the weight's gradient is added by the
product. Before, the last chunk's logits lived until the next ones were there. ``added in place``: by the product where
the weight is fp32, else as ``multiplied apart``: that part is a matrix of its own, which is cast to fp32.
``added from a cast``: it is added by the product, from logits cast to the format of the hidden states. ``cast up``:
logits were cast to fp32 and back.
"""


class FusedLinear(Loss):
    """``LigerFusedLinearCrossEntropyFunction``: logits in chunks, gradients of both operands in the forward pass.

    Args:
        release: of liger-kernel.
        shifts: the labels are padded and moved by one, as the models' forward passes do.
        budget: how often the hidden states' elements a chunk's logits may be.
    """

    release: Version = NEWEST
    shifts: bool = True
    budget: int = 1

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """Mean cross entropy of what the head would make of ``x`` (axes ``B T D``)."""
        tape = f.tape
        tape.category = "loss"
        names = [labels]
        if self.shifts:
            names = [padded_labels(labels)]
            names.append(shifted_labels(names[0], labels.axes))
        weight = tape.parameter(head.alias_of or f"{head.name}.weight", (("V", head.V), ("D", head.D)))
        return self._applied(x, weight)

    def _applied(self, x: Value, weight: Parameter) -> Value:
        tape, axes = x.tape, x.axes
        flows, makes = needs_grad(x), needs_grad(weight) and tape.recording
        grads = [tape.new("gradient of hidden states", axes, x.dtype)]
        if makes:
            grads.append(tape.new(f"{weight.name}'s gradient", weight.axes, weight.dtype))
        loss = _Chunks(x, weight, since(self.release, _WAYS), makes=makes and flows, budget=self.budget).run()
        kept = tuple(g.detached() for g in grads)
        grads.clear()

        def back(g: Value) -> Grads:
            tape.new("one", (), "fp32")
            return (kept[0], kept[1] if makes else None)

        tape.record((loss,), (x, weight), back, kept)
        return loss


class _Chunks:
    """The forward pass over chunks of tokens, of as many logits as make up the hidden states' elements."""

    def __init__(self, x: Value, weight: Parameter, way: Way, *, makes: bool, budget: int) -> None:
        self.x = x
        self.tape: Tape = x.tape
        self.weight = weight
        self.way = way
        self.makes = makes
        self.rows = x.axes[0][1] * x.axes[1][1]
        self.width, self.words = x.axes[2][1], weight.axes[0][1]
        self.form = self.tape.autocast or x.dtype
        self.named: list[Value] = []
        self.chunk = chunk_size(self.rows, budget * self.width, self.words)
        if way == "one buffer":
            self.chunk = min(self.chunk, self.rows)

    def run(self) -> Value:
        """The loss."""
        tape = self.tape
        losses = tape.new("losses", (("T", self.rows),), "fp32")
        mask = tape.new("counted labels", (("T", self.rows),), "bool") if self.way != "cast up" else None
        tape.new("number of labels", (), "int64")
        casts = tape.autocast is not None and (self.x.dtype != self.form or self.weight.dtype != self.form)
        shared = None
        if self.way == "one buffer" and not casts and self.x.dtype == self.weight.dtype:
            shared = self._logits(self.chunk)
        logits: Value | None = None
        for start in range(0, self.rows, self.chunk):
            rows = min(self.chunk, self.rows - start)
            made = shared if shared is not None else self._product(rows)
            logits = made
            del made
            logits = self._step(logits, rows, shared=shared is not None)
            if self.way == "one buffer":
                logits = None
        shared = None
        self.named.clear()
        loss = tape.new("loss", (("X", 1),), "fp32")
        del losses, mask
        return loss

    def _logits(self, rows: int, dtype: str = "") -> Value:
        self.tape.category = "logits"
        made = self.tape.new("logits of a chunk", (("T", rows), ("V", self.words)), dtype or self.form)
        self.tape.category = "loss"
        return made

    def _cast(self, rows: int) -> list[Value]:
        """The chunk's hidden states as a matrix product takes them."""
        if self.x.dtype == self.form:
            return []
        return [self.tape.new("cast hidden states", (("T", rows), ("D", self.width)), self.form)]

    def _product(self, rows: int) -> Value:
        """Logits by a product of its own: autocast keeps no cast of a transposed weight."""
        held = self._cast(rows)
        if self.weight.dtype != self.form:
            held.append(self.tape.new("cast weight", self.weight.axes, self.form))
        return self._logits(rows)

    def _step(self, logits: Value, rows: int, *, shared: bool) -> Value:
        """What a chunk's logits, over which the kernel writes their gradient, make; returns what keeps their name."""
        tape = self.tape
        part: Axes = (("T", rows), ("D", self.width))
        if self.way == "cast up":
            logits = self._scaled(logits, rows)
        if not shared:
            held = self._cached()
            tape.new("gradient of a chunk", part, self.form)
            del held
        if self.makes:
            self._weight_gradient(rows)
        return logits

    def _cached(self) -> Value | None:
        """The weight as autocast casts it: kept for the rest of the forward pass where it is trained."""
        tape, weight = self.tape, self.weight
        if weight.dtype == self.form:
            return None
        held = tape.casts.get(weight.name)
        if held is None:
            held = tape.new(f"{weight.name} cast", weight.axes, self.form)
            if weight.trained:
                tape.casts[weight.name] = held
        return held

    def _scaled(self, logits: Value, rows: int) -> Value:
        """Releases before 0.5.0: logits in fp32, cast back, and multiplied by the chunk's share of the labels."""
        before, logits = logits, self._logits(rows, "fp32")
        del before
        return self._logits(rows)

    def _weight_gradient(self, rows: int) -> None:
        """What a chunk's part of the weight's gradient takes beside the gradient itself."""
        tape, own = self.tape, self.weight.dtype
        half = self.form in HALF
        if self.way == "cast up":
            return
        if self.way == "added from a cast":
            if self.x.dtype != self.form:
                self._logits(rows, self.x.dtype)
            return
        held = self._cast(rows)
        if half and (own == "fp32" or own == self.form) and self.way == "one buffer":
            return
        if half and own == "fp32" and self.way == "added in place":
            # Its name stands until the next chunk's is bound.
            self.named = held
            return
        apart = tape.new("weight gradient of a chunk", self.weight.axes, self.form)
        del held
        if half:
            tape.new("weight gradient in fp32", self.weight.axes, "fp32")
        del apart


def chunk_size(rows: int, width: int, words: int) -> int:
    """Tokens of a chunk: so few that their logits are about as many as all hidden states, up to a power of two.

    >>> chunk_size(16384, 4096, 32000)
    2048
    """
    return 1 << (-(-rows // -(-words // width)) - 1).bit_length()


class InPlace(Loss):
    """``LigerCrossEntropyFunction`` on the logits that transformers casts to fp32: their gradient is written over
    them."""

    shifts: bool = True

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """Mean cross entropy of the head's logits."""
        logits = head.forward(f, x)
        tape = f.tape
        tape.category = "loss"
        wide = ops.cast(logits, "fp32")
        names = [padded_labels(labels)] if self.shifts else []
        names += [shifted_labels(names[0], labels.axes)] if self.shifts else []
        return self.of_logits(wide)

    @staticmethod
    def of_logits(wide: Value) -> Value:
        """The loss of logits that are there."""
        tape, rows = wide.tape, wide.axes[:-1]
        losses = tape.new("losses", rows, wide.dtype)
        mask = tape.new("counted labels", rows, "bool")
        within = tape.new("labels that count", rows, "int64")
        tape.new("highest label", (), "int64")
        del within
        loss = tape.new("loss", (("X", 1),), wide.dtype)
        del losses, mask
        kept = wide.detached()

        def back(g: Value) -> Grads:
            tape.new("one", (), "fp32")
            return (kept,)

        tape.record((loss,), (wide,), back, (kept,))
        return loss
