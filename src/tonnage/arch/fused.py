"""Liger's kernels: one operation each where transformers writes several.

Stated as their Python code allocates: what an ``autograd.Function`` saves, what it makes, and what it writes over.

References: https://github.com/linkedin/Liger-Kernel/blob/v0.8.5/src/liger_kernel/ops/ (rms_norm.py, rope.py, swiglu.py,
geglu.py), and those of older releases, of which ``_ROWWISE`` and ``_SPARES`` tell the differences.
"""

from __future__ import annotations

from typing import Final, Literal

from tonnage.arch.ops import summed
from tonnage.arch.tape import WIDTH, Grads, Parameter, Value, needs_grad
from tonnage.record import Record
from tonnage.releases import Since, Version, since
from tonnage.tensors import size

NEWEST: Final[Version] = (8, 5)
"""Release 0.8.5; a release of liger-kernel is its minor and patch number here."""

_ROWWISE: Final[Since[bool]] = (((4, 0), False), ((0, 0), True))
"""Whether every row of an RMS norm has a gradient of the weight of its own, which is summed; else every processor."""

_SPARES: Final[Since[bool]] = (((8, 5), True), ((0, 0), False))
"""Whether a frozen norm weight gets no gradient; else one is made and dropped."""


class Fused(Record):
    """Which operations of a model are replaced, and by which release.

    Args:
        release: of liger-kernel.
        norms: whether RMS norms are replaced, and whether their backward pass writes over the gradient that it is
            given.
        own: endings of the names of norms that the release leaves as they are.
        rope: rotary embeddings are replaced.
        gated: gated feed-forward blocks are.
        experts: routed experts are.
        processors: multiprocessors of the device.
        last: as ``norms``, for the norm behind the layers.
        wide: the norm computes in fp32 whatever it is given, for which releases before 0.4.0 take gradients in fp32.
    """

    release: Version = NEWEST
    norms: Literal["in place", "apart"] | None = None
    own: tuple[str, ...] = ()
    rope: bool = False
    gated: bool = False
    experts: bool = False
    processors: int = 132
    last: Literal["in place", "apart"] | None = None
    wide: bool = False

    def replaces(self, norm: str) -> bool:
        """Whether the norm of this name is replaced."""
        return self.norms is not None and not norm.endswith(self.own or ("\0",))

    def norm(self, x: Value, weight: Parameter, name: str = "") -> Value:
        """``LigerRMSNormFunction`` over the last axis: keeps what it was given, and a number a row in fp32."""
        tape, axes, dtype = x.tape, x.axes, x.dtype
        kept = _whole(x).detached()
        out = tape.new("norm output", axes, dtype)
        rstd = tape.new("norm rstd", axes[:-1], "fp32")
        makes = needs_grad(weight) or (tape.recording and not since(self.release, _SPARES))
        rowwise = since(self.release, _ROWWISE)
        over = (self.last or self.norms) if name == "model.norm" else self.norms
        rows = axes[:-1] if rowwise else (("X", self.processors),)
        parts = ((*rows, *weight.axes), weight.dtype if rowwise and not self.wide else "fp32")

        def back(g: Value) -> Grads:
            each = tape.new("weight gradient in parts", *parts) if makes else None
            grad = g if over == "in place" else tape.new("gradient of norm", axes, dtype)
            grad.storage.viewed = True
            total = None
            if each is not None:
                total = summed(each, "gradient of norm weight", weight.axes)
                if total.dtype != weight.dtype:
                    total = tape.new("gradient of norm weight", weight.axes, weight.dtype)
            return grad, total

        tape.record((out,), (x, weight), back, (kept, rstd), custom=True)
        return out

    def rotate(self, q: Value, k: Value, cosine: Value, sine: Value) -> tuple[Value, Value]:
        """``LigerRopeFunction``: turns queries and keys where they lie, and copies them where they lie otherwise."""
        tape = q.tape
        turned = tuple(_by_tokens(x) for x in (q, k))
        outs = tuple(Value(x.storage, x.axes, x.dtype) for x in turned)

        def back(*grads: Value) -> Grads:
            return tuple(_by_tokens(g) for g in grads)

        tape.record(outs, (q, k), back, (cosine, sine), custom=True)
        return outs[0], outs[1]

    def product(self, gate: Value, up: Value) -> Value:
        """``LigerSiLUMulFunction`` and ``LigerGELUMulFunction``: the gradients are written over what was saved."""
        tape = gate.tape
        a, b = _whole(gate), _whole(up)
        kept = a.detached(), b.detached()
        out = tape.new("gated", a.axes, a.dtype)

        def back(g: Value) -> Grads:
            return kept

        tape.record((out,), (gate, up), back, kept, custom=True)
        return out


def _whole(x: Value) -> Value:
    """``contiguous()`` inside of a function: a copy of what is a part of something larger."""
    if x.storage.nbytes == size(x.axes) * WIDTH[x.dtype]:
        return x
    return x.tape.new("contiguous copy", x.axes, x.dtype)


def _by_tokens(x: Value) -> Value:
    """The same with heads behind tokens, as the kernel takes it."""
    B, first, second, H = x.axes
    if first[0] in "NK" and 1 not in (first[1], second[1]):
        return x.tape.new("tokens first", (B, second, first, H), x.dtype)
    return _whole(x)
