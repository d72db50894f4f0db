"""Magnitude pruning: zeros anywhere in a matrix, which save nothing unless it is stored sparse.

A matrix of ``n`` elements with a share ``d`` left keeps ``d n`` values. As coordinates (COO) each takes two numbers of
8 bytes beside it. By rows (CSR) it needs one, and a row a pointer; but the column indices that ``to_sparse_csr`` makes
are a view of the coordinates' storage, which stays whole, and is what a file holds too. Converted to int32 they are 4
bytes each. In 16 bit, int64 is smaller than the dense matrix below a density of 2/18, int32 below 2/6.
"""

from __future__ import annotations

from typing import Final

from tonnage.errors import ConfigError, UnsupportedError
from tonnage.keys import Keys
from tonnage.quant._stored import INDICES, KEPT, PACKED, Matrix, Part, Recipe, Scheme, options

SOURCE: Final = (
    "https://github.com/pytorch/pytorch/blob/v2.13.0/torch/nn/utils/prune.py; docs/source/sparse.rst: COO, CSR"
)
LAYOUTS: Final = ("dense", "masked", "coo", "csr")
SPEED: Final = "unstructured zeros make no dense product faster: sparse kernels gain from a sparsity of about 95 % on"
TOLD: Final = {
    "dense": ("zeros take the room of any other value: pruned matrices stored dense save nothing",),
    "masked": (
        "torch.nn.utils.prune keeps the matrix, a mask in its format and their product, until prune.remove is called",
        "a file has the matrix and its mask alone",
    ),
    "coo": (
        "coordinates in int64: smaller than dense below a density of w / (w + 16) for values of w bytes (11 % in 16 "
        "bit, 20 % in fp32)",
        SPEED,
    ),
    "csr": (
        "by rows with column indices in int64, whose storage to_sparse_csr shares with the coordinates: smaller than "
        "dense below a density of w / (w + 16) for values of w bytes; in int32, below w / (w + 4) (33 % in 16 bit)",
        SPEED,
    ),
}


def left(n: int, density: float) -> int:
    """Elements left of ``n``, as ``torch.nn.utils.prune`` rounds them.

    >>> left(2048, 0.7)
    1434
    """
    return n - round((1 - density) * n)


def parts(m: Matrix, *, layout: str, density: float, index: str) -> tuple[Part, ...]:
    """The tensors of one matrix.

    >>> m = Matrix(module="q", role="attention", outs=("N", 128), ins=("D", 256))
    >>> [p.axes[0][1] for p in parts(m, layout="csr", density=0.1, index="int32")]
    [3277, 3277, 129]
    """
    dense = (m.outs, m.ins)
    kept = left(m.rows * m.columns, density)
    values = (("X", kept),)
    if layout == "dense":
        return (Part("weight", dense, None, PACKED),)
    if layout == "masked":
        return (
            Part("weight_orig", dense, None, PACKED),
            Part("weight_mask", dense, None, INDICES),
            Part("weight", dense, None, KEPT),
        )
    out = (Part("weight.values", values, None, PACKED),)
    if layout == "coo":
        return (*out, Part("weight.indices", (("X", 2), *values), "int64", INDICES))
    return (
        *out,
        Part("weight.col_indices", values if index == "int32" else (("X", 2), *values), index, INDICES),
        Part("weight.crow_indices", ((m.outs[0], m.rows + 1),), index, INDICES),
    )


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """Settings of our own: which share is left, and how it is stored."""
    layout, density, index = k.want("layout", "dense"), k.want("density", 0.5), k.want("index_dtype", "int64")
    if layout not in LAYOUTS:
        raise UnsupportedError(
            f"the layout {layout!r} is not modelled", key=f"{k.path}layout", value=layout, file=k.file,
            hint=f"one of {', '.join(LAYOUTS)}",
        )  # fmt: skip
    if not 0 < density <= 1:
        raise ConfigError("density is the share that is left", key=f"{k.path}density", value=density, file=k.file)
    if index not in ("int64", "int32") or (index == "int32" and layout != "csr"):
        raise UnsupportedError(
            "indices are int64, or int32 by rows", key=f"{k.path}index_dtype", value=index, file=k.file
        )
    k.skip("ignore")
    skips = options(k.config, "ignore")
    return Recipe(
        method="pruned",
        title=f"{1 - density:.0%} zeros, {layout}" + (f" with {index}" if layout == "csr" else ""),
        source=SOURCE,
        store=lambda m: parts(m, layout=layout, density=density, index=index),
        takes=lambda m: (m.linear or m.transposed) and not m.batch and m.layer is not None,
        skips=skips,
        adds_default=False,
        told=TOLD[layout],
    )


SCHEME: Final = Scheme(read=read, source=SOURCE)
