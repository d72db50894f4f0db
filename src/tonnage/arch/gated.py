"""Attention whose output is weighed by a gate that the query projection makes with the queries (Qwen3-Next, Qwen3.5).

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen3_next/
modeling_qwen3_next.py (Qwen3NextAttention).
"""

from __future__ import annotations

from typing import ClassVar

from tonnage.arch import ops
from tonnage.arch.attention import GroupedQuery
from tonnage.arch.forward import Forward
from tonnage.arch.kernels import attend
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.parts import KeyValues, Parts
from tonnage.arch.rotate import rotate
from tonnage.arch.tape import Value
from tonnage.tensors import Axes


class GatedAttention(Parts):
    """Grouped-query attention with such a gate.

    Args:
        inner: what attends, between the projections.
        modelled: whether the forward pass is that of the modelled code.
    """

    module: ClassVar[str] = "attention"

    inner: GroupedQuery
    modelled: bool = True

    @property
    def causal(self) -> bool:
        """Later tokens are hidden."""
        return True

    def forward(self, f: Forward, x: Value) -> Value:
        """Self-attention over ``x``."""
        if not self.modelled or f.store is not None:
            return super().forward(f, x)
        rows, a = x.axes[:2], self.inner
        q_proj, k_proj, v_proj, o_proj = (p for p in self.parts if isinstance(p, Linear))
        q_norm, k_norm = (p for p in self.parts if isinstance(p, Norm))
        heads: Axes = (*rows, ("N", a.N), ("H", a.H))
        q, gate = ops.split(q_proj.forward(f, x), (heads, heads))
        gate = ops.copy(gate, label="gate")
        q = q_norm.forward(f, q)
        k = k_norm.forward(f, k_proj.forward(f, x))
        v = v_proj.forward(f, x)
        cosine, sine = f.rotary["default"]
        q, k = rotate(q, k, cosine, sine, a.rotary_width or a.H, keep=f.local)
        out = attend(f, a, q, k, v)
        out = ops.mul(out, ops.unary(gate, "sigmoid", saves="output"), "gated output", axes=out.axes)
        out = o_proj.forward(f, out)
        f.local.clear()
        return out


def parts(a: GroupedQuery, q_norm: Norm, k_norm: Norm) -> tuple[Linear | Norm | KeyValues, ...]:
    """Projections, norms and cache of such an attention."""
    width = (("D", a.D),)
    return (
        Linear(f"{a.name}.q_proj", width, (("N", a.N), ("X", 2), ("H", a.H)), "attention", a.bias),
        Linear(f"{a.name}.k_proj", width, (("K", a.K), ("H", a.H)), "attention", a.bias),
        Linear(f"{a.name}.v_proj", width, (("K", a.K), ("H", a.H)), "attention", a.bias),
        Linear(f"{a.name}.o_proj", (("N", a.N), ("H", a.H)), width, "attention", a.bias),
        q_norm,
        k_norm,
        KeyValues(K=a.K, H=a.H),
    )
