"""A gated convolution over a few tokens, in the place of attention (LFM2).

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/lfm2/modeling_lfm2.py
(Lfm2ShortConv).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear
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

    def weights(self) -> Iterator[Tensor]:
        """Projections in (both gates and the channels) and out, convolution."""
        D, channels = ("D", self.D), ("I", self.D)
        yield Tensor(f"{self.name}.conv.weight", (channels, ("X", 1), ("C", self.C)), "mixer")
        if self.bias:
            yield Tensor(f"{self.name}.conv.bias", (channels,), "mixer")
        yield from Linear(f"{self.name}.in_proj", (D,), (("X", 3), channels), "mixer", self.bias).weights()
        yield from Linear(f"{self.name}.out_proj", (channels,), (D,), "mixer", self.bias).weights()

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """The convolution's last inputs, for any ``S``."""
        yield Tensor("conv_states", (("B", B), ("I", self.D), ("C", self.C)), "state")

    def forward(self, f: Forward, x: Value) -> Value:
        """Not modelled."""
        raise untold("a short convolution")
