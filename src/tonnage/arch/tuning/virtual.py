"""Prompt tuning (arXiv:2104.08691) and p-tuning (arXiv:2103.10385): trained tokens that stand before each sequence.

Reference: https://github.com/huggingface/peft/blob/v0.21.2/src/peft/peft_model.py (PeftModelForCausalLM.forward,
get_prompt), tuners/prompt_tuning/model.py and tuners/p_tuning/model.py
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Parameter, Tape, Value
from tonnage.record import Record
from tonnage.tensors import Axes, Axis, Tensor

NAME = "prompt_encoder.embedding.weight"


class Virtual(Record):
    """A table of trained tokens.

    Args:
        tokens: how many.
        width: of the word embedding.
        dtype: format of the table.
        inner: width of the network that makes the tokens of the table's rows (p-tuning); 0 for none.
        masked: the batch has a mask, before which one of the trained tokens is set.
    """

    tokens: int
    width: int
    dtype: str
    inner: int = 0
    masked: bool = False

    def weights(self) -> tuple[Tensor, ...]:
        """The table, and the network's matrices with their biases."""
        found = [Tensor(NAME, self._axes(), "embedding", dtype=self.dtype)]
        for name, ins, outs in self._network():
            found.append(Tensor(f"{name}.weight", (*outs, *ins), "embedding", (1, 1), dtype=self.dtype))
            found.append(Tensor(f"{name}.bias", outs, "embedding", (1,), dtype=self.dtype))
        return tuple(found)

    def _network(self) -> tuple[tuple[str, Axes, Axes], ...]:
        D, inner = ("D", self.width), ("F", self.inner)
        sides = ((D, inner), (inner, inner), (inner, D)) if self.inner else ()
        return tuple((f"prompt_encoder.mlp_head.{2 * i}", (a,), (b,)) for i, (a, b) in enumerate(sides))

    def _made(self, x: Value, B: Axis) -> Value:
        """Rows of the table through the network, once for each sequence."""
        tape, network = x.tape, self._network()
        for i, (name, ins, outs) in enumerate(network):
            weight = Parameter(tape, f"{name}.weight", (*outs, *ins), self.dtype, tape.grad)
            x = ops.linear(x, weight, Parameter(tape, f"{name}.bias", outs, self.dtype, tape.grad), 1, outs)
            if i < len(network) - 1:
                x = ops.unary(x, "relu", saves="output")
        return ops.copy(x, (B, *x.axes), "tokens of every sequence")

    def _axes(self) -> Axes:
        return (("P", self.tokens), ("D", self.width))

    def begun(self, f: Forward, ids: Value) -> None:
        """Nothing is made before the tokens are embedded."""

    def hooked(self, f: Forward) -> bool:
        """Whether the tokens are embedded by the module whose output is made to need a gradient."""
        return True

    def scaled(self, f: Forward) -> bool:
        """Whether the model's code multiplies what its embedding makes."""
        return True

    def joined(self, f: Forward, x: Value) -> Value:
        """The embedded tokens (axes ``B T D``) behind the trained ones; the labels grow as well."""
        tape, (B, (_, tokens), D) = x.tape, x.axes
        before: Axes = (B, ("T", self.tokens))
        whole: Axes = (B, ("T", tokens + self.tokens))
        f.around.append(tape.new("labels of virtual tokens", before, "int64"))
        f.labels = tape.new("labels", whole, "int64")
        table = Parameter(tape, NAME, self._axes(), self.dtype, tape.grad)
        indices = tape.new("virtual tokens", before, "int64")
        if self.inner:
            prompts = self._made(ops.embedding(indices.view(before[1:]), table, (D,)), B)
        else:
            prompts = ops.embedding(indices, table, (D,))
        del indices
        prompts = ops.cast(prompts, x.dtype)
        joined = ops.cat((prompts, x), (*whole, D), "embedding behind virtual tokens")
        f.around += [f.labels, prompts, joined]
        if self.masked:
            f.around += masks(tape, before, whole)
        return joined


def masks(tape: Tape, before: Axes, whole: Axes) -> list[Value]:
    """The mask of trained tokens, in fp32, and with the batch's behind it: peft's code names both through the pass."""
    return [tape.new("mask of virtual tokens", before, "fp32"), tape.new("mask with virtual tokens", whole, "fp32")]


class Read(Virtual):
    """The same before what an encoder reads: the table has as many rows for the decoder, which are made and not used.

    Args:
        apart: the encoder embeds its tokens by a module of its own, which peft does not call (Marian).

    Reference: PeftModelForSeq2SeqLM.forward; PromptEmbedding (``num_virtual_tokens * num_transformer_submodules``)
    """

    apart: bool = False

    def hooked(self, f: Forward) -> bool:
        """Whether the tokens are embedded by the module whose output is made to need a gradient."""
        return not self.apart or f.encoder is not None

    def scaled(self, f: Forward) -> bool:
        """Not what the encoder is handed, whose embedding its own code would multiply (Marian)."""
        return f.encoder is not None

    def joined(self, f: Forward, x: Value) -> Value:
        """The embedded tokens behind the trained ones; a decoder's as they are."""
        if f.encoder is not None:
            return x
        tape, (B, (_, tokens), D) = x.tape, x.axes
        table = Parameter(tape, NAME, self._axes(), self.dtype, tape.grad)
        indices = tape.new("virtual tokens", (B, ("T", self.tokens)), "int64")
        first = ops.embedding(indices.view(indices.axes[1:]), table, (D,))
        del indices
        prompts = [self._made(first, B)]
        del first
        prompts.append(ops.cast(prompts.pop(), x.dtype))
        taken = ops.narrow(prompts[0], (B, ("T", self.tokens // 2), D))
        joined = ops.cat((taken, x), (B, ("T", tokens + self.tokens // 2), D), "embedding behind virtual tokens")
        f.around += [*prompts, joined]
        return joined
