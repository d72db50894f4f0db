"""Training of embeddings: columns of texts, of which each text is one vector, and losses of these vectors.

Reference: https://github.com/UKPLab/sentence-transformers/blob/v6.2.0/sentence_transformers/ base/losses/
merged_forward.py (embed_columns), base/losses/gradcache.py, sentence_transformer/modules/pooling.py,
sentence_transformer/losses/ (multiple_negatives_ranking.py, cosent.py, cosine_similarity.py, contrastive.py,
triplet.py, matryoshka.py, cached_multiple_negatives_ranking.py)
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.loss import Loss
from tonnage.arch.tape import HALF, Grads, Tape, Value
from tonnage.tensors import Axes


class Pooled(Loss):
    """The vectors of a column, which a later pass compares with its own.

    Args:
        shrinks: they are brought to length one at once, as those of Matryoshka embeddings are at every width.
    """

    shrinks: bool = False

    def forward(self, f: Forward, head: Head | None, x: Value, labels: Value) -> Value:
        """Means over the tokens of a text, axes ``B D``."""
        vectors = pooled(f.tape, x)
        return unit(vectors, vectors.dtype) if self.shrinks else vectors


class Surrogate(Loss):
    """A mini-batch whose vectors' gradients are there already: their product with the vectors.

    Args:
        texts: of the whole batch, all columns together.
    """

    texts: int

    def inputs(self, tape: Tape, ids: Axes) -> list[Value]:
        """Ids and masks of the whole batch, of which a mini-batch is a view."""
        rest = self.texts - ids[0][1]
        whole = tape.new("masks", (("B", self.texts), ids[1]), "int64")
        return [whole, *([tape.new("other ids", (("B", rest), ids[1]), "int64")] if rest else [])]

    def forward(self, f: Forward, head: Head | None, x: Value, labels: Value) -> Value:
        """A number."""
        tape = f.tape
        vectors = pooled(tape, x)
        del x
        tape.category = "loss"
        known = tape.new("cached gradient", vectors.axes, "fp32" if vectors.dtype in HALF else vectors.dtype)
        flat = ops.cast(vectors, "fp32") if vectors.dtype in HALF else vectors
        axes, dtype = flat.axes, flat.dtype
        out = tape.new("product", (), dtype)
        tape.record((out,), (flat,), lambda g: (tape.new("gradient of product", axes, dtype),), (known,))
        return ops.scaled(out)


class Contrast(Loss):
    """A loss of the vectors of this pass, which are all columns but the first, and of those of the first.

    Args:
        columns: of an example, the first one included.
        table: every first text is compared with all others of the batch (arXiv:1705.00652), not only with its own.
        dims: widths at which the vectors are compared beside their own (arXiv:2205.13147).
    """

    columns: int = 2
    table: bool = True
    dims: tuple[int, ...] = ()

    @property
    def joins(self) -> bool:  # type: ignore[override]
        """More columns than one run as one batch, which is a copy."""
        return self.columns > 2

    def inputs(self, tape: Tape, ids: Axes) -> list[Value]:
        """Masks, and the ids of the first texts."""
        first: Axes = (("B", ids[0][1] // (self.columns - 1)), ids[1])
        texts = (tape.new("ids and masks of first texts", first, "int64") for _ in range(2))
        labels = [] if self.table or self.joins else [tape.new("labels", first[:1], "fp32")]
        return [tape.new("masks", ids, "int64"), *texts, *labels]

    def named(self, tape: Tape, ids: Axes) -> list[Value]:
        """Ids and masks, joined."""
        return [tape.new("joined columns", ids, "int64") for _ in range(2)] if self.joins else []

    def forward(self, f: Forward, head: Head | None, x: Value, labels: Value) -> Value:
        """A number."""
        tape = f.tape
        vectors = pooled(tape, x)
        if self.joins and not self.dims:
            # The dictionary of columns that were joined is gone; that of one column is the trainer's.
            del x
        tape.category = "loss"
        (_, N), (_, D) = vectors.axes
        rows = N // (self.columns - 1)
        # The first pass left them.
        first = tape.leaf("first texts", (("X", 0),), vectors.dtype).view((("B", rows), ("D", D)))
        both, losses = (first, vectors), list[Value]()
        for width in (D, *self.dims):
            pair = tuple(ops.narrow(v, (v.axes[0], ("D", width))) for v in both) if width != D else both
            pair = tuple(unit(v, v.dtype) for v in pair) if self.dims else pair
            losses.append(_compared(*pair) if self.table else _apart(*pair))
        return _added(losses)


def pooled(tape: Tape, x: Value) -> Value:
    """The mean over the tokens that count, in the states' own format."""
    (B, T, D), dtype = x.axes, x.dtype
    mask = tape.new("mask in the states' format", (B, T, ("X", 1)), dtype)
    hand = [ops.mul(x, mask, "states that count")]
    sums = _over_tokens(hand.pop(), (B, D))
    counted = tape.new("numbers of tokens", (B, ("X", 1)), sums.dtype)
    return ops.cast(ops.mul(sums, counted, "means"), dtype)


def unit(x: Value, dtype: str = "fp32") -> Value:
    """``F.normalize`` in a format: keeps what it is given, its length, and that again, clamped."""
    x = ops.cast(x, dtype)
    tape, axes = x.tape, x.axes
    lengths = [tape.new(label, (axes[0], ("X", 1)), dtype) for label in ("length", "length, clamped")]
    out = tape.new("of length one", axes, dtype)

    def back(g: Value) -> Grads:
        of_length = tape.new("gradient of length, unsummed", axes, dtype)
        made = tape.new("gradient of one of length one", axes, dtype)
        del of_length
        again = tape.new("gradient by its length", axes, dtype)
        del again
        return (made,)

    tape.record((out,), (x,), back, (x, *lengths))
    return out


def _added(losses: list[Value]) -> Value:
    """Weighted and added up."""
    total = losses[0]
    for other in losses[1:]:
        total = ops.add(total, ops.scaled(other))
    return total


def _compared(first: Value, others: Value) -> Value:
    """Cross entropy of every first text over all others."""
    tape = others.tape
    N = others.axes[0][1]
    rows = first.axes[0]
    joined = ops.copy(others, label="texts, joined")
    queries, own = ops.copy(first, label="first texts, taken"), ops.copy(first, label="own texts")
    a, b = unit(queries), unit(joined)
    scores: Axes = (rows, ("V", N))
    similar = ops.scaled(ops.matmul(b, a, scores, "similarities"))
    whole = ops.cat((similar,), scores, "scores")
    out = tape.new("log of the sum", (rows,), "fp32")

    def back(g: Value) -> Grads:
        apart, share = (tape.new("gradient of scores", scores, "fp32") for _ in range(2))
        del apart
        return (share,)

    tape.record((out,), (whole,), back, (whole, out))
    del own
    return _mean(out)


def similarities(tape: Tape, rows: int, texts: int, others: int, width: int, dtype: str) -> None:
    """Some rows of the table forward and back, on a tape of their own.

    Args:
        tape: where.
        rows: of the table at once.
        texts: in the first column.
        others: in the other columns.
        width: of a vector.
        dtype: of the vectors.
    """
    D = ("D", width)
    joined = tape.new("first texts, joined", (("B", texts), D), dtype)
    first = tape.leaf("first texts, taken", (("B", rows), D), dtype)
    loss = _compared(first, tape.leaf("other texts, joined", (("B", others), D), dtype))
    assert loss.node is not None
    tape.backward((loss.node, loss.index), tape.new("gradient of loss", (), "fp32"))
    del joined, first


def _apart(first: Value, others: Value) -> Value:
    """Of every example some numbers, which are as many as there are examples."""
    tape = others.tape
    pair = unit(first), unit(others)
    axes = tuple(v.axes for v in pair)
    out = tape.new("similarities", axes[1][:1], "fp32")
    tape.record((out,), pair, lambda g: tuple(tape.new("gradient of similarities", x, "fp32") for x in axes), pair)
    return _mean(out)


def _mean(x: Value) -> Value:
    """``x.mean()``."""
    tape, axes = x.tape, x.axes
    out = tape.new("loss", (), x.dtype)
    tape.record((out,), (x,), lambda g: (g.view(axes),), ())
    return out


def _over_tokens(x: Value, axes: Axes) -> Value:
    """``x.sum(1, dtype=torch.float32)``: its gradient is seen as one for every token, in the format of ``x``."""
    tape, whole, dtype = x.tape, x.axes, x.dtype
    out = tape.new("sums over tokens", axes, "fp32" if dtype in HALF else dtype)

    def back(g: Value) -> Grads:
        return (tape.new("gradient of states", whole, dtype) if dtype in HALF else g.view(whole),)

    tape.record((out,), (x,), back, ())
    return out
