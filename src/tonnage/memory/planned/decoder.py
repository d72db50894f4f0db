"""The program that ExecuTorch's language model export makes of a decoder: its steps and the tensors they leave.

Read in pytorch/executorch 1.5.1, examples/models/llama (``llama_transformer.py``, ``attention.py``, ``rope.py``,
``norm.py``), as ``export_llm`` lowers it with ``use_kv_cache``, ``use_sdpa_with_kv_cache`` and XNNPACK with its
extended operators: what XNNPACK takes is one step whose results are in the arena, and what it makes within is not.
"""

from __future__ import annotations

from typing import Final

from tonnage.memory.planned.greedy import Life
from tonnage.memory.planned.program import Program, Tensor
from tonnage.record import Record

SCALAR: Final = 8
"""A position read out of the input: an int64. [byte]"""
UPDATED: Final = 4
"""What writing into a cache returns: a tensor of one element. [byte]"""


WIDE: Final = 8
"""A scale or a zero point as it is chosen. [byte]"""
SCALE: Final = 4
"""A scale as it is kept. [byte]"""


class Decoder(Record):
    """A decoder as the export sees it.

    Args:
        tokens: most tokens of one call.
        width: of the residual stream.
        layers: how many.
        heads, kv_heads, head: query heads, key and value heads, and their width.
        inner: width of the feed-forward.
        vocabulary: logits of the last token.
        element: bytes of an element. [byte]
        halves: heads are turned by halves, as Hugging Face stores them, and not by neighbouring pairs.
        turned: elements of a head that are turned.
        head_norms: queries and keys are normed by heads before they are turned.
        packed: keys, values and queries are int8, with a scale and a zero point for each token and head.
    """

    tokens: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    inner: int
    vocabulary: int
    element: int
    halves: bool
    turned: int
    head_norms: bool
    packed: bool = False


def lives(d: Decoder) -> list[Life]:
    """Every tensor of the program but the caches."""
    p, S, D = Program(d.element), d.tokens, d.width
    (x,) = p.step((), S * D)
    scalars = [p.step((), 1, element=SCALAR)[0] for _ in range(3 + d.layers)]
    (square,) = p.step((x,), S * D)
    for each in scalars:
        p.step((each,))
    table = S * (d.turned if d.halves else d.turned // 2)
    cosine, sine = p.step((), table)[0], p.step((), table)[0]
    (mean,) = p.step((square,), S)
    if d.halves:
        # Each layer's own copies, all made before the first layer.
        cosines = [p.step((cosine,), table)[0] for _ in range(d.layers)]
        sines = [p.step((sine,), table)[0] for _ in range(d.layers)]
    else:
        cosines, sines = [cosine] * d.layers, [sine] * d.layers
    out = None
    for at in range(d.layers):
        if out is not None:
            x, square = p.step((x, out), S * D, S * D)
            (mean,) = p.step((square,), S)
        (normed,) = p.step((mean, x), S * D)
        (mixed,) = _attention(p, d, normed, cosines[at], sines[at])
        x, square = p.step((x, mixed), S * D, S * D)
        (mean,) = p.step((square,), S)
        (normed,) = p.step((mean, x), S * D)
        gate, up = p.step((normed,), S * d.inner, S * d.inner)
        (inner,) = p.step((gate, up), S * d.inner)
        (out,) = p.step((inner,), S * D)
    (x,) = p.step((x,) if out is None else (x, out), S * D)
    (last,) = p.step((x,), D)
    (square,) = p.step((last,), D)
    (mean,) = p.step((square,), 1)
    (normed,) = p.step((mean, last), D)
    (logits,) = p.step((normed,), d.vocabulary)
    p.step((logits,))
    return p.lives()


def _attention(p: Program, d: Decoder, x: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, ...]:
    S = d.tokens
    queries, keys = S * d.heads * d.head, S * d.kv_heads * d.head
    q, k, v = p.step((x,), queries, keys, keys)
    if d.halves:
        q, k = (_halves if d.turned == d.head else _part)(p, d, q, k, v, cosine, sine)
    else:
        q, k = _pairs(p, d, q, k, v, cosine, sine)
    if not d.packed:
        p.step((k,), 1, element=UPDATED)
        (mixed,) = p.step((q,), queries)
        return p.step((mixed,), S * d.width)
    chosen = [_chosen(p, d, each, heads) for each, heads in ((q, d.heads), (k, d.kv_heads))]
    q_packed = _packed(p, d, q, d.heads, chosen[0])
    _written(p, _packed(p, d, k, d.kv_heads, chosen[1]))
    (mixed,) = p.step(q_packed, queries)
    return p.step((mixed,), S * d.width)


def _chosen(p: Program, d: Decoder, x: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Scales and zero points of each token and head, as they are chosen: in float64 and int64."""
    scale, zero = p.step((x,), d.tokens * heads, d.tokens * heads, element=WIDE)
    return scale, zero


def _packed(p: Program, d: Decoder, x: Tensor, heads: int, chosen: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Values in int8 with their scales in fp32 and their zero points in int8."""
    n = d.tokens * heads
    (scale,) = p.step((chosen[0],), n, element=SCALE)
    (values,) = p.step((x, *chosen), n * d.head, element=1)
    (zero,) = p.step((chosen[1],), n, element=1)
    return scale, values, zero


def _written(p: Program, packed: tuple[Tensor, ...]) -> None:
    """Scales, values and zero points into the cache."""
    for each in packed:
        p.step((each,), 1, element=UPDATED)


def _pairs(
    p: Program, d: Decoder, q: Tensor, k: Tensor, v: Tensor, cosine: Tensor, sine: Tensor
) -> tuple[Tensor, Tensor]:
    """Queries and keys of which neighbouring elements are turned together."""
    S = d.tokens
    queries, keys = S * d.heads * d.head, S * d.kv_heads * d.head
    chosen = _chosen(p, d, v, d.kv_heads) if d.packed else None
    if chosen is None:
        p.step((v,), 1, element=UPDATED)
    parts: list[Tensor] = []
    for each, n in ((q, queries), (q, queries), (k, keys), (k, keys)):
        parts.extend(p.step((each,), n // 2))
    parts = [p.step((each,), each.bytes // d.element)[0] for each in parts]
    packed = None if chosen is None else _packed(p, d, v, d.kv_heads, chosen)
    q, k = p.step((*parts, cosine, sine), queries, keys)
    if packed is not None:
        _written(p, packed)
    return q, k


def _halves(
    p: Program, d: Decoder, q: Tensor, k: Tensor, v: Tensor, cosine: Tensor, sine: Tensor
) -> tuple[Tensor, Tensor]:
    """Queries and keys with their heads before their tokens, turned by halves, and back."""
    S = d.tokens
    queries, keys = S * d.heads * d.head, S * d.kv_heads * d.head
    if d.head_norms:
        q_square, k_square = p.step((q, k), queries, keys)
        chosen = _chosen(p, d, v, d.kv_heads) if d.packed else None
        if chosen is None:
            p.step((v,), 1, element=UPDATED)
        (q_mean,) = p.step((q_square,), S * d.heads)
        (k_mean,) = p.step((k_square,), S * d.kv_heads)
        packed = None if chosen is None else _packed(p, d, v, d.kv_heads, chosen)
        q, k = p.step((q, k, q_mean, k_mean), queries, keys)
        if packed is not None:
            _written(p, packed)
    (q,) = p.step((q,), queries)
    (k,) = p.step((k,), keys)
    chosen = None
    if not d.head_norms:
        chosen = _chosen(p, d, v, d.kv_heads) if d.packed else None
        if chosen is None:
            p.step((v,), 1, element=UPDATED)
    q, k = p.step((q, k, *_split(p, d, q, k), cosine, sine), queries, keys)
    if chosen is not None:
        _written(p, _packed(p, d, v, d.kv_heads, chosen))
    (q,) = p.step((q,), queries)
    (k,) = p.step((k,), keys)
    return q, k


def _part(
    p: Program, d: Decoder, q: Tensor, k: Tensor, v: Tensor, cosine: Tensor, sine: Tensor
) -> tuple[Tensor, Tensor]:
    """Queries and keys of which a part of each head is turned and the rest passes by."""
    S = d.tokens
    cut = []
    for each, heads in ((q, d.heads), (k, d.kv_heads)):
        cut.append((p.step((each,), S * heads * d.turned)[0], p.step((each,), S * heads * (d.head - d.turned))[0]))
    p.step((v,), 1, element=UPDATED)
    (q, q_rest), (k, k_rest) = cut
    reads = (q, q_rest, k, k_rest, *_split(p, d, q, k), cosine, sine)
    q, k = p.step(reads, S * d.heads * d.head, S * d.kv_heads * d.head)
    return q, k


def _split(p: Program, d: Decoder, q: Tensor, k: Tensor) -> list[Tensor]:
    """Both halves of what is turned, of queries and of keys."""
    both = ((q, d.heads), (q, d.heads), (k, d.kv_heads), (k, d.kv_heads))
    return [p.step((each,), d.tokens * heads * d.turned // 2)[0] for each, heads in both]


def within(d: Decoder) -> int:
    """What XNNPACK's own tensors take at most: inside the step that gates, or inside the one that turns. [byte]

    Turning pairs leaves four products of half of the heads' width, turning halves the swapped halves and a product.
    """
    turned = d.tokens * (d.heads + d.kv_heads) * d.turned
    return max(d.tokens * d.inner, 2 * turned) * d.element


def delegates(d: Decoder) -> int:
    """Steps that are XNNPACK's: ten of a layer, two more with norms of heads; four around the layers."""
    return d.layers * (12 if d.head_norms else 10) + 4
