"""What kernels of CUDA take for themselves: freed before the operation returns, so that no tensor shows it.

The same rules as ``arch`` names them, by operation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Final

from tonnage.arch import flash_attention, reductions

Scratch = Callable[[Sequence[Any], Mapping[str, Any]], tuple[int, ...]]
"""Sizes of what a kernel holds at the same time. [byte]"""


def _softmax_backward(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    """The product of what comes in with the result. [byte]

    Reference: pytorch v2.13.0 aten/src/ATen/native/cuda/SoftMax.cu, softmax_backward_cuda_out.
    """
    output = args[1]
    return (int(output.numel() * output.element_size()),)


def _logsumexp(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    """Exponentials of all scores. [byte]"""
    return (int(args[0].numel() * args[0].element_size()),)


def _flash_backward(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    """Row sums, the fp32 gradient of queries, and gradients of keys and values for every query head. [byte]"""
    q, k = args[1], args[2]
    batch, heads, tokens, width = q.shape
    s = flash_attention.Shape(
        batch=batch, tokens=tokens, keys=k.shape[2], heads=heads, key_heads=k.shape[1], width=width,
        element=q.element_size(),
    )  # fmt: skip
    return flash_attention.row_sums(s), *flash_attention.second(s)


def _of_sum(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    """Partial sums over leading axes. [byte]"""
    x, dims = args[0], args[1] if len(args) > 1 else kwargs.get("dim")
    reduced = {d % x.dim() for d in dims or ()}
    if not reduced or reduced != set(range(len(reduced))) or len(reduced) == x.dim():
        return ()
    if not x.is_floating_point() or not x.is_contiguous():
        return ()
    return reductions.scratch(prod(x.shape[: len(reduced)]), prod(x.shape[len(reduced) :]))


def _added_by_index(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    """Places in rows, sorted, and where they came from; CUB's own byte, which is more for more than one tile of them.

    Reference: pytorch v2.13.0 aten/src/ATen/native/cuda/Indexing.cu, index_put_with_sort_kernel.
    """
    adds = args[3] if len(args) > 3 else kwargs.get("accumulate", False)
    places = [t for t in args[1] if t is not None]
    if not adds or not places:
        return ()
    return (*(INDEX * max(t.numel() for t in places),) * 4, 1)


INDEX: Final = 8
"""Bytes of a place."""

SCRATCHES: Final[dict[str, Scratch]] = {
    "aten._softmax_backward_data.default": _softmax_backward,
    "aten.logsumexp.default": _logsumexp,
    "aten._scaled_dot_product_flash_attention_backward.default": _flash_backward,
    "aten.sum.dim_IntList": _of_sum,
    "aten.index_put.default": _added_by_index,
    "aten.index_put_.default": _added_by_index,
    "aten._index_put_impl_.default": _added_by_index,
}

WORKSPACED: Final = frozenset(
    f"aten.{name}.default" for name in ("mm", "addmm", "bmm", "baddbmm", "_grouped_mm", "_scaled_mm")
)
"""Products that cuBLAS runs: the first of each thread takes its workspace."""
