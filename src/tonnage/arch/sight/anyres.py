"""Pictures whole and in tiles, whose rows end in a learned vector (LLaVA-NeXT, LLaVA-OneVision).

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/llava_next/
modeling_llava_next.py (LlavaNextModel.get_image_features, pack_image_features, unpad_image),
processing_llava_next.py (_get_unpadded_features), image_processing_utils.py (select_best_resolution); the same of
llava_onevision.
"""

from __future__ import annotations

import math

from tonnage.arch import ops
from tonnage.arch.activation import activate
from tonnage.arch.forward import Forward
from tonnage.arch.sight.joined import Chosen
from tonnage.arch.sight.pictures import Pictures, pixels_of
from tonnage.arch.sight.towers import expanded, kept
from tonnage.arch.tape import Parameter, Tape, Value
from tonnage.tensors import Axes

SHRUNK = 1.1
"""Ratio of sides from which on there are too many patches."""


class Unpadded(Chosen):
    """The whole picture, and tiles of one of some shapes that it is brought to, without the padding of that.

    Args:
        shapes: heights and widths. [pixel]
        newline: name of the vector.
        most: tiles to whose patches those of more are made by ``interpolate``, where several pictures of a sequence are
            not cut (LLaVA-OneVision); None where neither is so.
    """

    shapes: tuple[tuple[int, int], ...]
    newline: str
    most: int | None = None

    def pictures(self, count: int, size: str | None) -> Pictures:
        """Pictures of so many pixels; of the largest shape where nothing is said."""
        if size is None:
            height, width = max(self.shapes, key=lambda shape: shape[0] * shape[1])
            size = f"{width}x{height}"
        pixels = pixels_of(size)
        rows, columns = self._tiles(*pixels) if self.most is None or count == 1 else (0, 0)
        return Pictures(count, ((self._side, self._side),) * (1 + rows * columns), pixels=pixels)

    @property
    def _side(self) -> int:
        return self.tower.image // self.tower.patches.side

    def _tiles(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of tiles: of the shape that most of a picture goes into, and the smallest of those."""
        best, most, least = self.shapes[0], 0, float("inf")
        for h, w in self.shapes:
            scale = min(w / width, h / height)
            area = min(int(width * scale) * int(height * scale), width * height)
            if area > most or (area == most and w * h - area < least):
                best, most, least = (h, w), area, w * h - area
        return best[0] // self.tower.image, best[1] // self.tower.image

    def _left(self, pictures: Pictures) -> tuple[int, int]:
        """Rows and columns of patches of all tiles, without padding."""
        width, height = pictures.pixels or (1, 1)
        rows, columns = (n * self._side for n in self._tiles(width, height))
        if width / height > columns / rows:
            return rows - (rows - int(round(height * (columns / width), 7))) // 2 * 2, columns
        return rows, columns - (columns - int(round(width * (rows / height), 7))) // 2 * 2

    def _shrunk(self, rows: int, columns: int) -> tuple[int, int]:
        """The same where there are too many of them."""
        ratio = 0.0 if self.most is None else math.sqrt(rows * columns / (self.most * self._side**2))
        return (int(rows // ratio), int(columns // ratio)) if ratio > SHRUNK else (rows, columns)

    def tokens(self, pictures: Pictures) -> int:
        """Those of the whole, of the tiles, and one behind each of their rows; one behind all where there are none."""
        if len(pictures.patches) == 1:
            return pictures.count * (self.rows + 1)
        rows, columns = self._shrunk(*self._left(pictures))
        return pictures.count * (self.rows + rows * (columns + 1))

    def given(self, tape: Tape, ids: Value, pictures: Pictures) -> list[Value]:
        """Pixels of the whole and the tiles, and the size of each picture."""
        n = ids.axes[0][1] * pictures.count
        pixels = self.tower.pixels(tape, n * len(pictures.patches))
        counts = () if self.most is None else (tape.new("pictures of sequences", ids.axes[:1], "int64"),)
        return [pixels, tape.new("sizes", (("B", n), ("X", 2)), "int64"), *counts]

    def seen(self, f: Forward, ids: Value, x: Value, given: list[Value], pictures: Pictures) -> Value:
        """The embedding with what is seen."""
        # Tiles that are there, joined.
        pixels = ops.copy(given[0])
        states, ends = self.tower.states(f, pixels, self.taken)
        kept(states, f.frame)
        features = self.second.forward(f, activate(self.first.forward(f, self._chosen(states)), self.act))
        packed = self._packed(f, features, pictures)
        del states, ends, pixels, features
        kept(packed, f.frame)
        if self.most is not None:
            # Looked for though there are none.
            f.frame.append(f.tape.new("tokens of videos", ids.axes, "bool"))
        (_, T), D = packed[0].axes
        return self.placed(f, ids, x, ops.cat(tuple(packed), (("T", T * len(packed)), D), "what is seen"))

    def _packed(self, f: Forward, features: Value, pictures: Pictures) -> list[Value]:
        """Rows of each picture: of the whole, then of the tiles as they lie."""
        (_, B), T, D = features.axes
        tiles = len(pictures.patches)
        weight = f.tape.parameter(self.newline, (D,))
        f.tape.several(weight)
        one: Axes = (("B", tiles), T, D)
        parts = ops.split(features, (one,) * (B // tiles))
        found = [self._of_one(part, weight, pictures) for part in parts]
        f.tape.often.clear()
        return found

    def _of_one(self, part: Value, weight: Parameter, pictures: Pictures) -> Value:
        (letter, n), T, D = part.axes
        if n == 1:
            x = ops.narrow(part, (T, D))
            end = ops.cast(expanded(weight, (("T", 1), D)), x.dtype)
            return ops.cat((x, end), (("T", T[1] + 1), D), "the whole and its end")
        whole, tiles = ops.narrow(part, (T, D)), ops.narrow(part, ((letter, n - 1), T, D))
        rows, columns = (of * self._side for of in self._tiles(*(pictures.pixels or (1, 1))))
        left: Axes = tuple(("T", of) for of in self._left(pictures))
        x = ops.copy(tiles, (D, ("T", rows), ("T", columns)), "tiles as they lie")
        x = x if left == x.axes[1:] else ops.narrow(x, (D, *left))
        rows, columns = self._shrunk(left[0][1], left[1][1])
        if (rows, columns) != (left[0][1], left[1][1]):
            left = ("T", rows), ("T", columns)
            x = _resized(x, (D, *left))
        ends = ops.cast(expanded(weight, (D, left[0], ("T", 1))), x.dtype)
        x = ops.cat((x, ends), (D, left[0], ("T", left[1][1] + 1)), "rows and their ends")
        del ends
        rest = x.view((("T", left[0][1] * (left[1][1] + 1)), D))
        del x
        return ops.cat((whole, rest), (("T", T[1] + rest.axes[0][1]), D), "the whole and the tiles")


def _resized(x: Value, axes: Axes) -> Value:
    """``F.interpolate``, whose gradient is as large as what it is of."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = tape.new("fewer patches", axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of patches", before, dtype),), ())
    return out
