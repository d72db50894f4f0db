"""What chooses the cached tokens that attention sees: small keys of their own beside the cache.

References: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/deepseek_v32/modeling_deepseek_v32.py
(DeepseekV32Indexer), .../minimax_m3_vl/modeling_minimax_m3_vl.py (MiniMaxM3VLIndexer), .../cache_utils.py
(DynamicIndexedLayer).
"""

from __future__ import annotations

from collections.abc import Iterator

from tonnage.arch import ops
from tonnage.arch.eager import product, repeated
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.rotate import rotate
from tonnage.arch.tape import Tape, Value
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
        top: tokens that are chosen for each, where there are as many.
        style: how its queries and key are turned, as ``arch/rotate.py`` names it.
    """

    name: str
    D: int
    R: int
    N: int
    H: int
    top: int = 2048
    style: str = "plain"

    def _queries(self) -> Linear:
        outs: Axes = (("X", self.N), ("H", self.H))
        return Linear(f"{self.name}.wq_b", (("R", self.R),), outs, "attention")

    def _key(self) -> tuple[Linear, Norm]:
        key: Axes = (("H", self.H),)
        matrix = Linear(f"{self.name}.wk", (("D", self.D),), key, "attention")
        return matrix, Norm(f"{self.name}.k_norm", key, "layer", True)

    def _weights(self) -> Linear:
        return Linear(f"{self.name}.weights_proj", (("D", self.D),), (("X", self.N),), "attention")

    def weights(self) -> Iterator[Tensor]:
        """Queries, key with its norm, weights."""
        for part in (self._queries(), *self._key(), self._weights()):
            yield from part.weights()

    def forward(self, f: Forward, x: Value, compressed: Value, rotary: str, width: int) -> Value:
        """Numbers of the tokens that are chosen for each: axes ``B T X``, 4 B each. Autograd does not see it.

        Args:
            f: the pass.
            x: the block's input.
            compressed: its compressed query.
            rotary: which of the model's rotary tables turns the first ``width`` elements of a head.
            width: of these.
        """
        tape = f.tape
        recording, tape.recording = tape.recording, False
        try:
            return self._chosen(f, x.detached(), compressed.detached(), rotary, width)
        finally:
            tape.recording = recording

    def _chosen(self, f: Forward, x: Value, compressed: Value, rotary: str, width: int) -> Value:
        tape, (B, T) = f.tape, x.axes[:2]
        N, H, S = ("N", self.N), ("H", self.H), ("S", T[1])
        turned, rest = ("H", width), ("H", self.H - width)
        q = self._queries().forward(f, compressed).view((B, T, N, H))
        q_rot, q_pass = ops.split(q, ((B, T, N, turned), (B, T, N, rest)))
        matrix, norm = self._key()
        k = norm.forward(f, matrix.forward(f, x))
        k_rot, k_pass = ops.split(k, ((B, T, ("K", 1), turned), (B, T, ("K", 1), rest)))
        q_rot, k_rot = rotate(q_rot, k_rot, *f.rotary[rotary], width, style=self.style)
        q = ops.cat((q_rot, q_pass), (B, T, N, H), "index queries")
        k = ops.cat((k_rot, k_pass), (B, T, H), "index keys")
        scores = self._scores(f, q, k, (B, T, N, S))
        scores = ops.unary(scores, "relu")
        given = ops.cast(x, tape.form_of(f"{tape.prefix}{self._weights().name}.weight"))
        weights = ops.scaled(ops.cast(self._weights().forward(f, given), "fp32"), "weights of heads")
        del given
        index = ops.matmul(weights, scores, (B, T, S), "index scores")
        index = self._masked(f, index)
        places = self._highest(index)
        return ops.cast(places, "int32", "chosen tokens")

    def _scores(self, f: Forward, q: Value, k: Value, axes: Axes) -> Value:
        """Products of every head's queries with the one key of a token, which several sequences have copied."""
        wide, key = ops.cast(q, "fp32"), ops.cast(k, "fp32")
        left, right = ops.lowered(wide), ops.lowered(key)
        B, T, _, S = axes
        copied = [f.tape.new("index keys of every token", (B, T, ("H", self.H), S), right.dtype)] if B[1] > 1 else []
        out = f.tape.product("index scores of heads", axes, left.dtype)
        copied.clear()
        del wide, key, left, right
        return ops.scaled(out, "scaled index scores")

    def _masked(self, f: Forward, scores: Value) -> Value:
        mask = f.masks[None]
        if mask.dtype != "bool":
            return ops.add(scores, mask, "masked index scores")
        hidden = f.tape.new("tokens that are hidden", scores.axes, "bool")
        out = f.tape.new("masked index scores", scores.axes, scores.dtype)
        del hidden
        return out

    def _highest(self, scores: Value) -> Value:
        axes = (*scores.axes[:2], ("X", min(self.top, scores.axes[2][1])))
        values = scores.tape.new("highest index scores", axes, scores.dtype)
        places = scores.tape.new("places of the highest", axes, "int64")
        del values
        return places

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
        block: tokens of a block.
        top: blocks that are chosen for each token, where there are as many.
        local: blocks before a token that it sees in any case.
    """

    name: str
    D: int
    N: int
    H: int
    block: int = 128
    top: int = 16
    local: int = 1

    def _makers(self, part: str) -> tuple[Linear, Norm]:
        key: Axes = (("H", self.H),)
        rows: Axes = (("X", self.N), *key) if part == "q" else key
        matrix = Linear(f"{self.name}.{part}_proj", (("D", self.D),), rows, "attention")
        return matrix, Norm(f"{self.name}.{part}_norm", key, "rms-gemma")

    def weights(self) -> Iterator[Tensor]:
        """Queries and key with their norms."""
        parts = [self._makers(part) for part in ("q", "k")]
        for matrix, _ in parts:
            yield from matrix.weights()
        for _, norm in parts:
            yield from norm.weights()

    def forward(self, f: Forward, x: Value, tables: tuple[Value, Value]) -> Value:
        """Numbers of the blocks that are chosen for each head and token: axes ``B N T X``, 8 B each.

        Autograd records it, and lets go of it with the scores: numbers have no gradient.
        """
        tape, (B, T), N, H = f.tape, x.axes[:2], ("N", self.N), ("H", self.H)
        since = len(tape.nodes)
        q = self._projected(f, x, "q").view((B, T, N, H))
        k = self._projected(f, x, "k").view((B, T, ("K", 1), H))
        q, k = rotate(q, k, *tables, tables[0].axes[-1][1], style="rebound")
        count = -(-T[1] // self.block)
        scores = product(ops.cast(q, "fp32"), repeated(ops.cast(k, "fp32"), self.N))
        places = tape.new("places of keys", (T,), "int64")
        later = tape.new("later tokens", (B, ("X", 1), T, ("S", T[1])), "bool")
        scores = _filled(scores, later)
        if count * self.block > T[1]:
            scores = _padded(scores, count * self.block)
        best = _most(scores, (*scores.axes[:3], ("S", count)))
        own = tape.new("blocks of the tokens", (B, T), "int64")
        if self.local:
            near = self._near(tape, own)
            tape.record((best,), (best,), lambda g: (g,), (near,))
        axes: Axes = (*best.axes[:3], ("X", min(self.top, count)))
        highest = tape.new("highest scores of blocks", axes, best.dtype)
        chosen = tape.new("places of the highest", axes, "int64")
        none = tape.new("blocks that are later", axes, "bool")
        out = tape.new("chosen blocks", axes, "int64")
        tape.forget(since)
        del q, k, scores, places, later, best, own, highest, chosen, none
        return out

    def _projected(self, f: Forward, x: Value, part: str) -> Value:
        matrix, norm = self._makers(part)
        return norm.forward(f, matrix.forward(f, x))

    def _near(self, tape: Tape, own: Value) -> Value:
        """Numbers of the blocks that a token sees in any case."""
        counted = tape.new("blocks before", (("X", self.local),), "int64")
        below = tape.new("near blocks", (*own.axes, ("X", self.local)), "int64")
        near = tape.new("near blocks, from 0", below.axes, "int64")
        del counted, below
        return near

    def mask(self, f: Forward, chosen: Value, N: int, dtype: str) -> Value:
        """A mask of numbers for each of ``N`` heads: what is not in a chosen block is hidden, and what comes later."""
        tape, seen = f.tape, f.masks.get(None)
        B, heads, T, _ = chosen.axes
        blocks: Axes = (B, heads, T, ("S", -(-T[1] // self.block)))
        one: Axes = (B, ("X", 1), T, ("S", T[1]))
        whole: Axes = (B, ("N", N), T, ("S", T[1]))
        none = tape.new("none chosen", chosen.axes, "bool")
        safe = tape.new("chosen blocks, and one beyond", chosen.axes, "int64")
        del none
        bias = tape.new("bias of blocks", (*blocks[:3], ("S", blocks[3][1] + 1)), dtype)
        keep = tape.new("blocks that are seen", blocks, "bool")
        keep = tape.new("tokens of the blocks", (*blocks[:3], ("S", blocks[3][1] * self.block)), "bool")
        keep = tape.new("tokens that are seen", whole, "bool")
        if seen is not None:
            names = [tape.new("tokens not hidden", one, "bool")]
        else:
            names = [tape.new("places of keys", (T,), "int64"), tape.new("later tokens", one, "bool")]
            earlier = tape.new("tokens not later", one, "bool")
        both = tape.new("tokens seen in chosen blocks", whole, "bool")
        if seen is None:
            del earlier
        zeros = tape.new("zeros", whole, dtype)
        hidden = tape.new("hidden tokens", whole, "bool")
        out = tape.new("mask of chosen blocks", whole, dtype)
        del safe, bias, keep, names, both, zeros, hidden
        return out

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """One key a token."""
        yield Tensor("index keys", (("B", B), ("S", S), ("X", self.H)), "cache")


def _filled(x: Value, mask: Value) -> Value:
    """``x.masked_fill(mask, -inf)``: keeps the mask."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("masked scores", axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of masked scores", axes, dtype),), (mask,))
    return out


def _padded(x: Value, length: int) -> Value:
    """``F.pad`` of the last axis."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = tape.new("padded scores", (*before[:-1], ("S", length)), dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of padded scores", before, dtype),), ())
    return out


def _most(x: Value, axes: Axes) -> Value:
    """``amax``: keeps what it was given and what it found."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = tape.new("scores of blocks", axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient of scores", before, dtype),), (x, out))
    return out


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
