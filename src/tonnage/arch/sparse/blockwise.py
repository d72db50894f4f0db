"""Attention that is sparse in blocks: the first, the last, neighbours, and some at random (BigBird, arXiv:2007.14062).

Scores of the first two blocks of queries, of those between and of the last two are products of their own. Behind them
the weights are written into a matrix of every token by every other, which is handed back and not looked at.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/big_bird/modeling_big_bird.py
(BigBirdBlockSparseAttention)

Leaves out: sequences so short that attention is full, those that are padded to whole blocks, and a mask in another
format than the one of ones that the model makes for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear
from tonnage.arch.sparse.adjacent import by_heads, multiplied
from tonnage.arch.sparse.sparse_ends import BAND
from tonnage.arch.tape import Grads, Tape, Value
from tonnage.arch.untraced import untold
from tonnage.errors import UnsupportedError
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor


class Blockwise(Record):
    """Attention sparse in blocks.

    Args:
        name: path of the module below its layer.
        D: residual width.
        N: heads.
        H: width of a head.
        block: tokens of a block.
        random: blocks that a block sees at random.
        bias: whether queries, keys and values have one.
    """

    module: ClassVar[str] = "attention"
    working_set_modelled: ClassVar[bool] = False
    causal: ClassVar[bool] = False

    name: str
    D: int
    N: int
    H: int
    block: int
    random: int
    bias: bool = True

    def _matrix(self, part: str) -> Linear:
        heads: Axes = (("N", self.N), ("H", self.H))
        return Linear(f"{self.name}.self.{part}", (("D", self.D),), heads, "attention", self.bias)

    def _output(self) -> Linear:
        heads: Axes = (("N", self.N), ("H", self.H))
        return Linear(f"{self.name}.output.dense", heads, (("D", self.D),), "attention", True)

    def weights(self) -> Iterator[Tensor]:
        """Four matrices."""
        for matrix in (*map(self._matrix, ("query", "key", "value")), self._output()):
            yield from matrix.weights()

    def forward(self, f: Forward, x: Value) -> Value:
        """The block's output; the matrix of all weights is named until the layer returns."""
        if not f.tape.grad or f.tuning is not None:
            raise untold("BigBird's sparse attention" + (" with adapters or packed weights" * f.tape.grad))
        self._checked(x.axes[1][1])
        out = self._attended(f, x)
        return self._output().forward(f, out)

    def _checked(self, tokens: int) -> None:
        least = (5 + 2 * self.random) * self.block
        if tokens <= least or tokens % self.block:
            why = f"of at most {least:,} tokens, of which attention is full" if tokens <= least else "that are padded"
            raise UnsupportedError(
                f"seq = {tokens:,}: BigBird's sequences {why} are not modelled", key="seq", value=tokens,
                hint=f"--seq {max(-(-tokens // self.block), least // self.block + 1) * self.block}",
            )  # fmt: skip

    def _attended(self, f: Forward, x: Value) -> Value:
        B, T, _ = x.axes
        ones, band = f.masks[None], f.masks[BAND]
        # Every layer casts the masks to the format of its input, but for those of the blocks.
        casts = [ops.cast(m, x.dtype, "mask cast") for m in (band, ones, ones)]
        del ones, band
        q, k, v = (by_heads(self._matrix(part).forward(f, x)) for part in ("query", "key", "value"))
        c = self._sparse(f, q, k, v, casts[1])
        out = _by_tokens(c, (B, T, ("N", self.N), ("H", self.H)))
        del q, k, v, c, casts
        return out

    def _sparse(self, f: Forward, q: Value, k: Value, v: Value, seen: Value) -> Value:
        """Contexts of all tokens, axes ``B N X T H``; ``seen`` is the mask that they are multiplied by."""
        tape, s, r, (B, N, T, H) = f.tape, self.block, self.random, q.axes
        n, form = T[1] // s, seen.dtype
        blocks: Axes = (B, N, ("X", n), ("T", s), H)
        one: Axes = (B, N, ("T", s), H)
        lot = tape.new("random blocks of a sequence", (N, ("X", n - 2), ("R", r)), "int64")
        chosen = tape.new("random blocks", (B, N, ("X", n - 2), ("R", r)), "int64")
        del lot
        found = tape.new("mask of random blocks, gathered", (B, N, ("X", n - 2), ("R", r), ("T", s)), "fp32")
        narrow = ops.lowered(found)
        low = narrow.dtype
        _rand_mask = tape.new("mask of random blocks", (B, N, ("X", n - 2), ("T", s), ("S", r * s)), low)
        del found, narrow
        qb, kb, vb = _seen(q, blocks), _seen(k, blocks), _seen(v, blocks)
        rows: Axes = (B, N, ("X", n - 2), ("T", r * s), H)
        gk, gv = _gathered(kb, chosen, rows), _gathered(vb, chosen, rows)
        wide: Axes = (B, N, ("T", s), ("S", T[1]))
        some: Axes = (B, N, ("T", s), ("S", (4 + r) * s))
        # Of one sequence, heads of some tokens lie as one.
        apart = B[1] > 1
        both = (apart, apart)

        # The first block sees every token.
        p1 = multiplied(_one(qb), k, wide, "scores", by_tokens=both)
        p1 = ops.scaled(p1, "scaled scores")
        _hides(tape, (B, T), form)
        w1 = ops.softmax(p1)
        c1 = _entered(multiplied(w1, v, one, "context", by_tokens=(False, apart)), copied=apart)
        # The second one its neighbours, the last and its own random blocks.
        edges = [self._edge(tape, qb, kb, vb, gk, gv, some, one, (form, low))]
        # Those between.
        mid: Axes = (B, N, ("X", n - 4), ("T", s), H)
        ek, ev = (
            ops.cat(tuple(ops.narrow(x, mid) for _ in range(3)), (*mid[:3], ("T", 3 * s), H), "neighbours")
            for x in (kb, vb)
        )
        mq = ops.narrow(qb, mid)
        inner = (*mid[:4], ("S", 3 * s))
        pi = multiplied(mq, ek, inner, "scores of neighbours", by_tokens=(True, False))
        pi = ops.scaled(pi, "scaled scores")
        middle: Axes = (B, N, ("X", n - 4), ("T", r * s), H)
        pr = multiplied(
            mq, ops.narrow(gk, middle), (*mid[:4], ("S", r * s)), "scores of random blocks", by_tokens=(True, True)
        )
        pr = ops.scaled(pr, "scaled scores")
        pf = ops.scaled(multiplied(mq, _one(kb), (*mid[:4], ("S", s)), "scores of an end", by_tokens=both), "scaled")
        pl = ops.scaled(multiplied(mq, _one(kb), (*mid[:4], ("S", s)), "scores of an end", by_tokens=both), "scaled")
        _hides(tape, (B, mid[2], ("T", s), ("S", 3 * s)), form)
        _hides(tape, (B, ("S", s)), form)
        _hides(tape, (B, ("S", s)), form)
        _hides(tape, (B, N, mid[2], ("T", s), ("S", r * s)), low)
        band = ops.cat((pf, pi, pr, pl), (*mid[:4], ("S", (5 + r) * s)), "scores of a band")
        w = ops.softmax(band)

        c = _entered(multiplied(_narrowed(w, 3 * s), ev, mid, "context"))
        c = self._more(c, w, r * s, lambda: ops.narrow(gv, middle), apart=True)
        for _ in range(2):
            c = self._more(c, w, s, lambda: _one(vb), apart=apart)
        edges.append(self._edge(tape, qb, kb, vb, gk, gv, some, one, (form, low)))
        p4 = multiplied(_one(qb), k, wide, "scores", by_tokens=both)
        p4 = ops.scaled(p4, "scaled scores")
        _hides(tape, (B, T), form)
        w4 = ops.softmax(p4)
        c4 = _entered(multiplied(w4, v, one, "context", by_tokens=(False, apart)), copied=apart)
        single = (*mid[:2], ("X", 1), *mid[3:])
        contexts = [y.view(single) for y in (c1, edges[0][0], edges[1][0], c4)]
        c = ops.cat((*contexts[:2], c, *contexts[2:]), blocks, "context of all blocks")
        contexts.clear()
        c = _masked(c, seen)
        every = tape.new("attention weights of all tokens", (B, N, T, ("S", T[1])), c.dtype)
        _numbers = tape.new("numbers of blocks", (("X", n - 4),), "int64")
        three = tape.new("numbers of neighbours", (("X", 3),), "int64")
        places = tape.new("places of neighbours", (("X", n - 4), ("S", 3)), "int64")
        del three
        f.held += [every, places]
        return c

    @staticmethod
    def _more(c: Value, weights: Value, tokens: int, values: Callable[[], Value], *, apart: bool) -> Value:
        """``context += torch.matmul(...)``: of some of the weights."""
        part = _narrowed(weights, tokens)
        found = multiplied(part, values(), c.axes, "context", by_tokens=(False, apart))
        return ops.add(c, _entered(found, copied=apart), in_place=True)

    def _edge(
        self,
        tape: Tape,
        q: Value,
        k: Value,
        v: Value,
        gk: Value,
        gv: Value,
        some: Axes,
        one: Axes,
        forms: tuple[str, str],
    ) -> tuple[Value, ...]:
        """The context of the second block or of the last but one, and what else its code names."""
        s, r, B = self.block, self.random, q.axes[0]
        rows: Axes = (*one[:2], ("T", (4 + r) * s), one[3])
        keys = ops.cat((*(_one(k) for _ in range(4)), _one(gk)), rows, "keys of a block")
        values = ops.cat((*(_one(v) for _ in range(4)), _one(gv)), rows, "values of a block")
        scores = multiplied(_one(q), keys, some, "scores", by_tokens=(B[1] > 1, False))
        ones = tape.new("ones", (B, ("S", r * s)), forms[0])
        pad = tape.new("mask of a block", (B, some[3]), forms[0])
        del ones
        ones = tape.new("ones", (*some[:3], ("S", 4 * s)), forms[1])
        rand = tape.new("mask of random blocks", some, forms[1])
        del ones
        scores = ops.scaled(scores, "scaled scores")
        wide = ops.promoted(*forms)
        least = tape.new("smaller of both masks", some, wide)
        turned = tape.new("hidden scores", some, wide)
        del least
        lowered = tape.new("lowest scores", some, wide)
        del turned, lowered
        weights = ops.softmax(scores)
        context = _entered(multiplied(weights, values, one, "context"), copied=B[1] > 1)
        return context, scores, weights, keys, values, pad, rand


def _one(x: Value) -> Value:
    """One of the blocks: a view, whose gradient is a whole tensor of zeros with the block filled in."""
    return ops.narrow(x, (*x.axes[:2], *x.axes[3:]))


def _narrowed(weights: Value, tokens: int) -> Value:
    """Weights of so many tokens."""
    return ops.narrow(weights, (*weights.axes[:-1], ("S", tokens)))


def _hides(tape: Tape, axes: Axes, form: str) -> None:
    """``scores += (1.0 - mask) * -10000.0``: what is made for that."""
    turned = tape.new("hidden scores", axes, form)
    lowest = tape.new("lowest scores", axes, form)
    del turned, lowest


def _seen(x: Value, axes: Axes) -> Value:
    """Tokens in blocks: a view."""
    before, out = x.axes, Value(x.storage, axes, x.dtype)
    x.tape.record((out,), (x,), lambda g: (g.view(before),), ())
    return out


def _entered(x: Value, *, copied: bool = True) -> Value:
    """What a product made, as it stands in a larger tensor: its gradient is cut out of that one's, and copied."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = Value(x.storage, axes, dtype)

    def back(g: Value) -> Grads:
        return (tape.new("gradient of context", axes, dtype) if copied else g.view(axes),)

    tape.record((out,), (x,), back, ())
    return out


def _gathered(x: Value, places: Value, axes: Axes) -> Value:
    """``torch_gather_b2``: keeps what is gathered from, and the places."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = tape.new("random blocks, gathered", axes, dtype)
    tape.record((out,), (x,), lambda g: (tape.new("gradient by blocks", before, dtype),), (x, places))
    return out


def _masked(x: Value, mask: Value) -> Value:
    """``context * from_mask``: keeps the mask, in whose format the product is."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    wide = ops.promoted(dtype, mask.dtype)
    out = tape.new("masked context", before, wide)

    def back(g: Value) -> Grads:
        return (ops.fitted(tape.new("gradient of context", before, wide), before, dtype),)

    tape.record((out,), (x,), back, (mask,))
    return out


def _by_tokens(x: Value, axes: Axes) -> Value:
    """``transpose(1, 2).contiguous()``: a copy, whose gradient is seen the other way round."""
    tape, before = x.tape, x.axes
    out = tape.new("attention output, transposed", axes, x.dtype)
    tape.record((out,), (x,), lambda g: (g.view(before),), ())
    return out
