"""What ExecuTorch's export stores of a model's weights, in fp32 or packed.

Read in pytorch/executorch 1.5.1, examples/models/llama/source_transformation/quantize.py: ``8da4w`` packs each matrix
whose columns divide into groups to 4 bits with a scale a group in bf16, the head included; the embedding has scales in
fp32. Whatever is not packed stays in the program's format, and a tied head that XNNPACK takes is stored a second time.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.record import Record
from tonnage.tensors import Tensor, size

SCALE: Final = 4
BF16: Final = 2


class Packing(Record):
    """How weights are packed.

    Args:
        mode: ``8da4w``, or None for what is not packed.
        group: weights that share a scale.
        bits: of the embedding's elements; None where it is not packed.
        width: elements of the embedding that share a scale; 0 for a row.
        element: bytes of what is not packed. [byte]
    """

    mode: str | None
    group: int
    bits: int | None
    width: int
    element: int


class Constants(Record):
    """A model's weights in the file.

    Args:
        bytes: what they take. [byte]
        packed: what XNNPACK lays beside them once it has packed them. [byte]
        left: matrices whose columns do not divide into groups, which ``mode`` leaves as they are.
    """

    bytes: int
    packed: int
    left: int


def constants(model: Model, packing: Packing, *, lowered: bool) -> Constants:
    """A model's weights as the exported file has them.

    Args:
        model: whose weights.
        packing: how they are packed.
        lowered: matrices go to XNNPACK's part of the file, and a tied head with them; else equal constants are one.
    """
    total = packed = left = 0
    for times, inventory in model.groups():
        for t in inventory:
            if t.role == "buffer" or (t.alias_of is not None and not lowered):
                continue
            total += times * _stored(t, packing)
            packed += times * _beside(t, packing)
            left += times * _left(t, packing)
    return Constants(bytes=total, packed=packed, left=left)


def tied(model: Model) -> Tensor | None:
    """The head's weight where it is the embedding's, which the export stores once more as a matrix."""
    return next((t for t in model.tensors() if t.role == "head" and t.alias_of is not None), None)


def _matrix(t: Tensor) -> tuple[int, int] | None:
    """Rows and columns of a linear module's weight."""
    outs = (t.dims or (1,))[0]
    if t.role in ("embedding", "norm") or len(t.axes) <= outs:
        return None
    return size(t.axes[:outs]), size(t.axes[outs:])


def _stored(t: Tensor, p: Packing) -> int:
    n = size(t.axes)  # of a tied head as well, which counts no elements of its own
    if t.role == "embedding" and p.bits is not None:
        rows = size(t.axes[:1])
        groups = -(-(n // rows) // p.width) if p.width else 1
        return n * p.bits // 8 + rows * groups * SCALE
    matrix = _matrix(t)
    if matrix is None or p.mode is None or matrix[1] % p.group:
        return n * p.element
    return n // 2 + n // p.group * BF16


def _left(t: Tensor, p: Packing) -> bool:
    matrix = _matrix(t)
    return matrix is not None and p.mode is not None and bool(matrix[1] % p.group)


def _beside(t: Tensor, p: Packing) -> int:
    """A bias for each row of a matrix, and a sum of it where it is packed to 4 bits."""
    matrix = _matrix(t)
    if matrix is None:
        return 0
    return matrix[0] * SCALE * (1 if p.mode is None or matrix[1] % p.group else 2)
