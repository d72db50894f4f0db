"""What flash-attn's backward kernels take for themselves, by release.

Reference: https://github.com/Dao-AILab/flash-attention/blob/v2.8.3/csrc/flash_attn/flash_api.cpp (mha_bwd,
mha_varlen_bwd) and hopper/flash_api.cpp (mha_bwd). torch v2.13.0 has the second release's kernels for its own
``scaled_dot_product_attention``. Left out: what ``deterministic`` adds.
"""

from __future__ import annotations

from typing import Final

from tonnage.record import Record

FP32: Final = 4
ROWS: Final = 128
"""Rows of a tile, to which the second release rounds."""
WIDTHS: Final = (64, 96, 128, 192, 256)
"""Widths of heads that the third release has kernels for."""


WIDEST: Final = 256
"""Widest head that flash attention takes. torch v2.13.0 aten/src/ATen/native/transformers/cuda/sdp_utils.cpp"""


def takes(keys: int, values: int) -> bool:
    """Whether flash attention takes heads of these widths."""
    return keys == values <= WIDEST


class Shape(Record):
    """Of one call.

    Args:
        batch: sequences.
        tokens, keys: of queries and of keys in a sequence; where sequences are packed, of all.
        heads, key_heads: of queries and of keys.
        width: of a head.
        element: size of one. [byte]
        packed: sequences stand one behind another, without padding.
        longest: tokens of the longest of them.
    """

    batch: int
    tokens: int
    keys: int
    heads: int
    key_heads: int
    width: int
    element: int
    packed: bool = False
    longest: int = 0


def rounded(n: int, step: int) -> int:
    """The next multiple.

    >>> rounded(129, 128)
    256
    """
    return -(-n // step) * step


def rows(s: Shape) -> int:
    """Rows of all sequences that the second release reserves."""
    return s.tokens + ROWS * s.batch if s.packed else s.batch * rounded(s.tokens, ROWS)


def row_sums(s: Shape) -> int:
    """``softmax_d``: a number a row. [byte]"""
    return FP32 * s.heads * rows(s)


def second(s: Shape) -> tuple[int, int, int]:
    """``dq_accum``, and gradients of keys and of values for every query head where they are shared. [byte]

    >>> second(Shape(batch=1, tokens=2048, keys=2048, heads=32, key_heads=8, width=128, element=2))
    (33554432, 16777216, 16777216)
    """
    wide = rounded(s.width, 32 if s.width <= 128 else 64)
    sequences = 1 if s.packed else s.batch
    expanded = s.element * sequences * s.keys * s.heads * s.width if s.key_heads != s.heads else 0
    return FP32 * rows(s) * s.heads * wide, expanded, expanded


class Third(Record):
    """What the third release's backward pass makes. [byte]

    Args:
        sums: ``softmax_d`` and ``softmax_lse_log2``, each.
        queries: ``dq_accum``.
        keys: ``dk_accum`` and ``dv_accum``, each; 0 where no head is shared.
        semaphores: of the tiles of queries.
    """

    sums: int
    queries: int
    keys: int
    semaphores: int


def third(s: Shape, *, causal: bool, window: bool, capped: bool, capability: tuple[int, int]) -> Third:
    """Buffers of the third release.

    Args:
        s: of the call.
        causal, window, capped: which of its masks and caps it has; a window shorter than the sequence.
        capability: of the device.
    """
    wide = next(w for w in WIDTHS if s.width <= w)
    step, key_step = _tiles(wide, capability, causal=causal and not window, window=window, capped=capped)
    if s.packed:
        tall, deep = rounded(s.tokens + s.batch * step, step), rounded(s.keys + s.batch * key_step, key_step)
        tiles = -(-s.longest // step) * s.batch
    else:
        tall, deep = s.batch * rounded(s.tokens, step), s.batch * rounded(s.keys, key_step)
        tiles = -(-s.tokens // step) * s.batch
    return Third(
        sums=FP32 * s.heads * tall,
        queries=FP32 * s.heads * tall * wide,
        keys=FP32 * s.key_heads * deep * wide if s.key_heads != s.heads else 0,
        semaphores=FP32 * tiles * s.heads,
    )


def _tiles(wide: int, capability: tuple[int, int], *, causal: bool, window: bool, capped: bool) -> tuple[int, int]:
    """Rows of a tile of queries, and of keys."""
    if capability >= (9, 0):
        plain = {64: 96 if causal and capped else 128, 96: 64, 128: 64 if causal or window or capped else 80}
        return plain.get(wide, 64), {192: 96, 256: 80}.get(wide, 128)
    if capability in ((8, 6), (8, 9)):
        return 32 if wide == 256 else 64, {128: 96, 192: 64, 256: 64}.get(wide, 128)
    return 128 if wide == 64 else 64, {192: 80, 256: 64}.get(wide, 128)
