"""Pictures of any shape, as rows of patches that are padded to one number, and what LFM2-VL makes of them.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/siglip2/modeling_siglip2.py
(Siglip2VisionEmbeddings, Siglip2VisionModel), lfm2_vl/modeling_lfm2_vl.py (Lfm2VlModel, Lfm2VlMultiModalProjector);
https://github.com/pytorch/pytorch/blob/v2.13.0/torch/csrc/autograd/functions/tensor.cpp (CopySlices).
"""

from __future__ import annotations

from collections.abc import Iterator

from tonnage.arch import ops
from tonnage.arch.activation import activate
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.model import Layer
from tonnage.arch.sight import crops
from tonnage.arch.sight.pictures import Eye, Pictures, pixels_of, scattered
from tonnage.arch.sight.towers import Table, numbered, through
from tonnage.arch.tape import Grads, Parameter, Tape, Value, needs_grad
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor

Shapes = tuple[tuple[int, int], ...]


class Resized(Table):
    """A learned table of places for a square of patches, resized to the shape of each crop."""

    def forward(self, f: Forward, shapes: Shapes, length: int) -> Value:
        """Places of every crop (axes ``B T D``), written into one tensor crop by crop, and into its padding."""
        tape, D = f.tape, ("D", self.D)
        table = self.rows_of(f)
        tape.several(table)
        whole = tape.new("places", (("B", len(shapes)), ("T", length), D), table.dtype)
        for rows, columns in shapes:
            resized = _resized(table, (("T", rows * columns), D))
            whole = _written(whole, resized, resized.axes)
            whole = _written(whole, ops.expand(ops.narrow(resized, (D,)), (D,)), (("T", length - rows * columns), D))
        tape.often.clear()
        return whole


def _resized(table: Parameter, axes: Axes) -> Value:
    """``F.interpolate`` of the table, whose gradient is as large as that."""
    tape, before, dtype = table.tape, table.axes, table.dtype
    out = tape.new("resized places", axes, dtype)
    tape.record((out,), (table,), lambda g: (tape.new("gradient of places", before, dtype),), ())
    return out


def _written(whole: Value, part: Value, axes: Axes) -> Value:
    """``whole[...] = part``: the gradient is copied whole, and the part of it as well."""
    tape, all_of_it, dtype = whole.tape, whole.axes, whole.dtype
    out = Value(whole.storage, all_of_it, dtype)
    flows = needs_grad(whole)

    def back(g: Value) -> Grads:
        rest = tape.new("gradient of what was written over", all_of_it, dtype)
        return rest if flows else None, tape.new("gradient of what was written", axes, dtype)

    tape.record((out,), (whole, part), back, ())
    return out


class Flexible(Record):
    """SigLIP 2's tower over patches that come as rows.

    Args:
        patches: the matrix over a patch.
        places: what is added to its output.
        path: of the list of layers.
        layer: one of them, under the names below it.
        count: how many there are.
        behind: norm of the last layer's output.
    """

    patches: Linear
    places: Resized
    path: str
    layer: Layer
    count: int
    behind: Norm

    def weights(self) -> Iterator[Tensor]:
        """All tensors of the tower."""
        parts = (self.patches, self.places, self.behind)
        layers = (t for layer in numbered(self.path, self.layer, self.count) for t in layer.weights())
        for t in (*(t for part in parts for t in part.weights()), *layers):
            yield Tensor(t.name, t.axes, "vision", t.dims, None, t.alias_of, t.dtype)

    def forward(self, f: Forward, pixels: Value, shapes: Shapes) -> Value:
        """Rows of patches (axes ``B T X``) to what is seen in them."""
        tape, (B, T, _) = f.tape, pixels.axes
        x = self.patches.forward(f, ops.cast(pixels, tape.form_of(self.patches.name)))
        if f.input_grads:
            tape.start(x, held=True)
        x = ops.add(x, self.places.forward(f, shapes, T[1]), "patches and places")
        if any(rows * columns < T[1] for rows, columns in shapes):
            f.masks[None] = tape.new("mask of patches", (B, ("X", 1), T, ("S", T[1])), "bool")
        y = through(f, x, numbered(self.path, self.layer, self.count))
        f.masks.clear()
        return self.behind.forward(f, y)


class Unshuffled(Eye):
    """Crops whose neighbouring patches become one token each (LFM2-VL).

    Args:
        tower: over the patches of a crop.
        factor: patches along a side that become one.
        norm: of these, where there is one.
        first, second: the matrices behind.
        act: between them.
        processor: how a picture is resized and cut.
    """

    tower: Flexible
    factor: int
    norm: Norm | None
    first: Linear
    second: Linear
    act: str
    processor: crops.Processor

    def pictures(self, count: int, size: str | None) -> Pictures:
        """Crops of pictures of so many pixels; of 512 x 512 where nothing is said."""
        width, height = pixels_of(size or "512x512")
        return Pictures(count, self.processor.crops(width, height))

    def tokens(self, pictures: Pictures) -> int:
        """Those of all crops."""
        return pictures.count * sum(rows * columns for rows, columns in pictures.patches) // self.factor**2

    def given(self, tape: Tape, ids: Value, pictures: Pictures) -> list[Value]:
        """Rows of pixels, their mask, and the shape of each crop."""
        B = ("B", ids.axes[0][1] * pictures.count * len(pictures.patches))
        T = ("T", max(self.processor.length, *(rows * columns for rows, columns in pictures.patches)))
        pixels = tape.new("pixels", (B, T, *self.tower.patches.ins), "fp32")
        return [
            pixels, tape.new("patches that are there", (B, T), "int32"), tape.new("shapes", (B, ("X", 2)), "int64"),
        ]  # fmt: skip

    def seen(self, f: Forward, ids: Value, x: Value, given: list[Value], pictures: Pictures) -> Value:
        """The embedding with what is seen."""
        shapes = pictures.patches * (ids.axes[0][1] * pictures.count)
        outputs = self.tower.forward(f, given[0], shapes)
        # Each crop goes through them by itself.
        for part in (self.norm, self.first, self.second):
            for t in part.weights() if part is not None else ():
                f.tape.several(f.tape.parameter(t.name, t.axes))
        found = [self._projected(f, outputs, shape) for shape in shapes]
        f.tape.often.clear()
        rows = sum(v.axes[0][1] for v in found)
        features = ops.cat(tuple(found), (("T", rows), found[0].axes[-1]), "what is seen")
        # What the tower's output holds has its names until the layers are through.
        f.frame += [outputs, *found]
        features = ops.cast(features, x.dtype)
        # The model's own output names it.
        f.around.append(features)
        return scattered(f, ids, x, features)

    def _projected(self, f: Forward, outputs: Value, shape: tuple[int, int]) -> Value:
        """One crop: its rows, without the padding, four neighbours as one, and the matrices behind."""
        (_, T, D), (rows, columns), n = outputs.axes, shape, self.factor
        crop = ops.narrow(ops.narrow(outputs, (T, D)), (("T", rows * columns), D))
        tokens = ("T", rows * columns // n**2)
        x = ops.copy(crop, (tokens, ("X", D[1] * n**2)), "neighbours as one")
        if self.norm is not None:
            x = self.norm.forward(f, x)
        x = activate(self.first.forward(f, x), self.act)
        return self.second.forward(f, x)
