"""Models whose pictures stand among the tokens: what is seen takes the place of the rows of one token.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/paligemma/
modeling_paligemma.py (PaliGemmaModel.forward), gemma3/modeling_gemma3.py (Gemma3Model.forward,
Gemma3MultiModalProjector), llava/modeling_llava.py (LlavaModel.get_image_features).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tonnage.arch import ops
from tonnage.arch.activation import activate
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.sight.pictures import Eye, Pictures, scattered
from tonnage.arch.sight.towers import Upright, kept
from tonnage.arch.tape import Tape, Value
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor


class Joined(Eye):
    """Pictures of one size, of which the rows of a tower become tokens.

    Args:
        tower: over a picture.
    """

    tower: Upright

    def given(self, tape: Tape, ids: Value, pictures: Pictures) -> list[Value]:
        """Pixels, and types of tokens where masks are made of them."""
        pixels = self.tower.pixels(tape, ids.axes[0][1] * pictures.count)
        return [pixels, *([tape.new("token types", ids.axes, "int64")] if self.masks else [])]

    def projected(self, f: Forward, outputs: Value) -> Value:
        """What the tower sees (axes ``B T D``) in the width of the language model."""
        raise NotImplementedError

    def seen(self, f: Forward, ids: Value, x: Value, given: list[Value], pictures: Pictures) -> Value:
        """The embedding with what is seen."""
        outputs = self.tower.forward(f, given[0])
        features = self.projected(f, outputs)
        # What the tower's output holds has its names until the layers are through.
        f.frame += [outputs, features]
        return self.placed(f, ids, x, features)

    def placed(self, f: Forward, ids: Value, x: Value, features: Value) -> Value:
        """The embedding with these rows."""
        features = ops.cast(features, x.dtype)
        # The model's own output names it.
        f.around.append(features)
        x = scattered(f, ids, x, features)
        if self.masks:
            # Which of them see each other, for the mask.
            f.frame.append(f.tape.new("blocks of tokens", ids.axes, "int64"))
        return x


class Prefixed(Joined):
    """Pictures before a prompt that is seen whole, as token types tell (PaliGemma).

    Args:
        projector: what stands behind the tower: one matrix.
    """

    masks: ClassVar[bool] = True

    projector: Linear | Averaged

    def tokens(self, pictures: Pictures) -> int:
        """A token for every patch."""
        return pictures.count * self.tower.rows

    def projected(self, f: Forward, outputs: Value) -> Value:
        """By what stands behind the tower."""
        return self.projector.forward(f, outputs)


class Averaged(Record):
    """Patches averaged by squares, normed, and multiplied by a matrix that is no module (Gemma 3).

    Args:
        name: path of the module.
        ins, outs: widths.
        side: patches along the side of a picture.
        square: patches along the side of what becomes one.
    """

    name: str
    ins: int
    outs: int
    side: int
    square: int

    @property
    def rows(self) -> int:
        """What a picture becomes."""
        return (self.side // self.square) ** 2

    @property
    def norm(self) -> Norm:
        """Of what is averaged."""
        return Norm(f"{self.name}.mm_soft_emb_norm", (("D", self.ins),), "rms-gemma")

    @property
    def _matrix(self) -> Tensor:
        return Tensor(f"{self.name}.mm_input_projection_weight", (("X", self.ins), ("D", self.outs)), "vision")

    def weights(self) -> Iterator[Tensor]:
        """The matrix and the norm."""
        yield self._matrix
        yield from (Tensor(t.name, t.axes, "vision", t.dims) for t in self.norm.weights())

    def forward(self, f: Forward, x: Value) -> Value:
        """Rows of patches (axes ``B T D``) to those of squares of them."""
        tape, before, (B, _, D) = f.tape, x.dtype, x.axes
        upright = ops.copy(x, (B, D, ("X", self.side), ("X", self.side)), "patches as a picture")
        pooled = _averaged(upright, (B, ("T", self.rows), D))
        normed = self.norm.forward(f, pooled)
        normed.laid = "across"
        weight = tape.parameter(self._matrix.name, self._matrix.axes)
        return ops.cast(ops.linear(normed, weight, None, 1, weight.axes[-1:]), before)


def _averaged(x: Value, axes: Axes) -> Value:
    """``F.avg_pool2d``, which saves its input though it reads no more than its shape."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = tape.new("averaged patches", axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of patches", before, dtype),), (x,))
    return out


class Pooled(Prefixed):
    """Pictures that are seen whole, each by itself, and averaged (Gemma 3)."""

    projector: Averaged

    def tokens(self, pictures: Pictures) -> int:
        """A token for every square of patches."""
        return pictures.count * self.projector.rows


class Chosen(Joined):
    """Pictures as some layers of the tower see them (LLaVA).

    Args:
        taken: by how many layers, for each that stands beside another in a row.
        cuts: the first row is left out.
        first, second: the matrices behind.
        act: between them.
    """

    taken: tuple[int, ...]
    cuts: bool
    first: Linear
    second: Linear
    act: str

    def tokens(self, pictures: Pictures) -> int:
        """A token for every row that is not left out."""
        return pictures.count * self.rows

    @property
    def rows(self) -> int:
        """What a picture becomes."""
        return self.tower.rows - self.cuts

    def seen(self, f: Forward, ids: Value, x: Value, given: list[Value], pictures: Pictures) -> Value:
        """The embedding with what is seen."""
        states, ends = self.tower.states(f, given[0], self.taken)
        kept(states, f.frame)
        chosen = self._chosen(states)
        features = self.second.forward(f, activate(self.first.forward(f, chosen), self.act))
        del states, chosen, ends
        # A list of pictures, which are joined.
        kept([features], f.frame)
        (_, B), (_, T), D = features.axes
        one = (("T", T), D)
        pictured = ops.split(features, (one,) * B)
        del features
        return self.placed(f, ids, x, ops.cat(pictured, (("T", B * T), D), "what is seen"))

    def _chosen(self, states: list[Value]) -> Value:
        """Rows that go on, layers beside one another."""
        B, _, D = states[0].axes
        axes: Axes = (B, ("T", self.rows), D)
        parts = tuple(ops.narrow(v, axes) if self.cuts else v for v in states)
        if len(parts) > 1:
            return ops.cat(parts, (*axes[:2], ("X", D[1] * len(parts))), "layers side by side")
        # Without a first row that is joined to them, rows lie as the convolution made them.
        parts[0].laid = "slice" if self.cuts else "across" if self.tower.first is None else ""
        return parts[0]
