"""DeepSeek-V4's attention: keys that are their own values, a window of them, and behind it entries that stand for many.

Every ``rate`` tokens make one entry of the cache; where an indexer chooses among the entries they overlap, and the
indexer keeps small ones of its own.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/deepseek_v4/
modeling_deepseek_v4.py (DeepseekV4Attention, DeepseekV4HCACompressor, DeepseekV4CSACompressor, DeepseekV4Indexer,
DeepseekV4HCACache).
"""

from __future__ import annotations

from collections.abc import Iterator

from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.tape import Value
from tonnage.arch.untraced import untold
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor


class Compressor(Record):
    """What makes one entry of ``rate`` tokens.

    Args:
        name: path of the module below its layer.
        D: residual width.
        H: width of an entry.
        rate: tokens of an entry.
        overlaps: neighbouring entries share tokens, so that every token has two parts.
        rotary: tables of rotation angles, which every compressor has for itself.
    """

    name: str
    D: int
    H: int
    rate: int
    overlaps: bool
    rotary: tuple[Rotary, ...]

    def weights(self) -> Iterator[Tensor]:
        """Shifts of the positions, entries and their weights, a norm, rotary buffers."""
        parts: Axes = (("X", 2 if self.overlaps else 1), ("H", self.H))
        yield Tensor(f"{self.name}.position_bias", (("X", self.rate), *parts), "attention", (1, 2))
        for matrix in ("kv_proj", "gate_proj"):
            yield from Linear(f"{self.name}.{matrix}", (("D", self.D),), parts, "attention").weights()
        yield from Norm(f"{self.name}.kv_norm", (("H", self.H),)).weights()
        for rotary in self.rotary:
            yield from rotary.weights()

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """The entries of ``S`` tokens, and what waits for the next one: a state, for it does not grow with every token.

        Leaves out: that right after a prompt was read, what waits is a view of the whole prompt's.
        """
        waiting, width = S % self.rate, self.H * (2 if self.overlaps else 1)
        yield Tensor("compressed entries", (("B", B), ("X", S // self.rate), ("H", self.H)), "state")
        for part in ("keys", "weights"):
            yield Tensor(f"{part} of the next entry", (("B", B), ("X", waiting), ("H", width)), "state")
            if self.overlaps and self.rate <= S:
                yield Tensor(f"{part} of the last entry", (("B", B), ("X", self.rate), ("H", self.H)), "state")


class Compressed(Record):
    """Attention of ``N`` heads over one key, which is the value as well, and over compressed entries.

    Args:
        name: path of the module below its layer.
        D: residual width.
        N: heads.
        H: width of a head.
        R: rank of the compressed query.
        G: groups of heads whose outputs are compressed together.
        O: rank of a group's output.
        window: tokens that a query sees, itself included.
        compressor: what makes entries; None where there are none.
        indexer: what makes the indexer's entries.
        index_heads: heads of the indexer.
    """

    name: str
    D: int
    N: int
    H: int
    R: int
    G: int
    O: int  # noqa: E741
    window: int
    compressor: Compressor | None = None
    indexer: Compressor | None = None
    index_heads: int = 0

    @property
    def working_set_modelled(self) -> bool:
        """The forward pass is not modelled."""
        return False

    def weights(self) -> Iterator[Tensor]:
        """Queries, the one key, outputs in two steps, sinks, and what compresses."""
        name, D, R, head = self.name, (("D", self.D),), (("R", self.R),), (("H", self.H),)
        latent: Axes = (("X", self.G), ("R", self.O))
        yield Tensor(f"{name}.sinks", (("N", self.N),), "attention")
        for part in (
            Linear(f"{name}.q_a_proj", D, R, "attention"),
            Norm(f"{name}.q_a_norm", R),
            Linear(f"{name}.q_b_proj", R, (("N", self.N), *head), "attention"),
            Linear(f"{name}.kv_proj", D, head, "attention"),
            Norm(f"{name}.kv_norm", head),
            Linear(f"{name}.o_a_proj", (("N", self.N // self.G), *head), latent, "attention"),
            Linear(f"{name}.o_b_proj", latent, D, "attention"),
        ):
            yield from part.weights()
        for compressor in (self.compressor, self.indexer):
            if compressor is not None:
                yield from compressor.weights()
        if self.indexer is not None:
            path, heads = self.indexer.name, ("X", self.index_heads)
            yield from Linear(f"{path}.q_b_proj", R, (heads, ("H", self.indexer.H)), "attention").weights()
            yield from Linear(f"{path}.scorer.weights_proj", D, (heads,), "attention").weights()

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """The window's keys, and the entries of all tokens; without entries transformers keeps the values once more."""
        for part in ("keys", "values") if self.compressor is None else ("keys and values",):
            yield Tensor(part, (("B", B), ("S", S), ("K", 1), ("H", self.H)), "cache")
        for compressor in (self.compressor, self.indexer):
            if compressor is not None:
                yield from compressor.state(B, S)

    def forward(self, f: Forward, x: Value) -> Value:
        """Not modelled."""
        raise untold("attention over compressed entries")
