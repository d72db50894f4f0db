"""What a model that hears puts before its encoder: two convolutions over features of sound, and fixed positions.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/whisper/modeling_whisper.py
(WhisperEncoder)

Leaves out: what cuDNN takes for a convolution.
"""

from __future__ import annotations

from collections.abc import Iterator

from tonnage.arch import ops
from tonnage.arch.ends import Stem
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Grads, Tape, Value, needs_grad
from tonnage.tensors import Axes, Tensor

STRIDE = 2
"""Of the second convolution: features are twice as long as what the encoder reads."""


class Sound(Stem):
    """The convolutions and what is added to their output.

    Args:
        path: of the encoder.
        channels: of the features.
    """

    path: str = ""
    channels: int = 80

    @property
    def tokens(self) -> int:
        """Rows that the encoder always reads."""
        return self.tables[0].rows

    def weights(self) -> Iterator[Tensor]:
        """Both convolutions, and the positions."""
        for name, width in (("conv1", self.channels), ("conv2", self.D)):
            yield Tensor(f"{self.path}.{name}.weight", (("D", self.D), ("X", width), ("C", 3)), "embedding")
            yield Tensor(f"{self.path}.{name}.bias", (("D", self.D),), "embedding")
        yield from super().weights()

    def features(self, tape: Tape, batch: int) -> Value:
        """What a batch holds in place of token ids."""
        axes: Axes = (("B", batch), ("C", self.channels), ("T", STRIDE * self.tokens))
        return tape.new("features", axes, tape.weights)

    def forward(self, f: Forward, ids: Value) -> Value:
        """Features (axes ``B C T``) to the first layer's input."""
        B, rows, D = ids.axes[0], ("T", self.tokens), ("D", self.D)
        x = self._convolved(f, "conv1", ids, (B, D, ids.axes[2]))
        if f.input_grads:
            f.tape.start(x, held=True)
        x = ops.unary(x, "gelu")
        x = ops.unary(self._convolved(f, "conv2", x, (B, D, rows)), "gelu")
        places = f.tape.new("positions", (rows,), "int64")
        table = f.tape.parameter(f"{self.tables[0].name}.weight", (("P", self.tokens), D))
        table.trained = False
        # The model's code names both to its end.
        f.frame += [x, places]
        x = ops.add(x.view((B, rows, D)), ops.embedding(places, table, (D,)), "sound and positions")
        return ops.dropout(x, self.dropout, f.training)

    def _convolved(self, f: Forward, name: str, x: Value, out: Axes) -> Value:
        """``nn.Conv1d``: keeps what it was given, also where its weights are frozen."""
        tape, width = f.tape, x.axes[1][1]
        weight = tape.parameter(f"{self.path}.{name}.weight", (("D", self.D), ("X", width), ("C", 3)))
        bias = tape.parameter(f"{self.path}.{name}.bias", (("D", self.D),))
        b, w = ops.lowered_weight(bias), ops.lowered_weight(weight)
        x = ops.lowered(x)
        made, before, form = tape.new(f"{name} output", out, x.dtype), x.axes, x.dtype
        flows, learns = needs_grad(x), weight.trained

        def back(g: Value) -> Grads:
            gx = tape.new("gradient of what was convolved", before, form) if flows else None
            if not learns:
                return gx, None, None
            gw = tape.new("weight gradient", weight.axes, form)
            return gx, gw, tape.new("bias gradient", bias.axes, form)

        kept = (w,) if isinstance(w, Value) else ()
        tape.record((made,), (x, w, b), back, (x, *kept))
        return made
