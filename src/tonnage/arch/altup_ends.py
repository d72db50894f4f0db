"""What makes several residual streams of Gemma 3n's embedding, and one of them behind its layers.

Each further stream is a projection of the first, brought to its magnitude.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gemma3n/modeling_gemma3n.py
(Gemma3nTextModel)
"""

from __future__ import annotations

from collections.abc import Iterator

from tonnage.arch import ops
from tonnage.arch.elements import divided, rooted, within
from tonnage.arch.ends import Stem
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.tape import Value, needs_grad
from tonnage.record import Record
from tonnage.tensors import Axes, Axis, Tensor


class Words(Record):
    """Embeddings of a tower's own tokens, which every token goes through, whether or not it is one of them.

    Args:
        name: path of the module.
        V: rows of its table.
        D: width of these.
        outs: residual width.
        last: ids have no bound above.
    """

    name: str
    V: int
    D: int
    outs: int
    last: bool = False

    def forward(self, f: Forward, ids: Value, x: Value) -> Value:
        """What is looked up where an id is one of its own, else ``x``."""
        tape, axes = f.tape, ids.axes
        either = [tape.new("ids on one side", axes, "bool") for _ in range(0 if self.last else 2)]
        mask = tape.new("ids of a tower", axes, "bool")
        del either
        filler = tape.new("id that stands for the others", (), "int64")
        own = tape.new("ids of a tower, and others", axes, "int64")
        del filler
        made = ops.cast(self._embedded(f, tape.new("ids from the first on", axes, "int64")), x.dtype)
        f.frame += [mask, own, made]
        return _either(mask, made, x)

    def _embedded(self, f: Forward, ids: Value) -> Value:
        width = (("X", self.D),)
        found = ops.embedding(ids, f.tape.parameter(f"{self.name}.embedding.weight", (("V", self.V), *width)), width)
        normed = Norm(f"{self.name}.hard_embedding_norm", width, "rms-power").forward(f, found)
        outs = (("D", self.outs),)
        projected = Linear(f"{self.name}.embedding_projection", width, outs, "vision").forward(f, normed)
        bare = Norm(f"{self.name}.embedding_post_projection_norm", outs, "rms-power", weight=False)
        return bare.forward(f, projected)


def _either(mask: Value, a: Value, b: Value) -> Value:
    """``torch.where(mask, a, b)``: saves the mask."""
    tape, axes, dtype = a.tape, a.axes, a.dtype
    out = tape.new("embeddings of both", axes, dtype)
    flows = needs_grad(a), needs_grad(b)

    def part() -> Value:
        zero = tape.new("zero", (), dtype)
        made = tape.new("gradient of a choice", axes, dtype)
        del zero
        return made

    tape.record((out,), (a, b), lambda g: tuple(part() if flow else None for flow in flows), (mask,))
    return out


class AltUpStem(Stem):
    """The embedding as the first of several streams, and projections of it as the others, which the model names.

    Args:
        further: paths of the projections.
        others: what else looks every token up, in the order that the code around the model asks it.
    """

    further: tuple[str, ...] = ()
    others: tuple[Words, ...] = ()

    def _met(self, f: Forward, ids: Value, x: Value) -> Value:
        if self.others and self.inner is not None:
            rows = self.inner.looked_up(f, ids)
            f.frame.append(rows)
            f.held.append(rows)
        for words in self.others:
            x = words.forward(f, ids, x)
        return x

    def stream(self, B: Axis, T: Axis) -> Axes:
        """Streams come first."""
        return ("X", 1 + len(self.further)), B, T, ("D", self.D)

    def _streamed(self, f: Forward, x: Value) -> Value:
        B, T, _ = x.axes
        target = _magnitude(x)
        streams, named = [x], list[Value]()
        for path in self.further:
            named[:] = [_projection(path, self.D).forward(f, x)]
            made, magnitude = _like(named[0], x.dtype, target)
            streams.append(made)
            named.append(magnitude)
            del made, magnitude
        out = ops.cat(tuple(streams), self.stream(B, T), "residual streams")
        f.rebound = streams[1:]
        f.frame += [*f.rebound, target, *named]
        return out


class AltUpNorm(Record):
    """One stream of several, and the norm of that.

    The projections are the model's own.

    Args:
        D: width of a stream.
        further: paths of the projections.
        norm: behind them.
    """

    D: int
    further: tuple[str, ...]
    norm: Norm

    def weights(self) -> Iterator[Tensor]:
        """The norm's."""
        yield from self.norm.weights()

    def forward(self, f: Forward, x: Value) -> Value:
        """Streams to one hidden state."""
        names: list[Value] = []
        return self.norm.forward(f, self._joined(f, x, names))

    def _joined(self, f: Forward, x: Value, names: list[Value]) -> Value:
        # The names of the streams before the layers are taken for those behind them.
        before = [f.tape.new("stream before the layers", v.axes, v.dtype) for v in f.rebound]
        f.rebound = []
        _, *one = x.axes
        target = _magnitude(ops.narrow(x, tuple(one)))
        streams, named = [ops.narrow(x, tuple(one))], list[Value]()
        del before[:-1]
        for path in self.further:
            named[:] = [_projection(path, self.D).forward(f, ops.narrow(x, tuple(one)))]
            before.clear()
            made, magnitude = _like(named[0], f.tape.weights, target)
            streams.append(made)
            named.append(magnitude)
            del made, magnitude
        stacked = ops.cat(tuple(streams), x.axes, "streams")
        names += [*streams[1:], target, *named]
        return _averaged(stacked, tuple(one))


def _projection(path: str, D: int) -> Linear:
    return Linear(path, (("D", D),), (("D", D),), "embedding")


def _magnitude(x: Value) -> Value:
    return ops.power(ops.mean(ops.power(x)), "power 1/2")


def _like(x: Value, dtype: str, target: Value) -> tuple[Value, Value]:
    """A stream of that magnitude, and its own magnitude."""
    x = ops.cast(x, dtype)
    magnitude = ops.mean(ops.power(x))
    magnitude = rooted(within(magnitude))
    return divided(ops.mul(x, target, "scaled stream"), magnitude, "stream"), magnitude


def _averaged(x: Value, axes: Axes) -> Value:
    """``x.mean(0)``."""
    tape, whole, dtype = x.tape, x.axes, x.dtype
    out = tape.new("mean of streams", axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of mean", whole, dtype),), ())
    return out
