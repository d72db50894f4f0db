"""Bottleneck adapters between a layer's blocks and its residual stream (arXiv:1902.00751, arXiv:2005.00247).

Two trained matrices with an activation between them, behind the feed-forward block or behind attention as well, whose
input is the block's output, that with the residual added, or the residual.

Reference: https://github.com/adapter-hub/adapters/blob/v1.3.0/src/adapters/methods/ bottleneck.py
(bottleneck_layer_forward, compose_single), modeling.py (Adapter, ParallelAdapter); models/llama/modeling_llama.py

Leaves out: invertible adapters, fusion, gating, norms of their own, trained scaling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from tonnage.arch import ops
from tonnage.arch.activation import activate
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Norm
from tonnage.arch.tape import Parameter, Value
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor

Taken = Literal["output", "sum", "residual"]
"""What an adapter is given: the block's output (Houlsby), that and the residual (Pfeiffer), the residual (parallel)."""

ATTENTION: Final = "attention_adapters"
OUTPUT: Final = "output_adapters"


class Bottleneck(Record):
    """Adapters of every layer.

    Args:
        width: of the residual stream.
        inner: of the bottleneck.
        taken: what they are given.
        act: activation.
        dtype: of their weights.
        attention: behind attention as well.
    """

    width: int
    inner: int
    taken: Taken
    act: str
    dtype: str
    attention: bool

    def _tensors(self) -> Mapping[str, Axes]:
        D, F = ("D", self.width), ("F", self.inner)
        return {
            "adapter_down.0.weight": (F, D), "adapter_down.0.bias": (F,),
            "adapter_up.weight": (D, F), "adapter_up.bias": (D,),
        }  # fmt: skip

    @property
    def places(self) -> tuple[str, ...]:
        """Modules that have one, below the layer."""
        return (ATTENTION, OUTPUT) if self.attention else (OUTPUT,)

    def place(self, block: object) -> str:
        """The module that stands behind a block; empty where none does."""
        found = ATTENTION if getattr(block, "module", "") == "attention" else OUTPUT
        return found if found in self.places else ""

    def weights(self, layer: str, layers: int) -> tuple[tuple[Tensor, int], ...]:
        """Both matrices with their biases, below the layer of that path, with how often they stand."""
        return tuple(
            (Tensor(f"{layer}.{place}.{name}", axes, "feed_forward", dtype=self.dtype), layers)
            for place in self.places
            for name, axes in self._tensors().items()
        )

    def forward(self, f: Forward, place: str, x: Value, residual: Value, norm: Norm | None) -> Value:
        """The residual stream behind a block whose output is ``x``, axes ``B T D``.

        Args:
            f: the pass.
            place: the module that the adapter is.
            x: the block's output.
            residual: what it is added to.
            norm: of the sum; None where there is none.
        """
        given = x
        if self.taken == "sum":
            given = ops.add(x, residual, "output and residual")
            given = given if norm is None else norm.forward(f, given)
        elif self.taken == "residual":
            given = residual
        up = self._through(f, place, given)
        del given
        out = ops.add(up, x, "adapter and output")
        out = ops.add(out, residual, "residual stream")
        out = out if norm is None else norm.forward(f, out)
        f.local.clear()
        return out

    def _through(self, f: Forward, place: str, x: Value) -> Value:
        tape = f.tape
        made = {
            name: Parameter(tape, f"{place}.{name}", axes, self.dtype, tape.grad)
            for name, axes in self._tensors().items()
        }
        down, down_bias, up, up_bias = made.values()
        low = ops.linear(x, down, down_bias, 1, down.axes[:1])
        low = activate(low, self.act)
        high = ops.linear(low, up, up_bias, 1, up.axes[:1])
        return ops.scaled(high, "scaled output of the adapter")
