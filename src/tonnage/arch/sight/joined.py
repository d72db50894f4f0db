"""Models whose pictures stand among the tokens: what is seen takes the place of the rows of one token.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/paligemma/
modeling_paligemma.py (PaliGemmaModel.forward), gemma3/modeling_gemma3.py (Gemma3Model.forward,
Gemma3MultiModalProjector); https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/LinearAlgebra.cpp
(should_fold).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.sight.pictures import Eye, Pictures, scattered
from tonnage.arch.sight.towers import Upright
from tonnage.arch.tape import Parameter, Tape, Value, needs_grad
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
        projector: the matrix behind the tower.
    """

    masks: ClassVar[bool] = True

    projector: Linear

    def tokens(self, pictures: Pictures) -> int:
        """A token for every patch."""
        return pictures.count * self.tower.rows

    def projected(self, f: Forward, outputs: Value) -> Value:
        """By one matrix."""
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
        weight = tape.parameter(self._matrix.name, self._matrix.axes)
        return ops.cast(_multiplied(normed, weight), before)


def _multiplied(x: Value, weight: Parameter) -> Value:
    """``torch.matmul``: rows that lie across are copied for a weight that is trained, else taken as they are."""
    outs = weight.axes[-1:]
    if not needs_grad(weight) or x.axes[0][1] == 1:
        return ops.linear(x, weight, None, 1, outs)
    # Cast before what is multiplied, and found again.
    ops.lowered_weight(weight)
    narrow = ops.lowered(x)
    return ops.linear(ops.copy(narrow, label="rows one behind the other"), weight, None, 1, outs)


def _averaged(x: Value, axes: Axes) -> Value:
    """``F.avg_pool2d``, which saves its input though it reads no more than its shape."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = tape.new("averaged patches", axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of patches", before, dtype),), (x,))
    return out


class Pooled(Joined):
    """Pictures that are seen whole, each by itself, as token types tell (Gemma 3).

    Args:
        projector: what stands behind the tower.
    """

    masks: ClassVar[bool] = True

    projector: Averaged

    def tokens(self, pictures: Pictures) -> int:
        """A token for every square of patches."""
        return pictures.count * self.projector.rows

    def projected(self, f: Forward, outputs: Value) -> Value:
        """Averaged, normed, multiplied."""
        return self.projector.forward(f, outputs)
