"""Mamba in heads: the first Mamba with the projections to time step and states split into heads (Zamba).

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/zamba/modeling_zamba.py
(ZambaMambaMixer).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear
from tonnage.arch.tape import Value
from tonnage.arch.untraced import untold
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor


class MambaHeads(Record):
    """Selective state space whose ``I`` channels are ``N`` heads, each with its own small projections.

    Args:
        name: path of the module below its layer.
        D: residual width.
        N: heads.
        H: channels of a head.
        Z: state of a channel.
        C: tokens that the convolution sees.
        R: rank of the time step.
        bias: whether the projections in and out have one.
        conv_bias: whether the convolution has one.
    """

    working_set_modelled: ClassVar[bool] = False
    """Whether the default path's forward pass is modelled."""

    name: str
    D: int
    N: int
    H: int
    Z: int
    C: int
    R: int
    bias: bool = False
    conv_bias: bool = True

    def weights(self) -> Iterator[Tensor]:
        """Projections, decay and skip of every channel, convolution."""
        D: Axes = (("D", self.D),)
        N, H = ("N", self.N), ("H", self.H)
        heads: dict[str, Axes] = {
            "x_proj_weight": (N, ("X", self.R + 2 * self.Z), H),
            "dt_proj_weight": (N, H, ("R", self.R)),
            "dt_proj_bias": (N, H),
            "A_log": (N, H, ("Z", self.Z)),
            "D": (N, H),
        }
        for name, axes in heads.items():
            yield Tensor(f"{self.name}.{name}", axes, "mixer")
        yield Tensor(f"{self.name}.conv1d.weight", (N, H, ("X", 1), ("C", self.C)), "mixer", (2, 1, 1))
        if self.conv_bias:
            yield Tensor(f"{self.name}.conv1d.bias", (N, H), "mixer", (2,))
        yield from Linear(f"{self.name}.in_proj", D, (("X", 2), N, H), "mixer", self.bias).weights()
        yield from Linear(f"{self.name}.out_proj", (N, H), D, "mixer", self.bias).weights()

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """The convolution's last inputs and the recurrence, for any ``S``."""
        N, H = ("N", self.N), ("H", self.H)
        yield Tensor("conv_states", (("B", B), N, H, ("C", self.C)), "state")
        yield Tensor("recurrent_states", (("B", B), N, H, ("Z", self.Z)), "state", dtype="fp32")

    def forward(self, f: Forward, x: Value) -> Value:
        """Not modelled."""
        raise untold("a Mamba mixer in heads")
