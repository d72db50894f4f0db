"""Layers whose input follows from their output, so that none of it is kept (RevNet, arXiv:1707.04585; Reformer).

One function of autograd's runs all of them. Its backward pass works each layer's input out again from its output, with
a graph of the layer alone, which is kept until the input is there.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/reformer/modeling_reformer.py
(ReformerLayer, ChunkReformerFeedForward, _ReversibleFunction)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import ClassVar

from tonnage.arch import ops
from tonnage.arch.activation import activate
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.model import Layer
from tonnage.arch.pieces import in_pieces
from tonnage.arch.sparse.adjacent import Adjacent
from tonnage.arch.tape import Grads, Node, Tape, Value
from tonnage.arch.untraced import untold
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor

Mark = Callable[[str], None]
"""Is told what begins."""


class InChunks(Record):
    """Norm and feed-forward block, over some tokens at a time.

    Args:
        name: path of the module below its layer.
        D: residual width.
        F: inner width.
        act: activation function.
        norm: of its input.
        dropout: before the activation function, and of the output.
        chunk: tokens that are run at a time; 0 for all of them.
    """

    working_set_modelled: ClassVar[bool] = False
    """Whether a pass that is not run again by its layer is modelled."""

    name: str
    D: int
    F: int
    act: str
    norm: Norm
    dropout: float = 0.0
    chunk: int = 0

    def matrices(self) -> tuple[Linear, Linear]:
        """Up and down."""
        D, F = (("D", self.D),), (("F", self.F),)
        return (
            Linear(f"{self.name}.dense.dense", D, F, "feed_forward", bias=True),
            Linear(f"{self.name}.output.dense", F, D, "feed_forward", bias=True),
        )

    def weights(self) -> Iterator[Tensor]:
        """The norm and both matrices."""
        yield from self.norm.weights()
        for matrix in self.matrices():
            yield from matrix.weights()

    def forward(self, f: Forward, x: Value) -> Value:
        """Refused: the layer runs it."""
        raise untold("a reversible layer")

    def run(self, f: Forward, x: Value) -> Value:
        """The block's output."""
        return in_pieces(partial(self._run, f), x, self.chunk)

    def _run(self, f: Forward, x: Value) -> Value:
        up, down = self.matrices()
        x = self._activated(f, up, self.norm.forward(f, x))
        x = down.forward(f, x)
        return ops.dropout(x, self.dropout, f.training)

    def _activated(self, f: Forward, up: Linear, given: Value) -> Value:
        x = ops.dropout(up.forward(f, given), self.dropout, f.training)
        return activate(x, self.act)


class Reversible(Layer):
    """A layer of two streams: attention of the second is added to the first, then the other way feed-forward."""

    reversible: ClassVar[bool] = True

    @property
    def attention(self) -> tuple[Norm, Adjacent]:
        """Its norm and its block."""
        first = self.sublayers[0]
        assert first.before is not None
        assert isinstance(first.block, Adjacent)
        return first.before, first.block

    @property
    def mlp(self) -> InChunks:
        """The feed-forward block."""
        block = self.sublayers[1].block
        assert isinstance(block, InChunks)
        return block

    def forward(self, f: Forward, x: Value) -> Value:
        """Refused: such a layer has two inputs."""
        raise untold("a reversible layer")

    def attend(self, f: Forward, x: Value, buckets: Value | None) -> tuple[Value, Value | None]:
        """Norm and attention, through whose end the norm's output is named."""
        norm, block = self.attention
        x = norm.forward(f, x)
        return block.attend(f, x, buckets)

    def ahead(self, f: Forward, first: Value, second: Value) -> tuple[Value, Value, Value | None]:
        """Both streams behind the layer, and what its attention keeps of the tokens' order."""
        attended, buckets = self.attend(f, second, None)
        first = ops.add(first, attended, "first stream")
        second = ops.add(second, self.mlp.run(f, first), "second stream")
        return first, second, buckets

    def back(
        self, f: Forward, streams: tuple[Value, Value], grads: tuple[Value, Value], buckets: Value | None
    ) -> tuple[tuple[Value, Value], tuple[Value, Value]]:
        """Streams before the layer and their gradients, from those behind it, which the caller goes on holding."""
        first, second = streams
        grad_first, grad_second = grads
        run = _Again(f.tape, first, lambda x: self.mlp.run(f, x), grad_second)
        second = ops.sub(second, run.output, "second stream, worked out")
        run.release()
        grad_first = ops.add(grad_first, run.gradient(), "gradient of first stream")
        run.forget()
        again = _Again(f.tape, second, lambda x: self.attend(f, x, buckets)[0], grad_first)
        first = ops.sub(first, again.output, "first stream, worked out")
        again.release()
        grad_second = ops.add(grad_second, again.gradient(), "gradient of second stream")
        again.forget()
        return (first, second), (grad_first, grad_second)


class _Again:
    """A part of a layer that is run with a graph of its own and back, ``retain_graph=True``.

    Args:
        tape: the model's.
        x: what it is given, which needs a gradient.
        run: the part.
        grad: of its output.
    """

    def __init__(self, tape: Tape, x: Value, run: Callable[[Value], Value], grad: Value) -> None:
        self._leaf: Node | None = Node((), lambda _: (), (), 1)
        floor = len(tape.nodes)
        given = Value(x.storage, x.axes, x.dtype, self._leaf)
        y = run(given)
        del given
        assert y.node is not None
        self._kept: list[object] = [(node.saved, node.back) for node in tape.nodes[floor:]]
        root = y.node, y.index
        self.output = y.detached()
        del y
        tape.backward(root, grad.detached(), floor)

    def release(self) -> None:
        """The output and its graph are gone."""
        del self.output
        self._kept.clear()

    def gradient(self) -> Value:
        """Of what it was given."""
        assert self._leaf is not None
        found = self._leaf.pending[0]
        assert found is not None
        return found

    def forget(self) -> None:
        """The gradient is gone as well."""
        self._leaf = None


def through(f: Forward, layers: Sequence[Reversible], paths: Sequence[str], x: Value, mark: Mark) -> Value:
    """``_ReversibleFunction.apply``: both streams side by side, axes ``B T 2D``, through all layers.

    Args:
        f: the pass.
        layers: in order.
        paths: before the names of each layer's parameters.
        x: both streams; the caller's.
        mark: is told where a layer's pass begins, forward and back.
    """
    tape = f.tape
    whole, (B, T, (_, both)) = x.axes, x.axes
    half: Axes = (B, T, ("D", both // 2))
    recording, tape.recording = tape.recording, False
    first, second = x.detached().view(half), x.detached().view(half)
    # Chunks of one tensor: which half is which makes no difference.
    kept: list[Value | None] = []
    for index, layer in enumerate(layers):
        mark(f"forward layer {index}")
        tape.prefix = paths[index]
        first, second, buckets = layer.ahead(f, first, second)
        kept.append(buckets)
        del buckets
    tape.prefix = ""
    out = tape.new("both streams", whole, ops.promoted(first.dtype, second.dtype))
    tape.recording = recording

    def back(g: Value) -> Grads:
        streams, grads = _streams(node_saved), (g.view(half), g.view(half))
        autocast, tape.autocast = tape.autocast, None
        for index in range(len(layers) - 1, -1, -1):
            mark(f"backward layer {index}")
            tape.prefix = paths[index]
            streams, grads = layers[index].back(f, streams, grads, kept[index])
        tape.prefix, tape.autocast = "", autocast
        return (tape.new("gradient of both streams", whole, grads[0].dtype),)

    node_saved = [first.detached(), second.detached()]
    tape.record((out,), (x,), back, tuple(v.detached() for v in node_saved), custom=True)
    tape.context += [b for b in kept if b is not None]
    del first, second
    return out


def _streams(saved: list[Value]) -> tuple[Value, Value]:
    """What was saved, which the step holds until it is through."""
    first, second = saved
    return first, second
