"""Pictures of a batch, and what every model makes of them before its first layer.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/paligemma/
modeling_paligemma.py (PaliGemmaModel.forward, which the others follow) and https://github.com/pytorch/pytorch/blob/
v2.13.0/aten/src/ATen/native/TensorAdvancedIndexing.cpp (masked_scatter, masked_scatter_backward).
"""

from __future__ import annotations

from typing import ClassVar

from tonnage.arch.forward import AttentionKernel, Forward
from tonnage.arch.tape import Grads, Tape, Value, needs_grad
from tonnage.errors import InputError
from tonnage.record import Record


class Pictures(Record):
    """What a batch holds of them.

    Args:
        count: pictures of a sequence.
        patches: of each crop of one, rows and columns, where these vary; empty where all pictures have one size.
        kernel: what computes the towers' attention.
        pixels: width and height of one as it came, where the model is told.
    """

    count: int
    patches: tuple[tuple[int, int], ...] = ()
    kernel: AttentionKernel = "flash"
    pixels: tuple[int, int] | None = None


class Eye(Record):
    """A tower and its projector; a kind of model says how its batches look and how it takes what is seen.

    ``masks``: attention is handed a mask even where its kernel could do without. ``early``: the towers run before the
    tokens are looked up, and layers find what they have seen. ``places``: positions of tokens are made of what is seen.
    """

    masks: ClassVar[bool] = False
    early: ClassVar[bool] = False
    places: ClassVar[bool] = False

    @property
    def checkpointed(self) -> bool:
        """Whether its model's steps on pictures are modelled under checkpoints alone."""
        return False

    def pictures(self, count: int, size: str | None) -> Pictures:
        """So many of them a sequence, of a size as the workload tells it.

        Raises:
            InputError: a size, where all pictures are brought to one; or none of that form.
        """
        if size is not None:
            raise InputError(
                f"image_size = {size}: pictures of this model all get one size", key="image_size", value=size,
                hint="leave it out",
            )  # fmt: skip
        return Pictures(count)

    def tokens(self, pictures: Pictures) -> int:
        """Tokens of a sequence that stand for its pictures."""
        raise NotImplementedError

    def given(self, tape: Tape, ids: Value, pictures: Pictures) -> list[Value]:
        """What a batch holds beside its token ids."""
        raise NotImplementedError

    def seen(self, f: Forward, ids: Value, x: Value, given: list[Value], pictures: Pictures) -> Value:
        """The embedding (axes ``B T D``) with what is seen in its place."""
        raise NotImplementedError

    def look(self, f: Forward, ids: Value, given: list[Value], pictures: Pictures) -> None:
        """Put what is seen where the layers find it."""
        raise NotImplementedError


def pixels_of(size: str) -> tuple[int, int]:
    """Width and height of a picture as a workload tells them.

    >>> pixels_of("512x384")
    (512, 384)

    Raises:
        InputError: no two numbers.
    """
    width, _, height = size.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise InputError(
            f"image_size = {size} is no size",
            key="image_size",
            value=size,
            hint="width and height: --image-size 512x384",
        )
    return int(width), int(height)


def scattered(f: Forward, ids: Value, x: Value, features: Value, mask: Value | None = None) -> Value:
    """``x.masked_scatter(mask, features)``: the rows of the token of an image become those that were seen.

    The mask is kept; a gradient goes to either.
    """
    tape, whole, dtype = f.tape, x.axes, x.dtype
    mask = tape.new("tokens of images", ids.axes, "bool") if mask is None else mask
    count = tape.new("how many", (), "int64")
    del count
    out = tape.new("embedding with images", whole, dtype)
    rows, flows, sees = features.axes, needs_grad(x), needs_grad(features)

    def back(g: Value) -> Grads:
        gx = tape.new("gradient of embedding", whole, dtype) if flows else None
        gf = tape.new("gradient of what is seen", rows, dtype) if sees else None
        return gx, gf

    tape.record((out,), (x, features), back, (mask,))
    # The model's code names it until its layers are through.
    f.frame.append(mask)
    return out
