"""Attention whose keys and values later layers of its kind may use again, and whose values are normed (Gemma 3n and 4).

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gemma4/modeling_gemma4.py
(Gemma4TextAttention) and gemma3n/modeling_gemma3n.py (Gemma3nTextAttention).
"""

from __future__ import annotations

from typing import ClassVar

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.forward import Forward
from tonnage.arch.kernels import attend
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.parts import Parts
from tonnage.arch.rotate import turned
from tonnage.arch.tape import Value
from tonnage.arch.untraced import untold


class SharingAttention(Parts):
    """Grouped-query attention of that kind: queries are made, normed and turned before keys are.

    Args:
        inner: what attends, between the projections.
        keys_first: keys are normed and turned before values are made (Gemma 3n).
        reuses: keys and values are those of an earlier layer.
        stores: later layers reuse its keys and values.
    """

    module: ClassVar[str] = "attention"

    inner: GroupedQuery
    keys_first: bool = False
    reuses: bool = False
    stores: bool = False

    @property
    def lends(self) -> str | None:
        """The name under which later layers find its keys and values."""
        return self.inner.rotary if self.stores else None

    @property
    def borrows(self) -> str | None:
        """The name under which it finds an earlier layer's."""
        return self.inner.rotary if self.reuses else None

    @property
    def causal(self) -> bool:
        """Later tokens are hidden."""
        return True

    def forward(self, f: Forward, x: Value) -> Value:
        """Self-attention over ``x`` and what is cached before it."""
        a = self.inner
        if (self.reuses or self.stores) and not f.tape.grad:
            # Of a prompt, the layers that reuse them may see the last token alone.
            raise untold(f"{self.what}, outside of a training step on the next token,")
        matrices = {m.name.rpartition(".")[2]: m for m in self.parts if isinstance(m, Linear)}
        norms = {n.name.rpartition(".")[2]: n for n in self.parts if isinstance(n, Norm)}
        q = matrices["q_proj"].forward(f, x)
        q = norms["q_norm"].forward(f, q)
        q = self._turned(f, q)
        if self.reuses:
            k, v = f.lent[a.rotary or ""]
        else:
            k, v = self._keys_and_values(f, x, matrices, norms)
            if f.store is not None:
                k, v = f.store((k, v), a.window)
        if self.stores:
            f.lent[a.rotary or ""] = k, v
        out = attend(f, a, q, k, v)
        out = matrices["o_proj"].forward(f, out)
        f.local.clear()
        return out

    def _keys_and_values(
        self, f: Forward, x: Value, matrices: dict[str, Linear], norms: dict[str, Norm]
    ) -> tuple[Value, Value]:
        a = self.inner
        bare = Norm(f"{a.name}.v_norm", (("H", a.H),), "rms-power", weight=False)
        k = matrices["k_proj"].forward(f, x)
        if self.keys_first:
            k = norms["k_norm"].forward(f, k)
            k = self._turned(f, k)
        v = matrices["v_proj"].forward(f, x) if "v_proj" in matrices else k
        if not self.keys_first:
            k = norms["k_norm"].forward(f, k)
            k = self._turned(f, k)
        v = bare.forward(f, v)
        return k, v

    def _turned(self, f: Forward, x: Value) -> Value:
        assert self.inner.rotary is not None
        cosine, sine = f.rotary[self.inner.rotary]
        # Tokens still lie before heads.
        return turned(x, cosine, sine, by_heads=False)
