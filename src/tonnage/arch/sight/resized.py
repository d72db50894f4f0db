"""How many pixels a processor leaves of a picture whose shape it keeps.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen2_vl/
image_processing_qwen2_vl.py (smart_resize).
"""

from __future__ import annotations

import math
from typing import Final

from tonnage.errors import InputError
from tonnage.record import Record

LONGEST: Final = 200
"""Times its shorter side that a picture's longer one may have."""


class Bounds(Record):
    """Between these numbers of pixels.

    Args:
        least, most: of a picture, behind the resizing. [pixel]
    """

    least: int
    most: int

    def resized(self, width: int, height: int, step: int) -> tuple[int, int]:
        """Height and width, multiples of ``step``.

        >>> Bounds(least=3136, most=12845056).resized(512, 512, 28)
        (504, 504)

        Raises:
            InputError: a picture that is too narrow.
        """
        if max(width, height) > LONGEST * min(width, height):
            raise InputError(
                f"image_size = {width}x{height}: a side may be {LONGEST} times the other at most", key="image_size",
                value=f"{width}x{height}", hint="the processor refuses such a picture",
            )  # fmt: skip
        h, w = (round(n / step) * step for n in (height, width))
        if h * w > self.most:
            scale = math.sqrt(height * width / self.most)
            return max(step, math.floor(height / scale / step) * step), max(
                step, math.floor(width / scale / step) * step
            )
        if h * w < self.least:
            scale = math.sqrt(self.least / (height * width))
            return math.ceil(height * scale / step) * step, math.ceil(width * scale / step) * step
        return h, w
