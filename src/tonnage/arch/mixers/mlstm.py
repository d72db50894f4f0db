"""The matrix memory of xLSTM.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/xlstm/modeling_xlstm.py
(xLSTMLayer, xLSTMCache).
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


class MLstm(Record):
    """An LSTM whose memory is one matrix a head (arXiv:2405.04517).

    Args:
        name: path of the module below its layer.
        D: residual width.
        N: heads.
        H: width of a query and key head.
        VH: width of a value head.
        fused: queries, keys, values and output gates share a matrix, input and forget gates another.
        bias: whether the projections and the norm have one; the gates of input and forgetting always do.
    """

    working_set_modelled: ClassVar[bool] = False
    """Whether the default path's forward pass is modelled."""

    name: str
    D: int
    N: int
    H: int
    VH: int
    fused: bool = False
    bias: bool = False

    def weights(self) -> Iterator[Tensor]:
        """Projections, gates, norm over heads."""
        D: Axes = (("D", self.D),)
        N: Axes = (("N", self.N),)
        keys: Axes = (*N, ("H", self.H))
        values: Axes = (*N, ("H", self.VH))
        parts: dict[str, tuple[Axes, bool]] = {
            "q": (keys, self.bias),
            "k": (keys, self.bias),
            "v": (values, self.bias),
            "ogate_preact": (values, self.bias),
            "igate_preact": (N, True),
            "fgate_preact": (N, True),
        }
        if self.fused:
            parts = {
                "qkv_opreact": ((*N, ("X", 2 * self.H + 2 * self.VH)), self.bias),
                "ifgate_preact": ((("X", 2), *N), True),
            }
        for name, (rows, bias) in parts.items():
            yield from Linear(f"{self.name}.{name}", D, rows, "mixer", bias).weights()
        yield Tensor(f"{self.name}.multihead_norm.weight", values, "norm", (2,))
        if self.bias:
            yield Tensor(f"{self.name}.multihead_norm.bias", values, "norm", (2,))
        yield from Linear(f"{self.name}.out_proj", values, D, "mixer", self.bias).weights()

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """Matrix, norm and maximum of every head, for any ``S``: computed in fp32, kept in the model's format."""
        heads: Axes = (("B", B), ("N", self.N))
        yield Tensor("matrix", (*heads, ("H", self.H), ("X", self.VH)), "state")
        yield Tensor("norm", (*heads, ("H", self.H)), "state")
        yield Tensor("maximum", (*heads, ("X", 1)), "state")

    def forward(self, f: Forward, x: Value) -> Value:
        """Not modelled."""
        raise untold("a matrix LSTM")
