"""Gemma 3n's layer: several residual streams of which one is worked on, a low-rank residual, sparse activations.

Every layer predicts all streams from what comes in, works on the active one, and corrects the others by how far it
came out from its prediction (AltUp). The streams come first of all axes.

References: arXiv:2301.13310 (AltUp); arXiv:2411.07501 (LAuReL); https://github.com/huggingface/transformers/blob/v5.23.0/
src/transformers/models/gemma3n/modeling_gemma3n.py (Gemma3nTextAltUp, Gemma3nTextLaurelBlock, Gemma3nTextMLP,
Gemma3nTextDecoderLayer)
"""

from __future__ import annotations

from collections.abc import Iterator

from tonnage.arch import ops
from tonnage.arch.activation import activate
from tonnage.arch.elements import regrouped, spread, within
from tonnage.arch.feedforward import Gated
from tonnage.arch.forward import Forward
from tonnage.arch.inplace import filled, onto_view
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.model import Layer
from tonnage.arch.tape import Value
from tonnage.arch.untraced import untold
from tonnage.errors import InputError
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor


class AltUp(Record):
    """What predicts ``M`` streams of width ``D``, and corrects them.

    Args:
        D: width of a stream.
        M: streams.
        scales: what the layer adds of its embedding is made of a scaled stream.
    """

    D: int
    M: int
    scales: bool = True

    def _correction(self) -> Linear:
        return Linear("altup.correction_coefs", (("X", self.M),), (("X", self.M),), "feed_forward")

    def _prediction(self) -> Linear:
        return Linear("altup.prediction_coefs", (("X", self.M),), (("X", self.M), ("X", self.M)), "feed_forward")

    def _router(self) -> Linear:
        return Linear("altup.modality_router", (("D", self.D),), (("X", self.M),), "feed_forward")

    def _norm(self) -> Norm:
        return Norm("altup.router_norm", (("D", self.D),), "rms-power")

    def weights(self) -> Iterator[Tensor]:
        """A scale, three matrices, a norm, a number."""
        yield Tensor("altup.correct_output_scale", (("D", self.D),), "feed_forward")
        yield Tensor("altup.router_input_scale", (), "buffer")
        for matrix in (self._correction(), self._prediction(), self._router()):
            yield from matrix.weights()
        yield from self._norm().weights()

    def _modalities(self, f: Forward, x: Value) -> Value:
        given = ops.scaled(self._norm().forward(f, x), "scaled input of the router")
        routed = self._router().forward(f, given)
        return ops.cast(ops.unary(ops.cast(routed, "fp32"), "tanh", saves="output"), x.dtype)

    def predict(self, f: Forward, x: Value) -> Value:
        """All streams, as the layer's input has them, mixed: axes ``M B T D``."""
        _, B, T, D = x.axes
        M = ("X", self.M)
        modalities = self._modalities(f, ops.narrow(x, (B, T, D)))
        coefficients = regrouped(self._prediction().forward(f, modalities), (B, T, M, M))
        found = ops.matmul(x, coefficients, (B, T, D, M), "predicted streams")
        found = onto_view(found, x)
        return ops.cast(ops.copy(ops.narrow(found, x.axes), label="predictions"), x.dtype)

    def correct(self, f: Forward, predictions: Value, activated: Value) -> Value:
        """The predictions, moved as far as the active one was."""
        M, B, T, D = predictions.axes
        modalities = self._modalities(f, activated)
        innovation = ops.sub(activated, ops.narrow(predictions, (B, T, D)), "innovation")
        innovation = ops.copy(innovation, predictions.axes, "innovation of every stream")
        weight = None
        if f.training or f.tape.recording:
            packed = None if f.tuning is None else f.tuning.packed
            if packed is not None and self._correction().name in packed.modules:
                raise InputError(
                    "transformers clamps the matrices of Gemma 3n's correction and prediction in training, which fails "
                    "where they are packed", key="quant", hint="--quant none; --optimizer adamw-8bit, --recompute full",
                )  # fmt: skip
            # In training those that correct are held within bounds, by a copy of their matrix that no adapter sees.
            matrix = self._correction()
            weight = within(f.tape.parameter(f"{matrix.name}.weight", (*matrix.outs, *matrix.ins)), both=True)
            coefficients = ops.matmul(modalities, weight, (B, T, M), "coefficients")
        else:
            coefficients = self._correction().forward(f, modalities)
        coefficients = ops.shifted(coefficients)
        corrected = ops.mul(innovation, coefficients, "corrected streams")
        return ops.add(corrected, predictions, in_place=True)

    def scaled(self, f: Forward, x: Value) -> Value:
        """The active stream, each of its numbers scaled."""
        scale = f.tape.parameter("altup.correct_output_scale", (("D", self.D),))
        return ops.cast(ops.mul(ops.cast(x, scale.dtype), scale, "scaled stream"), x.dtype)


class Laurel(Record):
    """A low-rank residual.

    Args:
        D: residual width.
        R: rank.
    """

    D: int
    R: int

    def _parts(self) -> tuple[Linear, Linear, Norm]:
        width, low = (("D", self.D),), (("R", self.R),)
        return (
            Linear("laurel.linear_left", width, low, "feed_forward"),
            Linear("laurel.linear_right", low, width, "feed_forward"),
            Norm("laurel.post_laurel_norm", width, "rms-power"),
        )

    def weights(self) -> Iterator[Tensor]:
        """Both matrices and the norm."""
        for part in self._parts():
            yield from part.weights()

    def forward(self, f: Forward, x: Value) -> Value:
        """``x + norm(right(left(x)))``."""
        left, right, norm = self._parts()
        low = left.forward(f, x)
        low = right.forward(f, low)
        added = norm.forward(f, low)
        return ops.add(x, added, "low-rank residual")


class SparselyGated(Gated):
    """A gated block whose parts keep their names, of whose gates few are let through where it is ``sparse``.

    A gate is let through as far as it lies above a cut that follows from mean and deviation of all.
    """

    sparse: bool = False

    def forward(self, f: Forward, x: Value) -> Value:
        """``down(act(gate(x)) * up(x))``."""
        matrices = self.matrices()
        gate = matrices[0].forward(f, x)
        if self.sparse:
            gate = self._largest(f, gate)
        activations = activate(gate, self.act)
        up = matrices[1].forward(f, x)
        return matrices[2].forward(f, ops.mul(activations, up, "gated"))

    def _largest(self, f: Forward, x: Value) -> Value:
        tape = f.tape
        share = tape.new("share that is cut", (), "fp32")
        passing = [tape.new("number", (), "fp32") for _ in range(2)]
        del passing
        number = tape.new("number", (), "fp32")
        multiplier = ops.cast(number, x.dtype, "multiplier of the deviation")
        del number
        average = ops.mean(x)
        deviation = spread(x)
        moved = ops.mul(deviation, multiplier, "scaled deviation")
        cut = ops.add(average, moved, "cut")
        del moved
        out = ops.unary(ops.sub(x, cut, "above the cut"), "relu", saves="output")
        del share
        return out


class AltUpLayer(Layer):
    """A layer of several streams: attention, a feed-forward block, and the row that the layer adds to the others.

    Args:
        altup: of the streams.
        laurel: beside attention.
    """

    altup: AltUp = AltUp(D=1, M=1)
    laurel: Laurel = Laurel(D=1, R=1)

    def weights(self) -> tuple[Tensor, ...]:
        """The sublayers' tensors and those of the streams."""
        return (*super().weights(), *self.altup.weights(), *self.laurel.weights())

    def _sequential(self, f: Forward, x: Value) -> Value:
        if not f.tape.grad:
            raise untold("a layer of several streams, outside of a training step on the next token,")
        if f.again or (f.tuning is not None and f.tuning.bottleneck is not None):
            raise untold("a layer of several streams, of which parts are computed again or adapted,")
        attend, feed, own = self.sublayers
        assert attend.before is not None
        assert attend.after is not None
        assert feed.before is not None
        assert feed.after is not None
        M, *one = x.axes
        predictions = self.altup.predict(f, x)
        active = ops.narrow(predictions, tuple(one))
        normed = attend.before.forward(f, active)
        residual = self.laurel.forward(f, normed)
        attention = attend.after.forward(f, attend.block.forward(f, normed))
        gated = ops.add(active, attention, "stream and attention")
        both = ops.scaled(ops.add(gated, residual, "both residuals"), "mean of residuals")
        fed = feed.before.forward(f, both)
        through = feed.block.forward(f, fed)
        behind = feed.after.forward(f, through)
        activated = ops.add(both, behind, "residual stream")
        corrected = self.altup.correct(f, predictions, activated)
        hand = [ops.copy(ops.narrow(corrected, tuple(one)), label="first stream")]
        if self.altup.scales:
            hand.append(self.altup.scaled(f, hand.pop()))
        added = own.block.forward(f, hand.pop())
        others: Axes = (("X", M[1] - 1), *one)
        corrected = onto_view(corrected, added, others)
        # ``x[1:] += y`` writes what it has added once more.
        return filled(corrected, ops.narrow(corrected, others), others)
