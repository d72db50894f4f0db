"""Short convolutions over the tokens of a channel, added to what they were given; their last inputs are kept.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/inkling2/modeling_inkling2.py
(Inkling2ShortConvolution, Inkling2DynamicShortConvolution).
"""

from __future__ import annotations

from collections.abc import Iterator

from tonnage.arch.layers import Linear
from tonnage.record import Record
from tonnage.tensors import Axes, Role, Tensor


class ShortConvolution(Record):
    """A filter of ``C`` numbers a channel, and for dynamic ones an addition that every token makes for a head.

    Args:
        name: path of the module below its layer.
        channels: axes of the channels.
        C: tokens that it sees.
        role: what it is part of.
        D: width of what dynamic filters are made from; None for fixed ones.
    """

    name: str
    channels: Axes
    C: int
    role: Role = "attention"
    D: int | None = None

    def weights(self) -> Iterator[Tensor]:
        """The filter, and the matrix that makes what is added to it."""
        taps, merged = ("C", self.C), len(self.channels)
        if self.D is None:
            yield Tensor(f"{self.name}.conv1d.weight", (*self.channels, ("X", 1), taps), self.role, (merged, 1, 1))
            return
        yield Tensor(f"{self.name}.static_weight", (taps, *self.channels), self.role, (1, merged))
        heads = (self.channels[0], taps)
        yield from Linear(f"{self.name}.weight_proj", (("D", self.D),), heads, self.role).weights()

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """The last inputs in fp32, as many as the filter is long, for any ``S``."""
        yield Tensor("conv_states", (("B", B), *self.channels, ("C", self.C)), "state", dtype="fp32")
