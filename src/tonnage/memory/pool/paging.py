"""A pool of pages that layers of different kinds share, as vLLM plans it: groups, blocks, and what a request takes.

Layers whose pages are of one size share the blocks of one pool. A block is a page for every layer of a group; a group
is a set of layers with one table, and every group takes blocks of its own for a request. Nothing here is measured: all
of it follows from the layers' pages and the bytes that are there.

Reference: vllm-project/vllm v0.33.0 vllm/v1/core/kv_cache_planning.py, vllm/v1/kv_cache_interface.py,
vllm/platforms/interface.py ``_align_hybrid_block_size``; differences of older releases from the same files, then
vllm/v1/core/kv_cache_utils.py and vllm/model_executor/models/config.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from tonnage.errors import UnsupportedError
from tonnage.memory.pool.packed import packed, packed_bytes
from tonnage.memory.pool.pages import ENTRIES, FULL, Group, Page
from tonnage.record import Record
from tonnage.releases import Since, Version, since

CLOSE: Final[Since[float]] = (((0, 18), 1.5), ((0, 12), 1.25), ((0, 0), 1.0))
"""Kinds whose numbers of layers differ by less than this share the larger number as the size of a group."""
BY_WINDOW: Final[Since[bool]] = (((0, 9), True), ((0, 0), False))
"""Whether windows take fewer blocks; before, every layer had as many as a full one."""
BY_CHUNK: Final[Since[bool]] = (((0, 14), True), ((0, 0), False))
"""Whether chunks do so as well: until 0.13 they turned tables of several kinds off, unless an environment variable
allowed them."""
PADDED: Final[Since[bool]] = (((0, 24), True), ((0, 0), False))
"""Whether a page that does not divide the largest is padded to it; before, that is refused."""
BY_CONCURRENCY: Final[Since[bool]] = (((0, 21), True), ((0, 0), False))
"""Whether the tokens that are logged follow from concurrency; before, from blocks by group."""
NULL_BLOCK: Final[Since[int]] = (((0, 29), 1), ((0, 0), 0))
"""Blocks that the check for one whole request leaves out: the one that is never given away."""


class Demand(Record):
    """What a request may ask of the pool.

    Args:
        in_flight: tokens scheduled and not settled; windows keep blocks for them.
        states: blocks of a state.
        encoder: tokens that cross attention keeps.
        extra: tokens that a window keeps for several speculative modules.
        shards: ranks that share the tokens of what keeps all of them (decode context parallelism).
    """

    in_flight: int
    states: int = 1
    encoder: int = 0
    extra: int = 0
    shards: int = 1


class Pool(Record):
    """A pool as planned.

    Args:
        blocks: in it, on every rank.
        block_bytes: of one block, on this rank.
        per_request: blocks of a request of the longest length.
        longest: tokens of such a request.
        tokens: what the engine prints as its size.
        concurrency: requests of the longest length that it holds.
        page_tokens: tokens of a page of the first group.
        groups: how layers share tables.
        notes: lines that the engine prints while planning.
        null: blocks that one request cannot have.
        version: of the engine.
    """

    blocks: int
    block_bytes: int
    per_request: int
    longest: int
    tokens: int
    concurrency: float
    page_tokens: int
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()
    null: int = 0
    version: Version = (0, 0)

    @property
    def bytes(self) -> int:
        """What the pool takes on this rank."""
        return self.blocks * self.block_bytes

    @property
    def holds_one(self) -> bool:
        """Whether one request of the longest length fits: else the engine does not start."""
        return self.blocks - self.null >= self.per_request


def blocks_of(page: Page, longest: int, demand: Demand) -> int:
    """Blocks that a request of ``longest`` tokens takes of one group.

    >>> blocks_of(Page("sliding", 16, 1, window=1024), 262144, Demand(8192)), blocks_of(Page("full", 32, 1), 262144, Demand(0))
    (577, 8192)
    """  # noqa: E501
    if page.kind == "state":
        return demand.states
    if page.kind == "cross":
        return _up(demand.encoder, page.block)
    if page.kind == "sliding":
        assert page.window is not None
        return _up(min(page.window - 1 + demand.extra + demand.in_flight, longest), page.block) + 1
    if page.kind == "chunked":
        assert page.window is not None
        return _up(min(page.window + demand.in_flight, longest), page.block)
    return _up(longest, page.block * demand.shards)


def grouped(pages: Sequence[Page], version: Version) -> tuple[tuple[Group, ...], tuple[str, ...]]:
    """Tables of a model's layers.

    Returns:
        The groups, and the lines that the engine prints.

    Raises:
        UnsupportedError: pages of sizes that the release cannot make alike.
    """
    if any(p.kind == ENTRIES for p in pages):
        return packed(pages), ()
    chunked = any(p.kind == "chunked" for p in pages)
    if not since(version, BY_WINDOW) or (chunked and not since(version, BY_CHUNK)):
        pages = [p.but(kind="full", window=None) if p.kind in ("sliding", "chunked") else p for p in pages]
    if _one_type(pages):
        return (Group(tuple(range(len(pages))), tuple(pages)),), ()
    pages = _alike(pages, version)
    buckets: dict[tuple[object, ...], list[int]] = {}
    for i, page in enumerate(pages):
        buckets.setdefault(page.key, []).append(i)
    counts = [len(found) for found in buckets.values()]
    size = max(counts) if max(counts) < min(counts) * since(version, CLOSE) else min(counts)
    groups, notes = [], []
    for found in buckets.values():
        missing = -len(found) % size
        if missing:
            share = missing / len(found) * 100
            notes.append(f"Add {missing} padding layers, may waste at most {share:.2f}% KV cache memory")
        n = _up(len(found), size)
        groups += [Group(tuple(found[i::n]), tuple(pages[j] for j in found[i::n])) for i in range(n)]
    return tuple(groups), tuple(notes)


def plan(
    pages: Sequence[Page],
    available: int,
    longest: int,
    demand: Demand,
    version: Version,
    *,
    ranks: Sequence[tuple[Iterable[int], int]] = (),
) -> Pool:
    """The pool that fits into the bytes that are there.

    Args:
        pages: of every layer of the model that keeps anything, in order.
        available: bytes for the pool. [byte]
        longest: tokens of a whole request.
        demand: what else requests may ask.
        version: of the engine.
        ranks: pipeline stages, each with the pages that it holds and its bytes; the smallest decides. None: one.

    Returns:
        The pool, its bytes those of the fullest stage.
    """
    groups, notes = grouped(pages, version)
    stages = ranks or ((range(len(pages)), available),)
    blocks, largest = None, 0
    for layers, room in stages:
        here = frozenset(layers)
        size = block_bytes(groups, here, version)
        if size:
            blocks = max(room, 0) // size if blocks is None else min(blocks, max(room, 0) // size)
            largest = max(largest, size)
    n = blocks or 0
    per_request = sum(max(blocks_of(page, longest, demand) for page in group.pages) for group in groups)
    concurrency = n / per_request
    if since(version, BY_CONCURRENCY):
        tokens = int(concurrency * longest)
    else:
        tokens = n // len(groups) * min(page.block for group in groups for page in group.pages) * demand.shards
    return Pool(
        blocks=n,
        block_bytes=largest,
        per_request=per_request,
        longest=longest,
        tokens=tokens,
        concurrency=concurrency,
        page_tokens=groups[0].pages[0].block,
        groups=groups,
        notes=notes,
        null=since(version, NULL_BLOCK),
        version=version,
    )


def aligned(state: int, token: int, block: int, alignment: int) -> tuple[int, int, tuple[str, ...]]:
    """Pages of attention as large as a state, and the state's page padded to them.

    Args:
        state: bytes of one state.
        token: bytes of a token of attention.
        block: tokens of a page before.
        alignment: of which the tokens of a page are a multiple.

    Returns:
        Tokens of a page, its bytes, and the lines that the engine prints.

    >>> aligned(30720 + 1572864, 1024, 16, 16)[0]
    1568
    """
    tokens, notes = max(block, alignment * _up(state, alignment * token)), []
    if tokens > block:
        notes.append(
            f"Setting attention block size to {tokens} tokens to ensure that attention page size is >= mamba page size."
        )
    size = tokens * token
    if size != state:
        notes.append(
            f"Padding mamba page size by {100 * (size - state) / state:.2f}% to ensure that mamba page size and "
            "attention page size are exactly equal."
        )
    return tokens, size, tuple(notes)


def _one_type(pages: Sequence[Page]) -> bool:
    """Whether all layers need as many blocks of as many tokens: they share one table, whatever their widths."""
    first = pages[0]
    if len({page.block for page in pages}) > 1:
        return False
    if first.kind in FULL:
        return all(page.kind in FULL for page in pages)
    if first.kind == "state":
        return all(page.kind == "state" and page.size == first.size for page in pages)
    return all(page.kind == first.kind and page.window == first.window for page in pages)


def _alike(pages: Sequence[Page], version: Version) -> list[Page]:
    """Pages of one size: more tokens where that is enough, padding where not."""
    largest = max(page.size for page in pages)
    out = []
    for page in pages:
        if page.size == largest:
            out.append(page)
        elif page.kind == "state":
            out.append(page.but(padded=largest))
        elif largest % page.size == 0:
            out.append(page.but(block=page.block * (largest // page.size)))
        elif since(version, PADDED) and page.kind not in ("latent", "indexer"):
            out.append(page.but(padded=largest))
        else:
            raise UnsupportedError(
                f"pages of {page.size:,} and of {largest:,} bytes: this release of vLLM cannot make them alike",
                key="engine_version", value=".".join(map(str, version)), hint="a newer release, or another kv_dtype",
            )  # fmt: skip
    return out


def _up(a: int, b: int) -> int:
    return -(-a // b)


def stage_bytes(pool: Pool, pages: Iterable[int]) -> int:
    """Bytes of one block on a rank that holds these pages."""
    return block_bytes(pool.groups, frozenset(pages), pool.version)


def block_bytes(groups: Sequence[Group], here: frozenset[int], version: Version) -> int:
    """Bytes of one block on a rank that holds the pages ``here``: the widest group's; packed pages have rules."""
    if any(p.kind == ENTRIES for g in groups for p in g.pages):
        return packed_bytes(groups, here, version)
    return max(sum(p.size for i, p in zip(g.layers, g.pages, strict=True) if i in here) for g in groups)
