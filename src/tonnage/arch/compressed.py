"""DeepSeek-V4's attention: keys that are their own values, a window of them, and behind it entries that stand for many.

Every ``rate`` tokens make one entry of the cache; where an indexer chooses among the entries they overlap, and the
indexer keeps small ones of its own.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/deepseek_v4/
modeling_deepseek_v4.py (DeepseekV4Attention, DeepseekV4HCACompressor, DeepseekV4CSACompressor, DeepseekV4Indexer,
DeepseekV4HCACache).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

from tonnage.arch import ops
from tonnage.arch.eager import EagerStyle, tokens_first
from tonnage.arch.forward import Forward
from tonnage.arch.kernels import attend
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.mixers.delta_rule import relaid
from tonnage.arch.sparse.entries import angles, grouped, overlapping, pooled, turned
from tonnage.arch.streams import rms_bare
from tonnage.arch.tape import Value
from tonnage.arch.untraced import untold
from tonnage.errors import UnsupportedError
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
        for matrix in self._matrices():
            yield from matrix.weights()
        yield from self._norm().weights()
        for rotary in self.rotary:
            yield from rotary.weights()

    def _matrices(self) -> tuple[Linear, Linear]:
        """What makes keys, and their weights in an entry."""
        parts: Axes = (("X", 2 if self.overlaps else 1), ("H", self.H))
        one, two = (
            Linear(f"{self.name}.{name}", (("D", self.D),), parts, "attention") for name in ("kv_proj", "gate_proj")
        )
        return one, two

    def _norm(self) -> Norm:
        return Norm(f"{self.name}.kv_norm", (("H", self.H),), "rms-fp32-weight")

    def entries(self, f: Forward, x: Value, width: int, names: list[Value]) -> Value:
        """The entries of all whole windows, turned: axes ``B S H``. ``names`` is to have what the code names."""
        tape, (B, T) = f.tape, x.axes[:2]
        n = ("S", T[1] // self.rate)
        both = ("H", self.H * (2 if self.overlaps else 1))
        form = tape.form_of(f"{self.name}.kv_proj")
        if tape.autocast is None and form != x.dtype:
            raise UnsupportedError(
                f"transformers keeps {self.name}.kv_proj in {form}, and torch multiplies no {x.dtype} by it",
                key="precision", value=x.dtype, hint="--precision bf16, or fp16-autocast",
            )  # fmt: skip
        keys, gate = (matrix.forward(f, x).view((B, T, both)) for matrix in self._matrices())
        names += [keys, gate]
        if not n[1]:
            return tape.new("no entries", (B, n, ("H", self.H)), keys.dtype)
        if T[1] % self.rate:
            used = (B, ("T", n[1] * self.rate), both)
            keys, gate = ops.narrow(keys, used), ops.narrow(gate, used)
        windows: Axes = (B, n, ("T", self.rate), both)
        shifts = tape.parameter(f"{self.name}.position_bias", (("X", self.rate), both))
        keys, gate = keys.view(windows), ops.add(gate.view(windows), shifts, "shifted weights")
        names += [keys, gate]
        if self.overlaps:
            keys, gate = overlapping((keys, gate), self.H)
            names += [keys, gate]
        entries = self._norm().forward(f, pooled(keys, gate))
        counted = [tape.new("numbers of entries", (n,), "int64")]
        if self.overlaps:
            counted = [tape.new("first tokens, from 0", (n,), "int64")]
        else:
            counted.append(tape.new("first tokens, from 0", (n,), "int64"))
        names.append(tape.new("first tokens", (n,), "int64"))
        counted.clear()
        tables = angles(tape, (B, n), width, entries.dtype)
        names += tables
        entries = turned(entries.view((B, ("K", 1), n, ("H", self.H))), *tables, width, (B, ("K", 1), n, ("H", self.H)))
        return entries.view((B, n, ("H", self.H)))

    def forward(
        self,
        f: Forward,
        x: Value,
        residual: Value,
        width: int,
        chooses: Callable[[Forward, Value, Value, int], Value] | None,
    ) -> tuple[Value, Value | None]:
        """The entries, and what hides them from tokens: those that are later, and those that ``chooses`` leaves out."""
        tape, (B, T), names = f.tape, x.axes[:2], list[Value]()
        entries = self.entries(f, x, width, names)
        n = entries.axes[1]
        bias: Value | None = None
        if chooses is not None:
            chosen = chooses(f, x, residual, width)
            valid = tape.new("chosen entries that are ready", chosen.axes, "bool")
            beyond = [tape.new("one beyond the entries", chosen.axes, "int64")]
            safe = tape.new("chosen entries, or one beyond", chosen.axes, "int64")
            beyond.clear()
            bias = tape.new("mask of entries", (B, ("X", 1), T, ("S", n[1] + 1)), entries.dtype)
            del chosen, valid, safe
        elif n[1] and T[1] > 1:
            numbers = tape.new("numbers of entries", (n,), "int64")
            before = [tape.new("tokens before an entry, and one", (T,), "int64")]
            ready = tape.new("entries that are ready", (T,), "int64")
            before.clear()
            axes: Axes = (B, ("X", 1), T, n)
            bias = tape.new("zeros", axes, entries.dtype)
            later = [tape.new("later entries", (T, n), "bool")]
            bias = tape.new("mask of entries", axes, entries.dtype)
            later.clear()
            del numbers, ready
        names.clear()
        return entries, bias

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
        top: entries that the indexer chooses for each token, where there are as many.
        dropout: of the attention weights.
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
    top: int = 512
    dropout: float = 0.0
    causal: ClassVar[bool] = True
    softcap: ClassVar[bool] = False
    remark: ClassVar[str] = (
        "attention over compressed entries is as transformers trains it: eager, over all pairs of tokens and all "
        "entries. Kernels that read a window and the chosen entries alone are not modelled, and would keep far less"
    )
    eager: ClassVar[EagerStyle] = "sinks"

    def _parts(self) -> tuple[Linear, Norm, Linear, Linear, Norm, Linear, Linear]:
        """What makes queries, in three steps, the one key with its norm, outputs in two steps."""
        name, D, R, head = self.name, (("D", self.D),), (("R", self.R),), (("H", self.H),)
        latent: Axes = (("X", self.G), ("R", self.O))
        return (
            Linear(f"{name}.q_a_proj", D, R, "attention"),
            Norm(f"{name}.q_a_norm", R, "rms-fp32-weight"),
            Linear(f"{name}.q_b_proj", R, (("N", self.N), *head), "attention"),
            Linear(f"{name}.kv_proj", D, head, "attention"),
            Norm(f"{name}.kv_norm", head, "rms-fp32-weight"),
            Linear(f"{name}.o_a_proj", (("N", self.N // self.G), *head), latent, "attention"),
            Linear(f"{name}.o_b_proj", latent, D, "attention"),
        )

    def weights(self) -> Iterator[Tensor]:
        """Queries, the one key, outputs in two steps, sinks, and what compresses."""
        R = (("R", self.R),)
        yield Tensor(f"{self.name}.sinks", (("N", self.N),), "attention")
        for part in self._parts():
            yield from part.weights()
        for compressor in (self.compressor, self.indexer):
            if compressor is not None:
                yield from compressor.weights()
        if self.indexer is not None:
            path, heads = self.indexer.name, ("X", self.index_heads)
            yield from Linear(f"{path}.q_b_proj", R, (heads, ("H", self.indexer.H)), "attention").weights()
            yield from Linear(f"{path}.scorer.weights_proj", (("D", self.D),), (heads,), "attention").weights()

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """The window's keys, and the entries of all tokens; without entries transformers keeps the values once more."""
        for part in ("keys", "values") if self.compressor is None else ("keys and values",):
            yield Tensor(part, (("B", B), ("S", S), ("K", 1), ("H", self.H)), "cache")
        for compressor in (self.compressor, self.indexer):
            if compressor is not None:
                yield from compressor.state(B, S)

    def forward(self, f: Forward, x: Value) -> Value:
        """Eager attention with sinks; every name of the modelled code stands to its end."""
        if f.mixer is None:
            raise untold("attention over compressed entries, outside of a training step on the next token,")
        (B, T), N, K, H = x.axes[:2], ("N", self.N), ("K", 1), ("H", self.H)
        compressor = self.compressor
        cosine, sine = f.rotary["main" if compressor is None else "compress"]
        width = 2 * cosine.axes[-1][1]
        first, norm, second, to_key, key_norm, outer, last = self._parts()
        residual = norm.forward(f, first.forward(f, x))
        q = second.forward(f, residual)
        q = rms_bare(q)
        q = turned(q, cosine, sine, width, (B, N, T, H))
        kv = key_norm.forward(f, to_key.forward(f, x)).view((B, T, K, H))
        kv = turned(kv, cosine, sine, width, (B, K, T, H))
        mask, names = f.masks[self.window], list[Value]()
        if compressor is not None:
            entries, bias = compressor.forward(f, x, residual, width, self._chooses if self.indexer else None)
            n = entries.axes[1][1]
            if f.tape.autocast is not None:
                kv = ops.cast(kv, ops.promoted(kv.dtype, entries.dtype))
            kv = ops.cat((kv, entries.view((B, K, ("T", n), H))), (B, K, ("T", T[1] + n), H), "keys and entries")
            if bias is not None:
                narrow = ops.cast(bias, mask.dtype)
                mask = f.tape.new("mask of keys and entries", (*mask.axes[:3], ("S", T[1] + n)), mask.dtype)
                del narrow
            names += [entries, mask, *([] if bias is None else [bias])]
            del bias, entries
        f.seen = mask
        out = relaid(attend(f, self, q, kv, kv))
        f.seen = None
        negated = f.tape.new("negated sine", sine.axes, sine.dtype)
        out = turned(out, cosine, negated, width, (B, N, T, H))
        del negated
        groups: Axes = (B, T, ("X", self.G), ("H", self.N // self.G * self.H))
        joined = tokens_first(out).view(groups)
        joined = grouped(f, outer, joined, self.G, outer.outs)
        y = last.forward(f, joined)
        del q, kv, residual, mask, names
        return y

    def _chooses(self, f: Forward, x: Value, residual: Value, width: int) -> Value:
        """Numbers of the entries that each token sees: axes ``B T X``. Nothing of it has a gradient."""
        assert self.indexer is not None
        tape, (B, T) = f.tape, x.axes[:2]
        since, path = len(tape.nodes), self.indexer.name
        N, H = ("N", self.index_heads), ("H", self.indexer.H)
        names: list[Value] = []
        keys = self.indexer.entries(f, x, width, names)
        n = keys.axes[1]
        tables = angles(tape, (T,), width, x.dtype)
        q = Linear(f"{path}.q_b_proj", (("R", self.R),), (("X", N[1]), H), "attention").forward(f, residual)
        q = turned(q.view((B, T, N, H)), *tables, width, (B, N, T, H))
        scores = self._scores(f, x, q, keys)
        if n[1]:
            before = [tape.new("tokens before an entry, and one", (T,), "int64")]
            ready = tape.new("entries that are ready", (T,), "int64")
            before.clear()
            numbers = tape.new("numbers of entries", (n,), "int64")
            later = tape.new("later entries", (T, n), "bool")
            masked = tape.new("masked scores", scores.axes, scores.dtype)
            tape.record((masked,), (scores,), lambda g: (g,), (later,))
            scores = masked
            axes: Axes = (B, T, ("X", min(self.top, n[1])))
            best = [tape.new("highest scores", axes, scores.dtype)]
            places = tape.new("places of the highest", axes, "int64")
            best.clear()
            beyond = tape.new("entries that are not ready", axes, "bool")
            none = tape.new("no entry", axes, "int64")
            chosen = tape.new("chosen entries", axes, "int64")
            del ready, numbers, later, masked, places, beyond, none
        else:
            chosen = tape.new("chosen entries", (B, T, ("X", 0)), "int64")
        tape.forget(since)
        del q, scores, keys, names, tables
        return chosen

    def _scores(self, f: Forward, x: Value, q: Value, keys: Value) -> Value:
        """What every token's heads find in the entries, weighed and added up: axes ``B T X``."""
        B, N, T, H = q.axes
        n = keys.axes[1]
        wide = ops.lowered(ops.cast(q, "fp32")), ops.lowered(ops.cast(keys, "fp32"))
        left, right = wide[0].view((B, T, N, H)), wide[1]
        if B[1] > 1:
            left = ops.copy(left, (B, T, N, H), "index queries by tokens")
            right = ops.copy(ops.expand(right, (B, T, H, n)), (B, T, H, n), "entries of every token")
        scores = ops.matmul(left, right, (B, T, N, n), "index scores of heads")
        del wide, left, right
        scores = ops.scaled(ops.unary(scores, "relu", saves="output"), "scaled index scores")
        assert self.indexer is not None
        matrix = Linear(f"{self.indexer.name}.scorer.weights_proj", (("D", self.D),), (N,), "attention")
        weights = ops.scaled(ops.cast(matrix.forward(f, x), "fp32"), "weights of heads")
        weighed = ops.mul(scores, weights, "weighed index scores", axes=scores.axes)
        out = f.tape.new("index scores", (B, T, n), weighed.dtype)
        f.tape.record((out,), (weighed,), lambda g: (g,), ())
        return out
