"""The operations of flash-attn: what each makes, and what it takes for itself.

Those of release 2 have the names and arguments that flash-attn 2.8 registers, those of release 3 a shorter list of
arguments than ``flash_attn_3::fwd`` and ``bwd`` have. Reference: csrc/flash_attn/flash_api.cpp and
hopper/flash_api.cpp of https://github.com/Dao-AILab/flash-attention/tree/v2.8.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch

from tonnage.arch import flash_attention
from tonnage.arch.flash_attention import Shape

SECOND: Final = "flash_attn"
THIRD: Final = "tonnage_flash_attn_3"
HOW: Final = "float softmax_scale, bool causal, int window_size_left, int window_size_right, float softcap"
LENGTHS: Final = "Tensor cu_seqlens_q, Tensor cu_seqlens_k, SymInt max_seqlen_q, SymInt max_seqlen_k"
MAYBE: Final = "Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, SymInt? max_seqlen_q, SymInt? max_seqlen_k"
MADE: Final = "Tensor(a!) dq, Tensor(b!) dk, Tensor(c!) dv"
SLOPES: Final = "Tensor? alibi_slopes"
SAVED: Final = "Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, Tensor softmax_lse"
QKV: Final = "Tensor q, Tensor k, Tensor v"

_libraries: list[Any] = []
_capability: list[tuple[int, int]] = [(8, 0)]


def register(capability: tuple[int, int]) -> None:
    """Define the operations, once in a process; the package's own, if it is installed, are left as they are."""
    _capability[0] = capability
    if _libraries:
        return
    second = {
        f"_flash_attn_forward({QKV}, float dropout_p, {HOW}, {SLOPES}, bool return_softmax) "
        "-> (Tensor, Tensor, Tensor, Tensor)": _forward,
        f"_flash_attn_varlen_forward({QKV}, {LENGTHS}, float dropout_p, {HOW}, {SLOPES}, bool return_softmax) "
        "-> (Tensor, Tensor, Tensor, Tensor)": _varlen_forward,
        f"_flash_attn_backward({SAVED}, {MADE}, float dropout_p, {HOW}, {SLOPES}, bool deterministic, "
        "Tensor? rng_state=None) -> Tensor": _backward,
        f"_flash_attn_varlen_backward({SAVED}, {MADE}, {LENGTHS}, float dropout_p, {HOW}, {SLOPES}, "
        "bool deterministic, Tensor? rng_state=None) -> Tensor": _varlen_backward,
    }
    third = {
        f"forward({QKV}, {MAYBE}, {HOW}) -> (Tensor, Tensor)": _third_forward,
        f"backward({SAVED}, {MADE}, {MAYBE}, {HOW}) -> Tensor[]": _third_backward,
    }
    for name, operations in ((SECOND, second), (THIRD, third)):
        library = torch.library.Library(name, "FRAGMENT")
        _libraries.append(library)
        for schema, kernel in operations.items():
            operation = schema.partition("(")[0]
            if not hasattr(getattr(torch.ops, name), operation):
                library.define(schema)
                library.impl(operation, kernel, "Meta")


def _sums(q: torch.Tensor) -> torch.Tensor:
    """Logarithms of the rows' sums: one a row."""
    shape = (q.shape[0], q.shape[2], q.shape[1]) if q.dim() == 4 else (q.shape[1], q.shape[0])
    return torch.empty(shape, dtype=torch.float32, device=q.device)


def _forward(q: Any, k: Any, v: Any, *how: Any) -> Any:
    nothing = torch.empty((0,), dtype=q.dtype, device=q.device)
    return torch.empty_like(q), _sums(q), nothing, torch.empty((2,), dtype=torch.int64, device=q.device)


def _varlen_forward(q: Any, k: Any, v: Any, *how: Any) -> Any:
    return _forward(q, k, v)


def _backward(dout: Any, q: Any, k: Any, *rest: Any, **more: Any) -> Any:
    s = shape(q, k)
    return torch.empty((s.batch, s.heads, flash_attention.rows(s) // s.batch), dtype=torch.float32, device=q.device)


def _varlen_backward(dout: Any, q: Any, k: Any, *rest: Any, **more: Any) -> Any:
    s = shape(q, k, lengths=rest[6])
    return torch.empty((s.heads, flash_attention.rows(s)), dtype=torch.float32, device=q.device)


def _third_forward(q: Any, k: Any, v: Any, *rest: Any) -> Any:
    return torch.empty((*q.shape[:-1], v.shape[-1]), dtype=q.dtype, device=q.device), _sums(q)


def _third_backward(dout: Any, q: Any, k: Any, *rest: Any) -> Any:
    made = _third(q, k, rest)
    sizes = (made.sums, made.sums, made.queries, made.keys, made.keys)
    return [torch.empty((n // 4,), dtype=torch.float32, device=q.device) for n in sizes if n]


def _third(q: Any, k: Any, rest: Sequence[Any]) -> flash_attention.Third:
    """``rest``: the arguments after the keys."""
    _, _, _, _, _, _, lengths, _, longest, deepest, _, causal, left, right, softcap = rest
    packed = lengths is not None
    s = shape(q, k, lengths=lengths, longest=longest)
    # As the kernel settles it: a window as long as the sequence is none.
    left = -1 if left >= (deepest if packed else k.shape[1]) - 1 else left
    right = 0 if causal else -1 if right >= (longest if packed else q.shape[1]) - 1 else right
    only_causal = left < 0 and right == 0
    return flash_attention.third(
        s, causal=only_causal, window=(left >= 0 or right >= 0) and not only_causal, capped=softcap > 0,
        capability=_capability[0],
    )  # fmt: skip


def shape(q: Any, k: Any, *, lengths: Any = None, longest: int | None = None) -> Shape:
    """Of a call, from its tensors; ``lengths`` and ``longest`` where sequences are packed."""
    packed = lengths is not None
    return Shape(
        batch=lengths.shape[0] - 1 if packed else q.shape[0], tokens=q.shape[-3], keys=k.shape[-3],
        heads=q.shape[-2], key_heads=k.shape[-2], width=q.shape[-1], element=q.element_size(), packed=packed,
        longest=longest or 0,
    )  # fmt: skip


def _second_scratch(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    return flash_attention.second(shape(args[1], args[2]))


def _varlen_scratch(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    return flash_attention.second(shape(args[1], args[2], lengths=args[9]))


def _third_scratch(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    return (_third(args[1], args[2], args[3:]).semaphores,)


SCRATCHES: Final = {
    f"{SECOND}._flash_attn_backward.default": _second_scratch,
    f"{SECOND}._flash_attn_varlen_backward.default": _varlen_scratch,
    f"{THIRD}.backward.default": _third_scratch,
}
"""What the kernels take beside the tensors that they return. [byte]"""
