"""Lightning attention: linear attention with one fixed decay a head.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/minimax/modeling_minimax.py
(MiniMaxLightningAttention, MiniMaxCache).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.tape import Value
from tonnage.arch.untraced import untold
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor


class Lightning(Record):
    """Lightning attention (arXiv:2401.04658): a state of one matrix a head, and fixed decays as buffers.

    Args:
        name: path of the module below its layer.
        D: residual width.
        N: heads.
        H: width of a head.
        block: tokens that are worked through at once.
    """

    working_set_modelled: ClassVar[bool] = False
    """Whether the default path's forward pass is modelled."""

    name: str
    D: int
    N: int
    H: int
    block: int

    def weights(self) -> Iterator[Tensor]:
        """Projections, output gate and norm; decays of every head within a block."""
        D: Axes = (("D", self.D),)
        heads: Axes = (("N", self.N), ("H", self.H))
        yield from Linear(f"{self.name}.qkv_proj", D, (("N", self.N), ("X", 3), ("H", self.H)), "mixer").weights()
        yield from Linear(f"{self.name}.output_gate", D, heads, "mixer").weights()
        yield from Norm(f"{self.name}.norm", heads).weights()
        yield from Linear(f"{self.name}.out_proj", heads, D, "mixer").weights()
        one, tokens = ("X", 1), ("X", self.block)
        buffers: dict[str, Axes] = {
            "slope_rate": (("N", self.N), one, one),
            "query_decay": (("N", self.N), tokens, one),
            "key_decay": (("N", self.N), tokens, one),
            "diagonal_decay": (one, ("N", self.N), tokens, tokens),
        }
        for name, axes in buffers.items():
            yield Tensor(f"{self.name}.{name}", axes, "buffer")

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """A matrix a head, for any ``S``, in the format of the decays: the one that the model is loaded in."""
        axes: Axes = (("B", B), ("N", self.N), ("H", self.H), ("X", self.H))
        yield Tensor("linear_cache", axes, "state")

    def forward(self, f: Forward, x: Value) -> Value:
        """Not modelled."""
        raise untold("lightning attention")
