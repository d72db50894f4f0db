"""Prompt tuning (arXiv:2104.08691): trained tokens that stand before each sequence.

Reference: https://github.com/huggingface/peft/blob/v0.21.2/src/peft/peft_model.py (PeftModelForCausalLM.forward,
get_prompt) and tuners/prompt_tuning/model.py
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Parameter, Value
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor

NAME = "prompt_encoder.embedding.weight"


class Virtual(Record):
    """A table of trained tokens.

    Args:
        tokens: how many.
        width: of the word embedding.
        dtype: format of the table.
    """

    tokens: int
    width: int
    dtype: str

    def weights(self) -> tuple[Tensor, ...]:
        """The table."""
        return (Tensor(NAME, self._axes(), "embedding", dtype=self.dtype),)

    def _axes(self) -> Axes:
        return (("P", self.tokens), ("D", self.width))

    def joined(self, f: Forward, x: Value) -> Value:
        """The embedded tokens (axes ``B T D``) behind the trained ones; the labels grow as well."""
        tape, (B, (_, tokens), D) = x.tape, x.axes
        before: Axes = (B, ("T", self.tokens))
        whole: Axes = (B, ("T", tokens + self.tokens))
        f.around.append(tape.new("labels of virtual tokens", before, "int64"))
        f.labels = tape.new("labels", whole, "int64")
        table = Parameter(tape, NAME, self._axes(), self.dtype, tape.grad)
        prompts = ops.embedding(tape.new("virtual tokens", before, "int64"), table, (D,))
        prompts = ops.cast(prompts, x.dtype)
        joined = ops.cat((prompts, x), (*whole, D), "embedding behind virtual tokens")
        f.around += [f.labels, prompts, joined]
        return joined
