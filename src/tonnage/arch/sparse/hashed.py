"""Attention among tokens that hash to the same bucket (Reformer's locality-sensitive hashing, arXiv:2001.04451).

Which token falls into which bucket is known to the data alone; how many there are, how they are sorted and cut into
chunks is not: every tensor has a size that the config tells.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/reformer/modeling_reformer.py
(LSHSelfAttention, ReverseSort)

Leaves out: what the kernel of a sort takes for itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tonnage.arch import ops
from tonnage.arch.exponentials import exp, log_sum_exp, picked
from tonnage.arch.forward import Forward
from tonnage.arch.sparse.adjacent import Adjacent, by_heads, in_chunks, lies_by_tokens, merged, multiplied, numbered
from tonnage.arch.tape import Grads, Tape, Value
from tonnage.tensors import Axes, Tensor


class Hashed(Adjacent):
    """Attention within chunks of tokens that are sorted by bucket; queries are the keys.

    Args:
        hashes: rounds of hashing.
        buckets: of a round, as factors; empty where they follow from the number of tokens.
        positions: the longest sequence, by which buckets are factorized.
    """

    names: ClassVar[tuple[str, ...]] = ("query_key", "value")
    masks: ClassVar[tuple[str, ...]] = (*Adjacent.masks, "self_mask_value_float16", "self_mask_value_float32")

    hashes: int = 1
    buckets: tuple[int, ...] = ()
    positions: int = 4096

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """A decoder's hidden states, and the bucket of every token."""
        yield from super().state(B, S)
        if self.causal:
            axes: Axes = (("B", B), ("S", S), ("N", self.N), ("X", self.hashes))
            yield Tensor("buckets", axes, "cache", dtype="int64")

    def heads(self, f: Forward, x: Value, buckets: Value | None) -> tuple[Value, Value | None]:
        """The heads' outputs and the tokens' buckets, which sequences of one chunk do not have."""
        tape, near, hashes = f.tape, self.near, self.hashes
        (B, T), N = x.axes[:2], ("N", self.N)
        vectors, values = [matrix.forward(f, x) for matrix in self.matrices()]
        vectors, values = by_heads(vectors), by_heads(values)
        many: Axes = (B, N, ("T", hashes * T[1]))
        sorts = T[1] > near.chunk
        if sorts:
            buckets = self._hashed(tape, vectors) if buckets is None else buckets
            order, back = _sorted(tape, many)
            places = tape.new("places in the sequence", many, "int64")
            vectors = in_chunks(_gathered(vectors, places, hashes), near)
            values = in_chunks(_gathered(values, places, hashes), near)
        else:
            places = numbered(tape, vectors.axes)
        keys = _normed(vectors)
        out, logits, _weights = self._attended(f, vectors, keys, values, places, sorts=sorts)
        del keys, values
        if sorts:
            out, logits = _reversed(out, logits, order, back, vectors.axes[0:2], used=hashes > 1)
            if hashes > 1:
                rounds: Axes = (B, N, ("X", hashes), T)
                out = out.view((*rounds, out.axes[-1]))
                logits = logits.view((*rounds, ("H", 1)))
                shares = exp(ops.sub(logits, log_sum_exp(logits, (B, N, ("X", 1), T, ("H", 1)))), "shares of rounds")
                out = _summed(ops.mul(out, shares, "shared output"))
                del shares
            del logits
            out = out.view((B, N, T, out.axes[-1]))
        return merged(out, x.axes), buckets

    def factors(self, tokens: int) -> tuple[int, ...]:
        """Buckets of a round, by factors (``_set_num_buckets`` where the config leaves them open)."""
        if self.buckets:
            return self.buckets
        chunk = self.near.chunk
        power = (2 * (tokens // chunk)).bit_length() - 1
        if 2**power > 2 * max(int((self.positions // chunk) ** 0.5), chunk):
            return 2 ** (power // 2), 2 ** (power - power // 2)
        return (2**power,)

    def _hashed(self, tape: Tape, vectors: Value) -> Value:
        """``_hash_vectors``: the bucket of every token in every round; no gradient reaches it."""
        factors, dtype = self.factors(vectors.axes[2][1]), vectors.dtype
        B, N, T, _ = vectors.axes
        rounds: Axes = (B, N, ("X", self.hashes), T)
        sides: Axes = (("X", self.hashes), ("R", sum(factors) // 2))
        rotations = tape.new("random rotations", (N, ("H", self.H), *sides), dtype)
        rotated = tape.product("rotated vectors", (*rounds, sides[1]), dtype)
        buckets = _highest(tape, rotated, rounds, factors[0]) if len(factors) > 1 else None
        if buckets is None:
            both = _both_sides(tape, rotated, rounds, factors[0])
            del rotated
            buckets = tape.new("buckets", rounds, "int64")
        else:
            for factor in factors[1:]:
                both = _both_sides(tape, rotated, rounds, factor)
                highest = tape.new("bucket of a factor", rounds, "int64")
                moved = tape.new("bucket of a factor, moved on", rounds, "int64")
                del highest
                buckets = tape.new("buckets", rounds, "int64")
                del moved
        numbers = tape.new("numbers of rounds", rounds[2:3], "int64")
        offsets = tape.new("offsets of rounds", rounds[2:3], "int64")
        del numbers
        found = tape.new("buckets of all rounds", rounds, "int64")
        del offsets, both, rotations
        return found

    def _attended(
        self, f: Forward, queries: Value, keys: Value, values: Value, places: Value, *, sorts: bool
    ) -> tuple[Value, Value, Value]:
        """Outputs, logarithms of the sums of their weights, and the weights, which the caller's code names."""
        tape, near = f.tape, self.near
        lies = (False, False)
        if sorts:
            keys, values = near.seen(keys), near.seen(values)
        else:
            lies = lies_by_tokens(queries), lies_by_tokens(keys)
        axes = (*queries.axes[:-1], ("S", keys.axes[-2][1]))
        scores = multiplied(queries, keys, axes, "scores", by_tokens=lies)
        del queries, keys
        seen = near.seen(places.view(near.chunked(places.axes))) if sorts else places
        scores = self.hidden(tape, scores)
        scores = picked(tape.new("mask of a token itself", scores.axes, "bool"), scores, "scores of others")
        logits = log_sum_exp(scores, (*scores.axes[:-1], ("X", 1)))
        weights = exp(ops.sub(scores, logits), "attention weights")
        del scores
        weights = ops.dropout(weights, self.dropout, f.training)
        out = multiplied(
            weights, values, (*weights.axes[:-1], values.axes[-1]), "attention output", by_tokens=(False, lies[1])
        )
        del values, seen
        return out, logits, weights


def _both_sides(tape: Tape, rotated: Value, rounds: Axes, buckets: int) -> Value:
    """``torch.cat([rotated, -rotated], -1)``: a number for every bucket."""
    negated = tape.new("rotated vectors, negated", (*rounds, ("R", buckets // 2)), rotated.dtype)
    both = tape.new("rotated vectors of both sides", (*rounds, ("R", buckets)), rotated.dtype)
    del negated
    return both


def _highest(tape: Tape, rotated: Value, rounds: Axes, buckets: int) -> Value:
    both = _both_sides(tape, rotated, rounds, buckets)
    found = tape.new("bucket of a factor", rounds, "int64")
    del both
    return found


def _sorted(tape: Tape, many: Axes) -> tuple[Value, Value]:
    """Where every token of every round lies when they are sorted by bucket, and the way back."""
    numbers = tape.new("numbers of tokens", many[2:], "int64")
    scaled = tape.new("scaled buckets", many, "int64")
    offset = tape.new("offsets of tokens", many, "int64")
    apart = tape.new("buckets and tokens", many, "int64")
    del scaled, offset
    values = tape.new("sorted buckets", many, "int64")
    order = tape.new("sorted tokens", many, "int64")
    del values, numbers, apart
    numbers = tape.new("numbers of tokens", many[2:], "int64")
    back = tape.new("places of tokens", many, "int64")
    del numbers
    return order, back


def _gathered(x: Value, places: Value, hashes: int) -> Value:
    """``x`` once for every round, sorted: keeps what is sorted and the places."""
    tape, once, dtype = x.tape, x.axes, x.dtype
    many = (*once[:2], places.axes[2], once[3])
    repeated = tape.new("vectors of every round", many, dtype)
    single = hashes == 1

    def summed(g: Value) -> Grads:
        return (g.view(once) if single else tape.new("summed over rounds", once, dtype),)

    tape.record((repeated,), (x,), summed, ())
    out = tape.new("sorted vectors", many, dtype)
    tape.record((out,), (repeated,), lambda g: (tape.new("gradient by tokens", many, dtype),), (repeated, places))
    return out


def _normed(x: Value) -> Value:
    """``_len_and_dim_norm``: divided by its length."""
    return ops.scaled(_of_length_one(x), "normed keys")


def _of_length_one(x: Value) -> Value:
    variance = _mean(ops.power(x, "square"))
    return ops.mul(x, ops.rsqrt(ops.shifted(variance)), "keys of one length")


def _mean(x: Value) -> Value:
    """``x.mean(-1, keepdim=True)``, whatever is behind it."""
    found = ops.mean(x)
    return found.view((*found.axes, ("H", 1)))


def _reversed(
    out: Value, logits: Value, order: Value, back: Value, leading: Axes, *, used: bool
) -> tuple[Value, Value]:
    """``ReverseSort``: outputs in the order of the tokens. Gradients are sorted again; one that is missing is zeros."""
    tape, dtype = out.tape, out.dtype
    sums: Axes = (*leading, order.axes[2])
    whole: Axes = (*sums, out.axes[-1])
    before, of_sums, form = out.axes, logits.axes, logits.dtype

    def behind(g: Value, h: Value | None) -> Grads:
        h = tape.new("no gradient of sums", sums, form) if h is None else h
        return (
            tape.new("gradient by buckets", before, dtype),
            tape.new("gradient of sums by buckets", of_sums, form),
        )

    outs = tape.new("output by tokens", whole, dtype), tape.new("sums by tokens", sums, form)
    tape.record(outs, (out, logits), behind, (order,), custom=True)
    return outs


def _summed(x: Value) -> Value:
    """``torch.sum(x, dim=2)``: the gradient is seen as one of every round."""
    tape, dtype = x.tape, x.dtype
    B, N, _, T, H = whole = x.axes
    out = tape.new("sum over rounds", (B, N, T, H), dtype)
    tape.record((out,), (x,), lambda g: (g.view(whole),), ())
    return out
