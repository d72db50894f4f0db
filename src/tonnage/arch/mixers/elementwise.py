"""Recurrences whose state is one number a channel: RG-LRU (Griffin) and WKV (RWKV-4).

References: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/recurrent_gemma/modeling_recurrent_gemma.py
(RecurrentGemmaRecurrentBlock), .../models/rwkv/modeling_rwkv.py (RwkvSelfAttention, RwkvFeedForward).
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


class Griffin(Record):
    """A convolution and a real-gated linear recurrent unit, beside a gate (arXiv:2402.19427).

    Args:
        name: path of the module below its layer.
        D: residual width.
        I: inner width.
        N: blocks of the unit's gates.
        C: tokens that the convolution sees.
    """

    working_set_modelled: ClassVar[bool] = False
    """Whether the default path's forward pass is modelled."""

    name: str
    D: int
    I: int  # noqa: E741
    N: int
    C: int

    def weights(self) -> Iterator[Tensor]:
        """Both branches, the projection out, the convolution and the unit's gates."""
        D: Axes = (("D", self.D),)
        channels: Axes = (("I", self.I),)
        yield from Linear(f"{self.name}.linear_y", D, channels, "mixer", True).weights()
        yield from Linear(f"{self.name}.linear_x", D, channels, "mixer", True).weights()
        yield from Linear(f"{self.name}.linear_out", channels, D, "mixer", True).weights()
        yield Tensor(f"{self.name}.conv_1d.weight", (*channels, ("X", 1), ("C", self.C)), "mixer")
        yield Tensor(f"{self.name}.conv_1d.bias", channels, "mixer")
        yield Tensor(f"{self.name}.rg_lru.recurrent_param", channels, "mixer")
        N, H = ("N", self.N), ("H", self.I // self.N)
        for gate in ("input_gate", "recurrent_gate"):
            yield Tensor(f"{self.name}.rg_lru.{gate}_weight", (N, H, H), "mixer")
            yield Tensor(f"{self.name}.rg_lru.{gate}_bias", (N, H), "mixer")

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """The convolution's inputs but for the newest, and a number a channel, for any ``S``."""
        yield Tensor("conv1d_state", (("B", B), ("I", self.I), ("C", self.C - 1)), "state")
        yield Tensor("recurrent_states", (("B", B), ("I", self.I)), "state", dtype="fp32")

    def forward(self, f: Forward, x: Value) -> Value:
        """Not modelled."""
        raise untold("a gated linear recurrent unit")


class TimeMix(Record):
    """RWKV's attention: keys and values summed with a decay of every channel (arXiv:2305.13048).

    Args:
        name: path of the module below its layer.
        D: residual width.
        I: inner width.
    """

    working_set_modelled: ClassVar[bool] = False
    """Whether the default path's forward pass is modelled."""

    name: str
    D: int
    I: int  # noqa: E741

    def weights(self) -> Iterator[Tensor]:
        """Decay, first step, mixing of neighbours, projections."""
        D: Axes = (("D", self.D),)
        channels: Axes = (("I", self.I),)
        for part in ("time_decay", "time_first"):
            yield Tensor(f"{self.name}.{part}", channels, "mixer")
        for part in ("key", "value", "receptance"):
            yield Tensor(f"{self.name}.time_mix_{part}", (("X", 1), ("X", 1), *D), "mixer")
            yield from Linear(f"{self.name}.{part}", D, channels, "mixer").weights()
        yield from Linear(f"{self.name}.output", channels, D, "mixer").weights()

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """The last token, and sum, norm and maximum of every channel: as wide as the model whatever ``I`` is."""
        axes: Axes = (("B", B), ("D", self.D))
        yield Tensor("last token", axes, "state")
        for part in ("numerator", "denominator", "maximum"):
            yield Tensor(part, axes, "state", dtype="fp32")

    def forward(self, f: Forward, x: Value) -> Value:
        """Not modelled."""
        raise untold("RWKV's attention")


class ChannelMix(Record):
    """RWKV's feed-forward block: it sees the token before as well.

    Args:
        name: path of the module below its layer.
        D: residual width.
        F: inner width.
    """

    working_set_modelled: ClassVar[bool] = False
    """Whether the default path's forward pass is modelled."""

    name: str
    D: int
    F: int

    def weights(self) -> Iterator[Tensor]:
        """Mixing of neighbours, projections."""
        D: Axes = (("D", self.D),)
        F: Axes = (("F", self.F),)
        for part in ("key", "receptance"):
            yield Tensor(f"{self.name}.time_mix_{part}", (("X", 1), ("X", 1), *D), "feed_forward")
        yield from Linear(f"{self.name}.key", D, F, "feed_forward").weights()
        yield from Linear(f"{self.name}.receptance", D, D, "feed_forward").weights()
        yield from Linear(f"{self.name}.value", F, D, "feed_forward").weights()

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """The last token, for any ``S``."""
        yield Tensor("last token", (("B", B), ("D", self.D)), "state")

    def forward(self, f: Forward, x: Value) -> Value:
        """Not modelled."""
        raise untold("RWKV's feed-forward block")
