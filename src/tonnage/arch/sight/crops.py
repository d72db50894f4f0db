"""How a processor resizes a picture, and cuts it.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/lfm2_vl/
image_processing_lfm2_vl.py (Lfm2VlImageProcessor).
"""

from __future__ import annotations

import math

from tonnage.record import Record


class Processor(Record):
    """LFM2-VL's, by the names of its settings.

    Args:
        patch: side of a patch. [pixel]
        factor: patches along a side that become one token.
        least, most: tokens of a picture that is not cut.
        tile: side of a tile. [pixel]
        fewest, largest: tiles of a picture that is cut.
        splits: whether large pictures are cut.
        thumbnail: whether the whole picture goes with its tiles.
        tolerance: pixels over those of ``most`` tokens from which on a picture is cut.
    """

    patch: int = 16
    factor: int = 2
    least: int = 64
    most: int = 256
    tile: int = 512
    fewest: int = 2
    largest: int = 10
    splits: bool = True
    thumbnail: bool = True
    tolerance: float = 2.0

    @property
    def length(self) -> int:
        """Patches to which every crop is padded."""
        return max(self.most * self.factor**2, (self.tile // self.patch) ** 2 if self.splits else 0)

    def crops(self, width: int, height: int) -> tuple[tuple[int, int], ...]:
        """Rows and columns of patches of every crop of a picture."""
        whole = self._resized(width, height)
        if not self.splits or self.fewest == self.largest == 1 or not self._large(width, height):
            return (whole,)
        columns, rows = self._grid(width, height)
        side = self.tile // self.patch
        tiles = ((side, side),) * (columns * rows)
        return (*tiles, whole) if self.thumbnail and columns * rows > 1 else tiles

    def _near(self, n: int) -> int:
        step = self.patch * self.factor
        return round(n / step) * step

    def _large(self, width: int, height: int) -> bool:
        area = max(self.patch, self._near(height)) * max(self.patch, self._near(width))
        return area > self.most * (self.patch * self.factor) ** 2 * self.tolerance

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        step = self.patch * self.factor
        least, most = self.least * step**2, self.most * step**2
        h, w = max(step, self._near(height)), max(step, self._near(width))
        if h * w > most:
            scale = math.sqrt(height * width / most)
            h, w = (max(step, math.floor(n / scale / step) * step) for n in (height, width))
        elif h * w < least:
            scale = math.sqrt(least / (height * width))
            h, w = (math.ceil(n * scale / step) * step for n in (height, width))
        return h // self.patch, w // self.patch

    def _grid(self, width: int, height: int) -> tuple[int, int]:
        """Columns and rows of tiles whose shape is nearest; the larger of two as near, where the picture fills half."""
        sides = range(1, self.largest + 1)
        grids = sorted(
            {(w, h) for w in sides for h in sides if self.fewest <= w * h <= self.largest}, key=lambda g: g[0] * g[1]
        )
        best, nearest = (1, 1), math.inf
        for w, h in grids:
            away = abs(width / height - w / h)
            if away < nearest:
                best, nearest = (w, h), away
            elif away == nearest and width * height > 0.5 * self.tile**2 * w * h:
                best = (w, h)
        return best
