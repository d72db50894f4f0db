"""A gated convolution over a few tokens, in the place of attention (LFM2).

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/lfm2/modeling_lfm2.py
(Lfm2ShortConv).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear
from tonnage.arch.mixers import scan
from tonnage.arch.tape import Value
from tonnage.arch.untraced import untold
from tonnage.record import Record
from tonnage.tensors import Tensor


class ShortConv(Record):
    """Two gates around a causal convolution of every channel by itself.

    Args:
        name: path of the module below its layer.
        D: residual width.
        C: tokens that the convolution sees.
        bias: whether the projections and the convolution have one.
    """

    working_set_modelled: ClassVar[bool] = False
    """Whether the default path's forward pass is modelled."""

    name: str
    D: int
    C: int
    bias: bool = False

    def matrices(self) -> tuple[Linear, Linear]:
        """To both gates and the channels, and back."""
        D, channels = (("D", self.D),), (("I", self.D),)
        return (
            Linear(f"{self.name}.in_proj", D, (("X", 3), *channels), "mixer", self.bias),
            Linear(f"{self.name}.out_proj", channels, D, "mixer", self.bias),
        )

    def weights(self) -> Iterator[Tensor]:
        """Convolution and projections."""
        channels = ("I", self.D)
        yield Tensor(f"{self.name}.conv.weight", (channels, ("X", 1), ("C", self.C)), "mixer")
        if self.bias:
            yield Tensor(f"{self.name}.conv.bias", (channels,), "mixer")
        for matrix in self.matrices():
            yield from matrix.weights()

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """The convolution's last inputs, for any ``S``."""
        yield Tensor("conv_states", (("B", B), ("I", self.D), ("C", self.C)), "state")

    def forward(self, f: Forward, x: Value) -> Value:
        """In operations of torch: tokens stay before channels in memory, so that no transposition copies."""
        if f.store is not None and not f.tape.grad:
            raise untold("a short convolution outside of a training step")
        into, out = self.matrices()
        packed = into.forward(f, x)
        rows, channels = x.axes[:2], ("I", self.D)
        turned = (rows[0], channels, rows[1])
        b, c, x = ops.split(packed, (turned,) * 3)
        x = ops.mul(b, x, "gated channels")
        if f.store is not None:
            f.store((f.tape.new("last inputs", (*turned[:2], ("C", self.C)), x.dtype),), None)
        x = scan.convolution(f.tape, x, f"{self.name}.conv", self.C, self.bias, "")
        if f.store is not None:
            x = ops.narrow(x, x.axes)
        y = ops.mul(c, x, "gated convolution")
        return out.forward(f, y.view((*rows, channels)))
