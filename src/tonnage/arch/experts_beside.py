"""A feed-forward block that every token goes through, beside routed experts that see the residual itself (Gemma 4).

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gemma4/modeling_gemma4.py
(Gemma4TextDecoderLayer).
"""

from __future__ import annotations

from typing import ClassVar

from tonnage.arch import ops
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Norm
from tonnage.arch.parts import Parts
from tonnage.arch.routing import routed
from tonnage.arch.tape import Value
from tonnage.errors import ConfigError


class ExpertsBeside(Parts):
    """Both, each between norms of its own.

    Args:
        before: norm of what the block itself is given.
        dense: the block that every token goes through.
        experts: routed by what the layer is given.
        norms: behind the block, before the experts and behind them.
    """

    module: ClassVar[str] = "moe"

    before: Norm
    dense: Gated
    experts: Experts
    norms: tuple[Norm, Norm, Norm]

    def forward(self, f: Forward, x: Value) -> Value:
        """Every token through the block and through its experts; what is added up keeps its names in the layer."""
        e, (behind_dense, before_experts, behind_experts) = self.experts, self.norms
        if e.used is None:
            raise ConfigError("top_k_experts is missing", key="top_k_experts")
        y = self.before.forward(f, x)
        y = self.dense.forward(f, y)
        first = behind_dense.forward(f, y)
        scores, weights, chosen = routed(e, f, x, e.used)
        # The name that stood for attention's weights passes over.
        f.weights.clear()
        f.held += [first, scores, weights, chosen]
        second = before_experts.forward(f, x)
        second = e.mixed(f, second, chosen, weights)
        second = behind_experts.forward(f, second)
        f.held.append(second)
        return ops.add(first, second, "dense and routed")
