"""Layers of one block alone: a plain feed-forward block, or experts without gates (Nemotron-H).

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/nemotron_h/
modeling_nemotron_h.py (NemotronHMLP, NemotronHMoE).
"""

from __future__ import annotations

from typing import ClassVar

from tonnage.arch import ops
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Plain
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear
from tonnage.arch.parts import Parts
from tonnage.arch.routing import routed
from tonnage.arch.tape import Value


class PlainAlone(Parts):
    """A feed-forward block that is all of a layer.

    Args:
        inner: the block.
    """

    inner: Plain

    def forward(self, f: Forward, x: Value) -> Value:
        """As the block's."""
        return self.inner.forward(f, x)


class UngatedExperts(Parts):
    """Routed experts of two matrices, in a latent of their own where there is one, and a shared one of the full width.

    Args:
        inner: the experts, as wide as what they are given.
        scored: the same as wide as what the router is given.
        latent: matrices to the experts' width and back; none where that is the full one.
        shared: what every token goes through.
    """

    module: ClassVar[str] = "moe"

    inner: Experts
    scored: Experts
    latent: tuple[Linear, ...]
    shared: Plain

    def forward(self, f: Forward, x: Value) -> Value:
        """Every token through the experts that the router chose for it, then through the shared one."""
        given = x
        assert self.inner.used is not None
        _, weights, chosen = routed(self.scored, f, x, self.inner.used)
        for matrix in self.latent[:1]:
            x = matrix.forward(f, x)
        x = self.inner.mixed(f, x, chosen, weights)
        for matrix in self.latent[1:]:
            x = matrix.forward(f, x)
        return ops.add(x, self.shared.forward(f, given), "routed and shared")
