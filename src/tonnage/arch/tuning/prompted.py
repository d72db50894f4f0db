"""Adaption prompts (LLaMA-Adapter, arXiv:2303.16199): trained tokens that queries of the upper layers see apart.

The layer's own attention is left as it is. Queries are made a second time, attend to keys and values of the trained
tokens with a softmax of their own, and what comes of it, behind a trained gate, is added to the output.

Reference: https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/adaption_prompt/ layer.py
(AdaptedAttention), utils.py (llama_compute_query_states)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tonnage.arch import eager, ops
from tonnage.arch.forward import Forward
from tonnage.arch.rotate import turned
from tonnage.arch.tape import Parameter, Value
from tonnage.arch.tuning import matrices
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor

if TYPE_CHECKING:
    from tonnage.arch.attention import GroupedQuery
    from tonnage.arch.layers import Linear


class Prompted(Record):
    """Prompts of the upper layers.

    Args:
        tokens: of a prompt.
        first: the lowest layer that has one.
        layers: of the model.
        width: of the residual stream.
    """

    tokens: int
    first: int
    layers: int
    width: int

    def weights(self, module: str) -> tuple[tuple[Tensor, int], ...]:
        """Prompt and gate of every layer that has them, in the weights' format, below the attention of that path."""
        names = (("adaption_prompt", self._axes()), ("adaption_gate", (("X", 1),)))
        return tuple((Tensor(f"{module}.{name}", axes, "attention"), self.layers - self.first) for name, axes in names)

    def _axes(self) -> Axes:
        return (("X", 1), ("S", self.tokens), ("D", self.width))

    def forward(self, f: Forward, a: GroupedQuery, x: Value, output: Value) -> Value:
        """The attention's output, axes ``B T D``, with what the prompt adds.

        Args:
            f: the pass.
            a: the attention.
            x: what it was given.
            output: what it made of it.
        """
        tape, B, N = f.tape, x.axes[0], ("N", a.N)
        to_queries, to_keys, to_values, out = a.matrices()
        prompt = Parameter(tape, f"{a.name}.adaption_prompt", self._axes(), tape.weights, tape.grad)
        key = to_keys.forward(f, _seen(prompt))
        value = to_values.forward(f, _seen(prompt))
        keys, values = self._spread(key, B), self._spread(value, B)
        keys, values = self._interleaved(keys, N), self._interleaved(values, N)
        queries = self._queries(f, a, x, to_queries, to_values)
        before = queries.dtype
        scores = ops.scaled(eager.product(queries, ops.cast(keys, before)), "scaled scores")
        gate = Parameter(tape, f"{a.name}.adaption_gate", (("X", 1),), tape.weights, tape.grad)
        scores = ops.mul(gate, ops.cast(ops.softmax(scores, dtype="fp32"), before), "gated weights")
        added = eager.tokens_first(eager.applied(scores, values))
        added = out.forward(f, added)
        output = ops.add(output, added, "output with the prompt's")
        return ops.cast(output, before)

    def _spread(self, x: Value, B: tuple[str, int]) -> Value:
        """``view(...).repeat(B, 1, 1, 1)``: a copy for every sequence."""
        return matrices.repeated(x, (B, *x.axes[1:]), "prompt of every sequence")

    def _interleaved(self, x: Value, N: tuple[str, int]) -> Value:
        """``repeat_interleave`` of the heads, which lie before tokens from there on; of a single one as well."""
        B, S, _, H = x.axes
        return ops.copy(x, (B, N, S, H), "repeated heads")

    def _queries(self, f: Forward, a: GroupedQuery, x: Value, to_queries: Linear, to_values: Linear) -> Value:
        """Queries, made again, and values, which nothing asks for."""
        q = to_queries.forward(f, x)
        steps = len(f.tape.nodes)
        unused = to_values.forward(f, x)
        # Their steps go when they do.
        dropped = f.tape.nodes[steps:]
        del f.tape.nodes[steps:]
        cosine, sine = f.rotary[str(a.rotary)]
        q = turned(q, cosine, sine)
        del unused, dropped
        return q


def _seen(prompt: Parameter) -> Value:
    """The prompt as a product of matrices takes it: autocast keeps one copy for both."""
    low = ops.lowered_weight(prompt)
    return matrices.taken(low) if isinstance(low, Parameter) else low
