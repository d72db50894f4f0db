"""Layers of a language model that attend to what lies beside the text, through learned gates (Llama 3.2 Vision).

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/mllama/modeling_mllama.py
(MllamaTextCrossAttention, MllamaCrossAttentionDecoderLayer).
"""

from __future__ import annotations

from collections.abc import Iterator

from tonnage.arch import ops
from tonnage.arch.attention import GroupedQuery
from tonnage.arch.forward import Forward
from tonnage.arch.model import Layer
from tonnage.arch.tape import Value
from tonnage.record import Record
from tonnage.tensors import Tensor


class Seen(GroupedQuery):
    """Cross attention whose queries are normed before there are keys."""

    def _projected(self, f: Forward, x: Value) -> tuple[Value | None, Value, Value, Value]:
        assert f.encoder is not None
        assert self.q_norm is not None
        assert self.k_norm is not None
        q, k, v, _ = self.matrices()
        queries = self.q_norm.forward(f, q.forward(f, x))
        keys, values = k.forward(f, f.encoder), v.forward(f, f.encoder)
        return None, queries, self.k_norm.forward(f, keys), values


class Gate(Record):
    """A learned number through which a block's output comes: its hyperbolic tangent times the output.

    Args:
        name: of the tensor, below the layer.
        hides: rows that see nothing are set to zero before it.
    """

    name: str
    hides: bool = False

    def weights(self) -> Iterator[Tensor]:
        """One number."""
        yield Tensor(self.name, (("X", 1),), "attention")

    def forward(self, f: Forward, x: Value) -> Value:
        """``gate.tanh() * x``."""
        if self.hides and f.hidden is not None:
            x = ops.mul(f.hidden, x, "rows that see something", axes=x.axes)
        gate = f.tape.parameter(self.name, (("X", 1),))
        return ops.mul(ops.unary(gate, "tanh", saves="output"), x, "gated output", axes=x.axes)


class BesideText(Layer):
    """A layer over what lies beside the text, which the pass goes by where nothing does."""

    def passed_by(self, f: Forward) -> bool:
        """Where there is nothing to attend to."""
        return f.encoder is None

    def forward(self, f: Forward, x: Value) -> Value:
        """The layer's output."""
        return x if self.passed_by(f) else super().forward(f, x)
