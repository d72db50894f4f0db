"""2:4 sparsity: of four weights in a row two are zero; the others are kept with two bits each for their places.

In 16 bit that is 9/16 of the dense matrix: half the values, and two bits for each of them.
``to_sparse_semi_structured`` takes matrices whose dimensions are multiples of a backend's tile; others stay dense.
Counted for weights in 16 bit.
"""

from __future__ import annotations

from typing import Final

from tonnage.errors import UnsupportedError
from tonnage.keys import Keys
from tonnage.quant._stored import INDICES, PACKED, Matrix, Part, Recipe, Scheme, options

SOURCE: Final = (
    "https://github.com/pytorch/pytorch/blob/v2.13.0/torch/sparse/semi_structured.py _DTYPE_SHAPE_CONSTRAINTS; "
    "torch/sparse/_semi_structured_conversions.py; aten/src/ATen/native/sparse/cuda/cuSPARSELtOps.cpp _cslt_compress"
)
TILES: Final = {"cutlass": (32, 64), "cusparselt": (16, 16)}
"""Rows and columns that a matrix in 16 bit must be a multiple of."""
TOLD: Final = (
    "2:4 saves 7/16 of the matrices that it packs, in 16 bit; embeddings, norms and the head stay dense",
    "its bound of twice the speed is for the packed products alone, from Ampere on; it says nothing of memory",
    "a safetensors checkpoint holds the zeros and is as large as before; matrices are packed on the device",
)


def parts(m: Matrix, backend: str) -> tuple[Part, ...]:
    """Values and places; cuSPARSELt has both in one tensor.

    >>> m = Matrix(module="q", role="attention", outs=("N", 64), ins=("D", 128))
    >>> [p.axes for p in parts(m, "cutlass")]
    [(('N', 64), ('D', 64)), (('N', 64), ('D', 8))]
    """
    if backend == "cusparselt":
        return (Part("weight.packed", (("X", m.rows * m.columns * 9 // 16),), None, PACKED),)
    return (
        Part("weight.packed", (m.outs, (m.ins[0], m.columns // 2)), None, PACKED),
        Part("weight.meta", (m.outs, (m.ins[0], m.columns // 16)), "int16", INDICES),
    )


def fits(m: Matrix, backend: str) -> bool:
    """Whether a matrix' dimensions are multiples of the backend's tile."""
    rows, columns = TILES[backend]
    return m.rows % rows == 0 and m.columns % columns == 0


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """Settings of our own: the backend, and names of modules that stay dense."""
    backend = k.want("backend", "cutlass")
    if backend not in TILES:
        raise UnsupportedError(
            f"the backend {backend!r} is not modelled", key=f"{k.path}backend", value=backend, file=k.file,
            hint=f"one of {', '.join(TILES)}",
        )  # fmt: skip
    k.skip("ignore")
    return Recipe(
        method="semi-structured",
        title=f"2:4 sparse, {'CUTLASS' if backend == 'cutlass' else 'cuSPARSELt'}",
        source=SOURCE,
        store=lambda m: parts(m, backend),
        takes=lambda m: m.linear and m.layer is not None and m.role != "router" and fits(m, backend),
        skips=options(k.config, "ignore"),
        adds_default=False,
        saved="dense",
        told=TOLD,
    )


SCHEME: Final = Scheme(read=read, source=SOURCE)
