"""Pages of layers, and the groups of layers that share a table.

Reference: vllm-project/vllm v0.33.0 vllm/v1/kv_cache_interface.py ``KVCacheSpec``, ``KVCacheGroupSpec``.
"""

from __future__ import annotations

from typing import Final

from tonnage.record import Record

FULL: Final = ("full", "latent", "indexer")
"""Kinds that keep every token and count as one type."""
ENTRIES: Final = "entries"
"""Kind whose pages hold entries of several tokens; models with such have groups of their own making."""


class Page(Record):
    """Pages of one layer.

    Args:
        kind: "full", "latent", "indexer", "sliding", "chunked", "cross" or "state".
        block: tokens of a page.
        token: bytes of a token; 0 for a state. [byte]
        state: bytes of a state, of one size whatever the length. [byte]
        window: of a sliding or chunked layer.
        form: what else layers of one table have in common: heads, widths, format.
        padded: bytes of a page, where it is larger than what it holds. [byte]
        rate: tokens of what ``token`` is the size of.
    """

    kind: str
    block: int
    token: int = 0
    state: int = 0
    window: int | None = None
    form: tuple[object, ...] = ()
    padded: int | None = None
    rate: int = 1

    @property
    def size(self) -> int:
        """Bytes of a page.

        >>> Page("full", 16, 4096).size
        65536
        """
        return self.padded or (self.state if self.kind == "state" else self.block // self.rate * self.token)

    @property
    def key(self) -> tuple[object, ...]:
        """Layers with the same share a table."""
        return (self.kind in FULL and self.kind, self.kind, self.block, self.token, self.state, self.window, self.form,
                self.padded)  # fmt: skip


class Group(Record):
    """Layers with one table: their indices, and a page of each."""

    layers: tuple[int, ...]
    pages: tuple[Page, ...]

    @property
    def size(self) -> int:
        """Bytes of a block of this group."""
        return sum(page.size for page in self.pages)
