"""Layers whose residual is what their norms made, weighed as the blocks' outputs are (MiniMax-Text).

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/minimax/modeling_minimax.py
(MiniMaxDecoderLayer)
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.model import Layer
from tonnage.arch.tape import Value


class Weighed(Layer):
    """Every sublayer has a norm before it, which makes its residual too."""

    def _sequential(self, f: Forward, x: Value) -> Value:
        for sub in self.sublayers:
            assert sub.before is not None
            x = sub.before.forward(f, x)
            residual = x
            x = sub.block.forward(f, x)
            x = ops.add(ops.scaled(residual, "weighed residual"), ops.scaled(x, "weighed output"), "residual stream")
            f.local.clear()
        return x
