"""Pools of DeepSeek-V4, whose layers keep windows, entries of 4 or 128 tokens, an indexer's, and what waits for them.

Layers with as many tokens to a page and the same window are one kind. Entries of all rates are one group; the others
are split so that each group has about as many layers of each size of page.

Reference: vllm-project/vllm v0.22.0 vllm/v1/core/kv_cache_utils.py ``group_and_unify_kv_cache_specs``,
``_get_kv_cache_groups_uniform_groups``, ``_get_kv_cache_config_deepseek_v4``; v0.24.0 ``_get_kv_cache_config_packed``;
v0.33.0 vllm/v1/core/kv_cache_planning.py ``_get_packed_kv_cache_groups``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from tonnage.memory.pool.pages import ENTRIES, Group, Page
from tonnage.releases import Since, Version, since

BLOCK: Final[Since[str]] = (((0, 29), "widest"), ((0, 24), "slots"), ((0, 0), "tuples"))
"""How large a block is: the pages of the widest group; as many pages of each size as any group has; or as many of all
sizes as any group has of one."""


def packed(pages: Sequence[Page]) -> tuple[Group, ...]:
    """Tables of the model's layers: entries first, then windows and what waits, by tokens of a page and window."""
    kinds: dict[tuple[object, ...], list[int]] = {}
    for i, page in enumerate(pages):
        kinds.setdefault((page.kind == ENTRIES, page.block if page.window else 0, page.window), []).append(i)
    entries = [i for key, found in kinds.items() if key[0] for i in found]
    others = [found for key, found in kinds.items() if not key[0]]
    count = _shared([_rows(pages, found) for found in (entries, *others)], _rows(pages, entries))
    out = [_group(pages, entries)]
    for found in others:
        rows = list(zip(*_by_size(pages, found), strict=True))
        n = -(-len(rows) // count)
        out += [_group(pages, [i for row in rows[k::n] for i in row]) for k in range(n)]
    return tuple(out)


def packed_bytes(groups: Sequence[Group], here: frozenset[int], version: Version) -> int:
    """Bytes of one block on a rank that holds the pages ``here``."""
    held = [[p for i, p in zip(g.layers, g.pages, strict=True) if i in here] for g in groups]
    rule = since(version, BLOCK)
    if rule == "widest":
        return max(sum(p.size for p in pages) for pages in held)
    sizes = sorted({p.size for p in held[0]})
    counts = [Counter(min((s for s in sizes if s >= p.size), default=p.size) for p in pages) for pages in held]
    most = {size: max(c[size] for c in counts) for size in sizes}
    return sum(sizes) * max(most.values(), default=0) if rule == "tuples" else sum(s * n for s, n in most.items())


def _group(pages: Sequence[Page], found: Iterable[int]) -> Group:
    layers = tuple(found)
    return Group(layers, tuple(pages[i] for i in layers))


def _by_size(pages: Sequence[Page], found: Iterable[int]) -> list[list[int]]:
    sizes: dict[int, list[int]] = {}
    for i in found:
        sizes.setdefault(pages[i].size, []).append(i)
    return list(sizes.values())


def _rows(pages: Sequence[Page], found: Iterable[int]) -> int:
    """Layers of the size of page that most of them have."""
    return max(len(layers) for layers in _by_size(pages, found))


def _shared(counts: Sequence[int], least: int) -> int:
    """The number of layers of a group that leaves the fewest places empty; the larger of two that leave as many."""
    return min(range(least, max(counts) + 1), key=lambda d: (sum(-n % d for n in counts), -d))
