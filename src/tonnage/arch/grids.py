"""Rotary tables of positions in three dimensions: time, height and width of an image's patches (arXiv:2409.12191).

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen2_vl/
modeling_qwen2_vl.py (Qwen2VLRotaryEmbedding), .../qwen3_vl/modeling_qwen3_vl.py (Qwen3VLTextRotaryEmbedding)
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Rotary
from tonnage.arch.tape import Value
from tonnage.tensors import Axes


class GridRotary(Rotary):
    """Angles of all three positions of every token, of which each part of a row takes one.

    Every sequence has a table of its own.

    Args:
        overwritten: the parts are written into the first table (Qwen3-VL); else they are joined to a new one.
    """

    overwritten: bool = False

    def forward(self, f: Forward, x: Value) -> None:
        """Put cosine and sine, in the format of ``x``, where the layers find them."""
        tape, (B, T), dtype = f.tape, x.axes[:2], self.dtype or x.dtype
        half = ("X", self.width // 2)
        grids: Axes = (("X", 3), B, T, half)
        angles = tape.new("rotary angles", grids, "fp32")
        cosine = ops.scaled(tape.new("cosine", grids, "fp32"))
        sine = ops.scaled(tape.new("sine", grids, "fp32"))
        sine = self._recomposed(sine)
        cosine = self._recomposed(cosine)
        f.rotary[self.key] = (ops.cast(cosine, dtype, "cosine table"), ops.cast(sine, dtype, "sine table"))
        del angles

    def _recomposed(self, x: Value) -> Value:
        _, B, T, (_, half) = x.axes
        if not self.overwritten:
            x = x.tape.new("parts of three tables", (B, T, ("X", half)), x.dtype)
        return x.tape.new("table of all parts, twice", (B, T, ("X", 2 * half)), x.dtype)
