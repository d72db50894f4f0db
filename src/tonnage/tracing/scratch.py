"""What kernels of CUDA take for themselves: freed before the operation returns, so that no tensor shows it.

The same rules as ``arch`` names them, by operation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

Scratch = Callable[[Sequence[Any], Mapping[str, Any]], int]


def _softmax_backward(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """The product of what comes in with the result. [byte]

    Reference: pytorch v2.13.0 aten/src/ATen/native/cuda/SoftMax.cu, softmax_backward_cuda_out.
    """
    output = args[1]
    return int(output.numel() * output.element_size())


def _logsumexp(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Exponentials of all scores. [byte]"""
    return int(args[0].numel() * args[0].element_size())


def _flash_backward(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Row sums, the fp32 gradient of queries, and gradients of keys and values for every query head. [byte]

    Rows round to 128, heads to 32 (64 above 128).
    Reference: Dao-AILab/flash-attention v2, csrc/flash_attn/flash_api.cpp, mha_bwd.
    """
    q, k = args[1], args[2]
    batch, heads, tokens, width = q.shape
    rows = -(-tokens // 128) * 128
    step = 32 if width <= 128 else 64
    wide = -(-width // step) * step
    expanded = 2 * q.element_size() * batch * k.shape[2] * heads * width if k.shape[1] != heads else 0
    return int(4 * batch * heads * rows + 4 * batch * rows * heads * wide + expanded)


SCRATCHES: Final[dict[str, Scratch]] = {
    "aten._softmax_backward_data.default": _softmax_backward,
    "aten.logsumexp.default": _logsumexp,
    "aten._scaled_dot_product_flash_attention_backward.default": _flash_backward,
}

WORKSPACED: Final = frozenset(
    f"aten.{name}.default" for name in ("mm", "addmm", "bmm", "baddbmm", "_grouped_mm", "_scaled_mm")
)
"""Products that cuBLAS runs: the first of each thread takes its workspace."""
