"""What chooses the cached tokens that attention sees: small keys of their own beside the cache.

References: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/deepseek_v32/modeling_deepseek_v32.py
(DeepseekV32Indexer), .../minimax_m3_vl/modeling_minimax_m3_vl.py (MiniMaxM3VLIndexer), .../cache_utils.py
(DynamicIndexedLayer).
"""

from __future__ import annotations

from collections.abc import Iterator

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.rotate import rotate
from tonnage.arch.tape import Value
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
