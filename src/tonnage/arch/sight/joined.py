"""Models whose pictures stand among the tokens: what is seen takes the place of the rows of one token.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/paligemma/
modeling_paligemma.py (PaliGemmaModel.forward).
"""

from __future__ import annotations

from typing import ClassVar

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear
from tonnage.arch.sight.pictures import Eye, Pictures, scattered
from tonnage.arch.sight.towers import Upright
from tonnage.arch.tape import Tape, Value


class Prefixed(Eye):
    """Pictures of one size before a prompt that is seen whole, as token types tell (PaliGemma).

    Args:
        tower: over a picture.
        projector: the matrix behind it.
    """

    masks: ClassVar[bool] = True

    tower: Upright
    projector: Linear

    def tokens(self, pictures: Pictures) -> int:
        """A token for every patch."""
        return pictures.count * self.tower.rows

    def given(self, tape: Tape, ids: Value, pictures: Pictures) -> list[Value]:
        """Pixels, and types of tokens."""
        pixels = self.tower.pixels(tape, ids.axes[0][1] * pictures.count)
        return [pixels, tape.new("token types", ids.axes, "int64")]

    def seen(self, f: Forward, ids: Value, x: Value, given: list[Value], pictures: Pictures) -> Value:
        """The embedding with what is seen."""
        outputs = self.tower.forward(f, given[0])
        features = self.projector.forward(f, outputs)
        # What the tower's output holds has its names until the layers are through.
        f.frame += [outputs, features]
        features = ops.cast(features, x.dtype)
        # The model's own output names it.
        f.around.append(features)
        x = scattered(f, ids, x, features)
        # Which of them see each other, for the mask.
        f.frame.append(f.tape.new("blocks of tokens", ids.axes, "int64"))
        return x
