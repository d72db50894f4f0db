"""Pictures of any size as one row of patches, turned by row and column, each hidden from the others (Pixtral).

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/pixtral/modeling_pixtral.py
(PixtralVisionModel, PixtralVisionRotaryEmbedding, generate_block_attention_mask), image_processing_pixtral.py
(get_resize_output_image_size), processing_pixtral.py; mistral3/modeling_mistral3.py (Mistral3Model.get_image_features,
Mistral3PatchMerger), llava/modeling_llava.py.

Leaves out: what cuDNN takes for a convolution; copies of what lies across that the kernels of ``unfold`` make.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from tonnage.arch import ops
from tonnage.arch.activation import activate
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.model import Layer
from tonnage.arch.sight.pictures import Eye, Pictures, pixels_of, scattered
from tonnage.arch.sight.towers import Patches, chosen, kept, numbered, unseen
from tonnage.arch.tape import Tape, Value
from tonnage.errors import UnsupportedError
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor

TABLE = "patches"
"""Name of the tower's table of angles."""


class Row(Record):
    """The tower: all pictures of a batch are one sequence.

    Args:
        patches: the convolution.
        before: norm of its output.
        path: of the list of layers.
        layer: one of them, under the names below it.
        count: how many there are.
        angles: the table's buffers.
        width: of a head.
        image: the longest side of a picture. [pixel]
    """

    patches: Patches
    before: Norm
    path: str
    layer: Layer
    count: int
    angles: tuple[Tensor, ...]
    width: int
    image: int

    def weights(self) -> Iterator[Tensor]:
        """All tensors of the tower."""
        layers = (t for layer in numbered(self.path, self.layer, self.count) for t in layer.weights())
        for t in (*self.patches.weights(), *self.before.weights(), *self.angles, *layers):
            yield Tensor(t.name, t.axes, t.role if t.role == "buffer" else "vision", t.dims, None, t.alias_of, t.dtype)

    def states(self, f: Forward, pixels: Value, shape: tuple[int, int], taken: tuple[int, ...]) -> list[Value]:
        """Pictures of so many rows and columns of patches to what layers make of all of them (axes ``B T D``, one B).

        Raises:
            UnsupportedError: kernels that take bounds of pictures in place of a mask.
        """
        if f.kernel in ("flash_attention_2", "flex"):
            raise UnsupportedError(
                "flash-attn and flex attention over pictures that lie in one row are not modelled", key="attention",
                value=f.kernel, hint="--attention sdpa or eager",
            )  # fmt: skip
        tape, n, (rows, columns) = f.tape, pixels.axes[0][1], shape
        patched = self.patches.forward(f, pixels, rows * columns)
        T, D = ("T", n * rows * columns), patched.axes[-1]
        one: Axes = (("T", rows * columns), D)
        x = self.before.forward(f, ops.cat(ops.split(patched, (one,) * n), (("B", 1), T, D), "all patches"))
        # The tower's code names them to its end.
        grid = tape.new("rows", (("T", rows),), "int64"), tape.new("columns", (("T", columns),), "int64")
        places = tape.new("rows and columns of patches", (T, ("X", 2)), "int64")
        f.rotary[TABLE] = self._turns(f, T, x.dtype)
        f.masks[None] = tape.new("mask of pictures", (("B", 1), ("X", 1), T, ("S", T[1])), x.dtype)
        found, top, since = chosen(f, x, list(numbered(self.path, self.layer, self.count)), taken)
        kept([top, *unseen(f, since)], f.frame)
        del f.rotary[TABLE], patched, grid, places
        f.masks.clear()
        return found

    def _turns(self, f: Forward, T: tuple[str, int], dtype: str) -> tuple[Value, Value]:
        """Cosines and sines: half of the frequencies are of rows, half of columns."""
        tape, H = f.tape, self.width
        angles = tape.new("angles", (T, ("X", 2), ("X", H // 2)), "fp32")
        cosine, sine = (ops.scaled(tape.new(name, angles.axes, "fp32")) for name in ("cosine", "sine"))
        cosine, sine = (self._laid(v, T) for v in (cosine, sine))
        return ops.cast(cosine, dtype, "cosine table"), ops.cast(sine, dtype, "sine table")

    def _laid(self, v: Value, T: tuple[str, int]) -> Value:
        half = ops.cat((v,), (T, ("X", self.width // 2)), "rows, then columns")
        return ops.cat((half,), (T, ("X", self.width)), "the same twice")


class Merged(Eye):
    """Neighbouring patches become one, each picture by itself (Mistral 3), or each patch is one (Pixtral).

    Args:
        tower: over all pictures.
        taken: by how many layers.
        first, second: the matrices behind.
        act: between them.
        norm: before them, where there is one.
        factor: patches along a side that become one.
        merge: the matrix that does, behind the norm, where there is one.
    """

    tower: Row
    taken: tuple[int, ...]
    first: Linear
    second: Linear
    act: str
    norm: Norm | None = None
    factor: int = 1
    merge: Linear | None = None

    def pictures(self, count: int, size: str | None) -> Pictures:
        """Pictures of so many pixels; of the largest size where nothing is said."""
        longest, step = self.tower.image, self.tower.patches.side * self.factor
        width, height = pixels_of(size or f"{longest}x{longest}")
        ratio = max(width / longest, height / longest, 1)
        if ratio > 1:
            width, height = math.floor(width / ratio), math.floor(height / ratio)
        rows, columns = ((max(side, 1) - 1) // step + 1 for side in (height, width))
        return Pictures(count, ((rows * self.factor, columns * self.factor),))

    def tokens(self, pictures: Pictures) -> int:
        """Those of patches that are merged, and one behind each of their rows."""
        rows, columns = self._merged(pictures)
        return pictures.count * rows * (columns + 1)

    def _merged(self, pictures: Pictures) -> tuple[int, int]:
        ((rows, columns),) = pictures.patches
        return rows // self.factor, columns // self.factor

    def given(self, tape: Tape, ids: Value, pictures: Pictures) -> list[Value]:
        """Pixels, and the size of each picture."""
        n, side, ((rows, columns),) = ids.axes[0][1] * pictures.count, self.tower.patches.side, pictures.patches
        axes: Axes = (("B", n), ("C", self.tower.patches.channels), ("X", rows * side), ("X", columns * side))
        return [tape.new("pixels", axes, "fp32"), tape.new("sizes", (("B", n), ("X", 2)), "int64")]

    def seen(self, f: Forward, ids: Value, x: Value, given: list[Value], pictures: Pictures) -> Value:
        """The embedding with what is seen."""
        states = self.tower.states(f, given[0], pictures.patches[0], self.taken)
        kept(states, f.frame)
        n = given[0].axes[0][1]
        features = self._projected(f, states[0], n)
        del states
        # A tuple of pictures, which are joined.
        kept([features], f.frame)
        (_, tokens), D = features.axes
        apart = ops.split(features, ((("T", tokens // n), D),) * n)
        whole = features.axes
        del features
        found = ops.cast(ops.cat(apart, whole, "what is seen"), x.dtype)
        # The model's own output names it.
        f.around.append(found)
        return scattered(f, ids, x, found)

    def _projected(self, f: Forward, x: Value, n: int) -> Value:
        """Patches of all pictures (axes ``B T D``, one B) to tokens (axes ``T D``)."""
        if self.norm is not None and self.merge is not None:
            normed = self.norm.forward(f, x.view(x.axes[1:]))
            x = self.merge.forward(f, self._together(normed, n))
        y = self.second.forward(f, activate(self.first.forward(f, x), self.act))
        return y.view(y.axes[-2:])

    def _together(self, x: Value, n: int) -> Value:
        """Neighbours of each picture side by side, one picture behind the other."""
        (_, T), D = x.axes
        square = self.factor**2
        wide: Axes = (("T", T // n // square), ("X", D[1] * square))
        grids = tuple(ops.copy(part, wide, "patches side by side") for part in ops.split(x, ((("T", T // n), D),) * n))
        return ops.cat(grids, (("T", T // square), wide[1]), "all of them")
