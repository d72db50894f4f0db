"""What chooses the cached tokens that attention sees: small keys of their own beside the cache.

References: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/deepseek_v32/modeling_deepseek_v32.py
(DeepseekV32Indexer), .../minimax_m3_vl/modeling_minimax_m3_vl.py (MiniMaxM3VLIndexer), .../cache_utils.py
(DynamicIndexedLayer).
"""

from __future__ import annotations

from collections.abc import Iterator

from tonnage.arch.layers import Linear, Norm
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor


class Indexer(Record):
    """DeepSeek's lightning indexer: queries from the compressed query, one key for all heads, weights of the heads.

    Args:
        name: path of the module below its layer.
        D: residual width.
        R: rank of the compressed query.
        N: heads.
        H: width of a head.
    """

    name: str
    D: int
    R: int
    N: int
    H: int

    def weights(self) -> Iterator[Tensor]:
        """Queries, key with its norm, weights."""
        D: Axes = (("D", self.D),)
        key: Axes = (("H", self.H),)
        yield from Linear(f"{self.name}.wq_b", (("R", self.R),), (("X", self.N), *key), "attention").weights()
        yield from Linear(f"{self.name}.wk", D, key, "attention").weights()
        yield from Norm(f"{self.name}.k_norm", key, "layer", True).weights()
        yield from Linear(f"{self.name}.weights_proj", D, (("X", self.N),), "attention").weights()

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """One key a token."""
        yield Tensor("index keys", (("B", B), ("S", S), ("X", self.H)), "cache")


class BlockIndexer(Record):
    """MiniMax's indexer of blocks of tokens: queries of a few heads and one key for all, normed.

    Args:
        name: path of the module below its layer.
        D: residual width.
        N: heads.
        H: width of a head.
    """

    name: str
    D: int
    N: int
    H: int

    def weights(self) -> Iterator[Tensor]:
        """Queries and key with their norms."""
        D: Axes = (("D", self.D),)
        key: Axes = (("H", self.H),)
        yield from Linear(f"{self.name}.q_proj", D, (("X", self.N), *key), "attention").weights()
        yield from Linear(f"{self.name}.k_proj", D, key, "attention").weights()
        for part in ("q", "k"):
            yield from Norm(f"{self.name}.{part}_norm", key).weights()

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """One key a token."""
        yield Tensor("index keys", (("B", B), ("S", S), ("X", self.H)), "cache")


class IndexKeys(Record):
    """What an indexer keeps without the matrices that make it: its key, and what stands beside it.

    Args:
        H: elements a token.
    """

    H: int

    def weights(self) -> Iterator[Tensor]:
        """None."""
        yield from ()

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """One row a token."""
        yield Tensor("index keys", (("B", B), ("S", S), ("X", self.H)), "cache")
