"""Embeddings: examples of several texts, each one vector, by the losses of sentence-transformers 6.2."""

from __future__ import annotations

from typing import Final

from tonnage.arch.objectives.embedded import Contrast, Surrogate
from tonnage.errors import InputError, UnsupportedError, nearest
from tonnage.estimate.objectives._objective import Asked, Objective, Parts

LOSSES: Final[dict[str, tuple[int, int | None]]] = {
    "mnrl": (2, None), "cached-mnrl": (2, None), "cosent": (2, 2), "cosine": (2, 2), "contrastive": (2, 2),
    "triplet": (3, 3),
}  # fmt: skip
"""By loss: the fewest columns of texts, and the most; the fewest where nothing is said."""
TABLES: Final = ("mnrl", "cached-mnrl")
"""Losses over all texts of a batch; the others compare each example with itself."""
ELSE: Final = {
    "gist": "a second model guides it", "cached-gist": "a second model guides it",
    "margin-mse": "it learns from scores that a cross-encoder gave", "distill-kl": "it learns from given scores",
    "adaptive-layer": "it asks for the states of every layer", "matryoshka-2d": "it asks for the states of every layer",
    "denoising": "a decoder is trained beside", "mega-batch-margin": "which mini-batch it keeps depends on the texts",
    "batch-hard-triplet": "its triplets depend on the labels", "online-contrastive": "its pairs depend on the texts",
    "cached-mnrl-symmetric": "its table is made twice", "mnrl-symmetric": "its table is made twice",
}  # fmt: skip
"""Losses of the library that are not modelled, and why."""
MINI: Final = 32
"""Default of sentence-transformers v6.2.0 losses/cached_multiple_negatives_ranking.py: mini_batch_size."""
TOLD: Final = "the first texts run by themselves{}, and both passes are kept"
MERGED: Final = ", the other {} columns as one batch"
CACHED: Final = (
    "{} texts of {} at a time: embedded without a graph, and again with one when the gradients of all vectors are there"
)
LEFT_OUT: Final = ("columns of different lengths, token types, and heads beside mean pooling",)


def embed(a: Asked) -> Parts:
    """Columns of texts and their loss.

    Raises:
        InputError: an unknown loss, columns or widths that it does not take.
        UnsupportedError: a loss that is not modelled.
    """
    w, batch = a.w, a.recipe.batch
    kind = (w.embed_loss or ("cached-mnrl" if w.mini_batch is not None else "mnrl")).lower()
    columns, dims = _columns(a, kind), _dims(a, kind)
    values = {"embed_loss": kind, "columns": columns, "matryoshka_dims": w.matryoshka_dims}
    if kind == "cached-mnrl":
        mini = min(w.mini_batch or MINI, batch)
        told = CACHED.format(f"{batch * columns:,}", mini)
        return Parts(
            Surrogate(batch * columns), columns=columns, cached=(batch, mini), told=(told,), left_out=LEFT_OUT,
            values=values | {"mini_batch": mini},
        )  # fmt: skip
    if w.mini_batch is not None:
        raise InputError(
            f"mini_batch = {w.mini_batch}: embed_loss = {kind} runs a batch as one", key="mini_batch",
            value=w.mini_batch, hint="--embed-loss cached-mnrl",
        )  # fmt: skip
    told = TOLD.format(MERGED.format(columns - 1) if columns > 2 else "")
    loss = Contrast(columns, kind in TABLES, dims)
    return Parts(loss, columns=columns, told=(told,), left_out=LEFT_OUT, values=values)


def _columns(a: Asked, kind: str) -> int:
    """Texts of an example."""
    if kind in ELSE:
        raise UnsupportedError(
            f"embed_loss = {kind} is not modelled: {ELSE[kind]}", key="embed_loss", value=kind,
            hint=f"one of {', '.join(LOSSES)}",
        )  # fmt: skip
    if kind not in LOSSES:
        raise InputError(
            f"unknown embed_loss {kind!r}", key="embed_loss", value=kind, nearest=nearest(kind, tuple(LOSSES)),
            hint=f"one of {', '.join(LOSSES)}",
        )  # fmt: skip
    least, most = LOSSES[kind]
    found = a.w.columns or least
    if found < least or (most is not None and found > most):
        raise InputError(
            f"columns = {found}: embed_loss = {kind} takes {least}{'' if most else ' or more'} texts an example",
            key="columns", value=found, hint=f"--columns {least}",
        )  # fmt: skip
    return found


def _dims(a: Asked, kind: str) -> tuple[int, ...]:
    """Widths of Matryoshka embeddings beside the model's own."""
    said, width = a.w.matryoshka_dims, a.model.decoder.stem.D
    if said is None:
        return ()
    parts = [part.strip() for part in said.split(",")]
    if not all(part.isdecimal() and 0 < int(part) <= width for part in parts):
        raise InputError(
            f"matryoshka_dims = {said}: widths from 1 to the model's {width:,} are meant", key="matryoshka_dims",
            value=said, hint=f"--matryoshka-dims {width // 2},{width // 4}",
        )  # fmt: skip
    if kind == "cached-mnrl":
        raise UnsupportedError(
            "matryoshka_dims with embed_loss = cached-mnrl is not modelled", key="matryoshka_dims", value=said,
            hint="leave matryoshka_dims out: only what is compared grows with it",
        )  # fmt: skip
    return tuple(n for n in map(int, parts) if n != width)


KEYS: Final = ("embed_loss", "columns", "mini_batch", "matryoshka_dims")
OBJECTIVE: Final = Objective("embed", embed, keys=KEYS, head="none", drops=True)
