"""Prefix tuning (arXiv:2101.00190): trained keys and values that stand in every layer's cache before the tokens.

All layers' are rows of one table, or made of a smaller one by a network. They are laid out for each layer anew, and
their gradients wait for those of all layers: the steps before the layers come last in the backward pass.

Reference: https://github.com/huggingface/peft/blob/v0.21.2/src/peft/peft_model.py (get_prompt,
PeftModelForCausalLM.forward), tuners/prefix_tuning/model.py;
https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/cache_utils.py (DynamicCache, DynamicLayer)
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Parameter, Value
from tonnage.arch.tuning.virtual import masks
from tonnage.record import Record
from tonnage.tensors import Axes, Axis, Tensor

NAME = "prompt_encoder"


class Prefix(Record):
    """A table of keys and values.

    Args:
        tokens: how many stand before each sequence.
        layers: of the model.
        K: heads of keys and values of a layer.
        H: width of a head.
        dtype: format of the table.
        inner: width of the network that makes keys and values of the table's rows; 0 for none.
        windows: for each layer, whether it is cached by its window (Gemma); empty where all are cached alike.
        masked: the batch has a mask, before which one of the trained tokens is set.
    """

    tokens: int
    layers: int
    K: int
    H: int
    dtype: str
    inner: int = 0
    windows: tuple[bool, ...] = ()
    masked: bool = False

    @property
    def _row(self) -> Axis:
        """Keys and values of all layers for one token."""
        return ("X", self.layers * 2 * self.K * self.H)

    def _axes(self) -> Axes:
        return (("P", self.tokens), ("D", self.K * self.H) if self.inner else self._row)

    def _network(self) -> tuple[tuple[str, Axis, Axis], ...]:
        if not self.inner:
            return ()
        D, inner = ("D", self.K * self.H), ("F", self.inner)
        return (f"{NAME}.transform.0", D, inner), (f"{NAME}.transform.2", inner, self._row)

    def weights(self) -> tuple[Tensor, ...]:
        """The table, and the network's matrices with their biases."""
        found = [Tensor(f"{NAME}.embedding.weight", self._axes(), "embedding", dtype=self.dtype)]
        for name, ins, outs in self._network():
            found.append(Tensor(f"{name}.weight", (outs, ins), "embedding", (1, 1), dtype=self.dtype))
            found.append(Tensor(f"{name}.bias", (outs,), "embedding", (1,), dtype=self.dtype))
        return tuple(found)

    def begun(self, f: Forward, ids: Value) -> None:
        """Put keys and values, axes ``B K P H``, where the layers find them."""
        tape, B = ids.tape, ids.axes[0]
        rows: Axes = (B, ("P", self.tokens))
        f.cached = self.tokens
        table = Parameter(tape, f"{NAME}.embedding.weight", self._axes(), self.dtype, tape.grad)
        made = ops.embedding(tape.new("virtual tokens", rows, "int64"), table, self._axes()[1:])
        for i, (name, ins, outs) in enumerate(self._network()):
            weight = Parameter(tape, f"{name}.weight", (outs, ins), self.dtype, tape.grad)
            made = ops.linear(made, weight, Parameter(tape, f"{name}.bias", (outs,), self.dtype, tape.grad), 1, (outs,))
            if not i:
                made = ops.unary(made, "tanh", saves="output")
        made = ops.cast(made, tape.weights)
        layer: Axes = (("X", 2), rows[0], ("K", self.K), rows[1], ("H", self.H))
        made = _turned(made, (("L", self.layers), *layer))
        parts = ops.split(made, (layer,) * self.layers)
        places = tape.new("positions of virtual tokens", rows[1:], "int64") if self.windows else None
        tape.category = "kv_cache"
        for part, window in zip(parts, self.windows or (False,) * self.layers, strict=True):
            pair = ops.split(part, (layer[1:],) * 2)
            keys, values = (ops.cat((x,), x.axes, "prefix") for x in pair)
            if window:
                # Of what is cached, the last tokens are seen, here all.
                keys, values = ops.narrow(keys, keys.axes), ops.narrow(values, values.axes)
            f.prefixes.append((keys, values))
        tape.category = "activations"
        del places
        # Each window's size is a tensor of its cache.
        f.around += [tape.new("size of a window", (), "int64") for w in self.windows if w]
        if self.masked:
            f.around += masks(tape, (B, ("T", self.tokens)), (B, ("T", self.tokens + ids.axes[1][1])))

    def hooked(self, f: Forward) -> bool:
        """The model embeds the tokens as ever."""
        return True

    def scaled(self, f: Forward) -> bool:
        """The model embeds the tokens as ever."""
        return True

    def joined(self, f: Forward, x: Value) -> Value:
        """The embedded tokens as they are."""
        return x


def _turned(x: Value, axes: Axes) -> Value:
    """Layers before sequences: a view, whose gradient does not lie as the row's and is laid out anew."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = Value(x.storage, axes, dtype)
    tape.record((out,), (x,), lambda _: (tape.new("gradient laid out", before, dtype),), ())
    return out
