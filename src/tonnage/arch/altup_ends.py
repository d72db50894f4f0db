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
from tonnage.arch.tape import Value
from tonnage.record import Record
from tonnage.tensors import Axes, Axis, Tensor


class AltUpStem(Stem):
    """The embedding as the first of several streams, and projections of it as the others, which the model names.

    Args:
        further: paths of the projections.
    """

    further: tuple[str, ...]

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
        M, *one = x.axes
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
