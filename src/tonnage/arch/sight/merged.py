"""Models whose tower sees all pictures of a batch as one row, and whose tokens have positions in three dimensions.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen2_5_vl/
modeling_qwen2_5_vl.py (Qwen2_5_VLModel.forward, get_rope_index), qwen2_vl/modeling_qwen2_vl.py, qwen3_vl/
modeling_qwen3_vl.py.
"""

from __future__ import annotations

from typing import ClassVar

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.sight.pictures import Eye, Pictures, pixels_of, scattered
from tonnage.arch.sight.resized import Bounds
from tonnage.arch.sight.rows import Row
from tonnage.arch.tape import Tape, Value
from tonnage.tensors import Axes


class Merged(Eye):
    """Pictures whose neighbouring patches become one token each (Qwen2-VL).

    Args:
        tower: over the patches of all of them, with its merger.
        processor: how a picture is resized.
        states: without checkpoints, layers cache more than keys and values (Qwen3.5).
    """

    places: ClassVar[bool] = True

    tower: Row
    processor: Bounds
    states: bool = False

    @property
    def checkpointed(self) -> bool:
        """What is cached beside keys and values is not modelled."""
        return self.states

    def pictures(self, count: int, size: str | None) -> Pictures:
        """Pictures of so many pixels; of 512 x 512 where nothing is said."""
        patch = self.tower.patches.side
        height, width = self.processor.resized(*pixels_of(size or "512x512"), patch * self.tower.merged)
        return Pictures(count, ((height // patch, width // patch),))

    def tokens(self, pictures: Pictures) -> int:
        """Those of all pictures."""
        ((rows, columns),) = pictures.patches
        return pictures.count * rows * columns // self.tower.merged**2

    def given(self, tape: Tape, ids: Value, pictures: Pictures) -> list[Value]:
        """Rows of pixels, grids, kinds of tokens; and what the model has kept of the step before."""
        ((rows, columns),), B = pictures.patches, ids.axes[0]
        count = B[1] * pictures.count
        return [
            tape.new("pixels", (("T", count * rows * columns), *self.tower.patches.ins), "fp32"),
            tape.new("grids", (("X", count), ("X", 3)), "int64"),
            tape.new("kinds of tokens", ids.axes, "int64"),
            tape.new("shifts of positions", (B, ("X", 1)), "int64"),
        ]

    def seen(self, f: Forward, ids: Value, x: Value, given: list[Value], pictures: Pictures) -> Value:
        """The embedding with what is seen."""
        tape, tower = f.tape, self.tower
        pixels = ops.cast(given[0], tape.form_of(tower.patches.name))
        count = ids.axes[0][1] * pictures.count
        last, found, deep = tower.forward(f, pixels, pictures.patches * count)
        del pixels
        rows, width = found.axes
        axes: Axes = (("T", rows[1] // count), width)
        first, *others = [ops.split(seen, (axes,) * count) for seen in (found, *deep)]
        features = ops.cast(ops.cat(first, found.axes, "what is seen"), x.dtype)
        mask = tape.new("tokens of images", ids.axes, "bool")
        # What the tower's output holds has its names until the layers are through; so has a mask of videos.
        f.frame += [last, found, *deep, features, tape.new("tokens of videos", ids.axes, "bool")]
        x = scattered(f, ids, x, features, mask)
        if others:
            # Imported late: Qwen3-VL alone.
            from tonnage.arch.sight.deep import Deep

            f.deep = Deep(mask, [ops.cat(parts, found.axes, "what is seen deep") for parts in others])
            f.frame += f.deep.features
        f.frame.append(tape.new("position ids", (("X", 3), *ids.axes), "int64"))
        return x
