"""``scaled_dot_product_attention`` as torch runs it on a GPU: which kernel, and what that one keeps.

A build of torch for CPUs has no choice to make for a CUDA tensor and takes the unfused path. Here the choice is made by
the rules of sdp_utils.cpp and the kernel's own operation is called, whose meta kernel every build has.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/transformers/cuda/sdp_utils.cpp and
attention.cpp.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import torch
from torch.nn import functional

from tonnage.arch import flash_attention
from tonnage.tracing.inplace import InPlace

aten: Final = torch.ops.aten
HALF: Final = (torch.bfloat16, torch.float16)
ALIGNED: Final = 8
"""Strides of a mask, and widths of heads in 16 bit, that the memory-efficient kernel takes."""


class Chooser:
    """Stands for ``scaled_dot_product_attention``.

    Args:
        order: kernels in the order in which the device tries them: "flash", "cudnn", "efficient", "math".
        inplace: told when the unfused path runs.
        original: the function that it stands for.
    """

    def __init__(self, order: tuple[str, ...], inplace: InPlace, original: Any) -> None:
        self.order = order
        self.inplace = inplace
        self.original = original
        self.ran: Counter[str] = Counter()

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        """The heads' outputs."""
        query, key, value, mask = _autocast(query, key, value, attn_mask)
        grouped = enable_gqa and query.shape[1] != key.shape[1]
        kernel = next((k for k in self.order if _accepts(k, query, key, value, mask, grouped)), "math")
        self.ran[kernel] += 1
        factor = scale if scale is not None else float(query.shape[-1]) ** -0.5
        if kernel == "flash":
            return _flash(query, key, value, dropout_p, is_causal, factor)
        if kernel == "cudnn":
            wanted = _wanted(query, key, value)
            out = aten._scaled_dot_product_cudnn_attention(
                query, key, value, mask, wanted, dropout_p, is_causal, False, scale=factor
            )
            return out[0]
        if kernel == "efficient":
            wanted = _wanted(query, key, value)
            bias = None if mask is None else _bias(mask, query, key)
            return aten._scaled_dot_product_efficient_attention(
                query, key, value, bias, wanted, dropout_p, is_causal, scale=factor
            )[0]
        self.inplace.in_math += 1
        try:
            return self.original(
                query, key, value, attn_mask=mask, dropout_p=dropout_p, is_causal=is_causal, scale=scale,
                enable_gqa=enable_gqa,
            )  # fmt: skip
        finally:
            self.inplace.in_math -= 1


def _autocast(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """What CUDA's autocast does: the function is on its list of those that run in 16 bit."""
    if q.device.type == "cuda" and torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        if mask is not None and mask.dtype is not torch.bool:
            mask = mask.to(dtype)
    return q, k, v, mask


def _accepts(
    kernel: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, grouped: bool
) -> bool:
    """Whether a kernel takes these."""
    if q.dim() != 4:
        return False
    width, half = q.shape[-1], q.dtype in HALF
    same = width == v.shape[-1] == k.shape[-1]
    if kernel == "flash":
        return half and mask is None and same and width <= flash_attention.WIDEST
    if kernel == "cudnn":
        return half and same and width % ALIGNED == 0 and width <= flash_attention.WIDEST
    if kernel == "efficient":
        step = ALIGNED if half else ALIGNED // 2
        return not grouped and width % step == 0 and v.shape[-1] % step == 0
    return kernel == "math"


def _wanted(*inputs: torch.Tensor) -> bool:
    """Whether a backward pass will ask for the sums of the rows."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in inputs)


def _flash(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float, causal: bool, scale: float
) -> torch.Tensor:
    """Flash attention: heads are padded to a multiple of eight."""
    width = q.shape[-1]
    if width % ALIGNED:
        q, k, v = (functional.pad(t, (0, ALIGNED - width % ALIGNED)) for t in (q, k, v))
    out: torch.Tensor = aten._scaled_dot_product_flash_attention(q, k, v, dropout, causal, False, scale=scale)[0]
    return out if out.shape[-1] == width else out[..., :width]


def _bias(mask: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """A mask as the memory-efficient kernel takes it: numbers, its rows aligned (preprocess_mask)."""
    if mask.dtype is torch.bool:
        hidden = torch.scalar_tensor(float("-inf"), dtype=q.dtype, device=q.device)
        mask = torch.where(mask, 0.0, hidden)
    strides = mask.stride()
    if any(s % ALIGNED for s in strides[:-1]) or strides[-1] != 1:
        n = mask.shape[-1]
        mask = functional.pad(mask, (0, ALIGNED - n % ALIGNED))[..., :n]
    return mask.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
