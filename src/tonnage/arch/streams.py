"""Hyper-connections: several residual streams, mixed before every block and joined behind the last layer.

Weights that mix are worked out in fp32 from all streams of a token. The matrix that mixes the streams themselves is
made doubly stochastic by dividing it by the sums of its columns and rows in turns, each turn of which autograd keeps.

References: arXiv:2409.19606; arXiv:2512.24880; https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/
models/deepseek_v4/modeling_deepseek_v4.py (DeepseekV4HyperConnection, DeepseekV4HyperHead, DeepseekV4DecoderLayer)
"""

from __future__ import annotations

from collections.abc import Iterator

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Norm
from tonnage.arch.model import Layer
from tonnage.arch.tape import Grads, Parameter, Value, needs_grad
from tonnage.record import Record
from tonnage.tensors import Axes, Role, Tensor


class Mixer(Record):
    """What mixes ``M`` streams of width ``D`` before a block, and takes its output up behind it.

    Args:
        name: path of the module below its layer.
        D: width of a stream.
        M: streams.
        turns: of dividing by sums.
        role: what its tensors are for.
    """

    name: str
    D: int
    M: int
    turns: int
    role: Role

    def weights(self) -> Iterator[Tensor]:
        """A matrix for all weights, their shifts, three scales."""
        mixes = (2 + self.M) * self.M
        yield Tensor(f"{self.name}.fn", (("X", mixes), ("X", self.M), ("D", self.D)), self.role, (1, 2))
        yield Tensor(f"{self.name}.base", (("X", mixes),), self.role)
        yield Tensor(f"{self.name}.scale", (("X", 3),), self.role)

    def forward(self, f: Forward, x: Value) -> tuple[Value, Value, Value]:
        """Weights of the output, the matrix of the streams, and the block's input: one of all streams."""
        tape, (B, T), M = f.tape, x.axes[:2], ("X", self.M)
        ins, mixes = (("X", self.M), ("D", self.D)), (2 + self.M) * self.M
        fn = tape.parameter(f"{self.name}.fn", (("X", mixes), *ins))
        flat = rms_bare(ops.cast(_in_a_row(x), "fp32")).view((B, T, *ins))
        flat = ops.linear(flat, fn, None, 2, (("X", mixes),))
        square: Axes = (M, M)
        parts: tuple[Axes, ...] = ((B, T, M), (B, T, M), (B, T, *square))
        pre_w, post_w, comb_w = ops.split(flat, parts)
        pre_b, post_b, comb_b = _parts(tape.parameter(f"{self.name}.base", (("X", mixes),)), ((M,), (M,), square))
        pre_scale, post_scale, comb_scale = _parts(tape.parameter(f"{self.name}.scale", (("X", 3),)), ((), (), ()))
        pre = ops.add(ops.mul(pre_w, pre_scale, "scaled weights"), pre_b, "shifted weights")
        pre = ops.shifted(ops.unary(pre, "sigmoid", saves="output"))
        post = ops.add(ops.mul(post_w, post_scale, "scaled weights"), post_b, "shifted weights")
        post = ops.scaled(ops.unary(post, "sigmoid", saves="output"))
        comb = ops.add(ops.mul(comb_w, comb_scale, "scaled weights"), comb_b, "shifted weights")
        comb = ops.shifted(ops.softmax(comb, label="matrix of streams"))
        for _ in range(2 * self.turns - 1):
            comb = _divided(comb)
        whole = x.axes
        return post, comb, ops.cast(_summed(ops.mul(pre, x, "weighed streams", axes=whole), 2), x.dtype)

    def taken_up(self, x: Value, post: Value, comb: Value, out: Value) -> Value:
        """The streams, mixed, and the block's output in each."""
        form = x.dtype
        return ops.add(
            ops.mul(ops.cast(post, form), out, "output to streams", axes=x.axes),
            ops.matmul(ops.cast(comb, form), x, x.axes, "mixed streams"),
            "residual streams",
        )


class Streamed(Layer):
    """A layer of several residual streams, with a mixer for each of its sublayers.

    Args:
        mixers: as many as sublayers.
    """

    mixers: tuple[Mixer, ...] = ()

    def weights(self) -> tuple[Tensor, ...]:
        """The sublayers' tensors, each with its mixer's."""
        return tuple(
            t
            for sub, mixer in zip(self.sublayers, self.mixers, strict=True)
            for part in (sub.before, sub.block, mixer)
            if part is not None
            for t in part.weights()
        )

    def _sequential(self, f: Forward, x: Value) -> Value:
        # Every layer is handed the tables of all.
        for key in f.rotary:
            f.rotary.get(key)
        names: list[Value] = []
        for sub, mixer in zip(self.sublayers, self.mixers, strict=True):
            post, comb, one = mixer.forward(f, x)
            names[:3] = [post, comb, one]
            out = sub.output(f, one)
            del one
            x = mixer.taken_up(x, post, comb, out)
            # A name of its own for each block's output.
            names.append(out)
            del post, comb, out
            f.local.clear()
        return x


class JoinedNorm(Record):
    """What makes one of the streams behind the last layer, and the norm of that.

    The tensors that join are the model's own.

    Args:
        name: path of what joins.
        norm: behind it.
        M: streams.
    """

    name: str
    norm: Norm
    M: int

    def weights(self) -> Iterator[Tensor]:
        """The norm's."""
        yield from self.norm.weights()

    def forward(self, f: Forward, x: Value) -> Value:
        """Streams to one hidden state."""
        return self.norm.forward(f, self._joined(f, x))

    def _joined(self, f: Forward, x: Value) -> Value:
        tape, (_, _, M, D) = f.tape, x.axes
        flat = rms_bare(ops.cast(_in_a_row(x), "fp32")).view(x.axes)
        mixes = ops.linear(flat, tape.parameter(f"{self.name}.hc_fn", (M, M, D)), None, 2, (M,))
        (scale,) = _parts(tape.parameter(f"{self.name}.hc_scale", (("X", 1),)), ((),))
        (base,) = _parts(tape.parameter(f"{self.name}.hc_base", (M,)), ((M,),))
        pre = ops.add(ops.mul(mixes, scale, "scaled weights"), base, "shifted weights")
        pre = ops.shifted(ops.unary(pre, "sigmoid", saves="output"))
        out = ops.cast(_summed(ops.mul(pre, x, "weighed streams", axes=x.axes), 2), x.dtype)
        del flat, mixes
        return out


def _in_a_row(x: Value) -> Value:
    """A view of all streams as one, at which gradients are added up before they meet any other."""
    before = x.axes
    B, T, M, D = before
    out = Value(x.storage, (B, T, ("D", M[1] * D[1])), x.dtype)
    x.tape.record((out,), (x,), lambda g: (g.view(before),), ())
    return out


def rms_bare(x: Value) -> Value:
    """``x * rsqrt(x.float().square().mean(-1) + eps).to(x.dtype)``."""
    spread = ops.mean(ops.power(ops.cast(x, "fp32"), "square"))
    return ops.mul(x, ops.cast(ops.rsqrt(ops.shifted(spread)), x.dtype), "normalised")


def _parts(weight: Parameter, parts: tuple[Axes, ...]) -> tuple[Value, ...]:
    """Views of a weight, whose gradients are joined."""
    tape, axes, dtype = weight.tape, weight.axes, weight.dtype
    views = tuple(tape.new(f"part of {weight.name}", (("X", 0),), dtype).view(part) for part in parts)
    if len(parts) == 1:
        tape.record(views, (weight,), lambda g: (g.view(axes),), ())
    else:
        tape.record(views, (weight,), lambda *g: (tape.new("joined gradient", axes, dtype),), ())
    return views


def _summed(x: Value, axis: int) -> Value:
    """``x.sum(axis)``: its gradient is only seen as many."""
    tape, before = x.tape, x.axes
    after: Axes = before[:axis] + before[axis + 1 :]
    out = tape.new("sum over streams", after, x.dtype)
    tape.record((out,), (x,), lambda g: (g.view(before),), ())
    return out


def _divided(x: Value) -> Value:
    """``x / (x.sum(...) + eps)``: both are saved."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    few: Axes = (*axes[:2], axes[3])
    total = tape.new("sums", few, dtype)
    tape.record((total,), (x,), lambda g: (g.view(axes),), ())
    total = ops.shifted(total)
    out = tape.new("divided by sums", axes, dtype)
    flows = needs_grad(x)

    def back(g: Value) -> Grads:
        grad = tape.new("gradient of quotient", axes, dtype)
        parts = [tape.new("quotient", axes, dtype), tape.new("quotient, divided", axes, dtype)]
        other = tape.new("gradient of divisor", axes, dtype)
        parts.clear()
        return grad, ops.fitted(other, few, dtype)

    tape.record((out,), (x, total), back, (x, total) if flows else ())
    return out
