"""unsloth's fused head and loss: the gradient of the hidden states is made in the forward pass, from logits in fp32 of
which a part is there at a time.

A frozen head's go over the vocabulary in tiles, a product for each; else some rows are taken at a time, with all of
their logits. Rows without a label are left out, of which every sequence has one.

Reference: unsloth_zoo 2026.10.9, unsloth_zoo/fused_losses/fused_linear.py (``_ce_impl``, ``_tiled_forward``,
``fused_linear_rows``) and chunked_logprob.py (``unsloth_chunked_ce_loss``),
https://pypi.org/project/unsloth_zoo/2026.10.9/

Leaves out: that less is taken at a time where less than 4 GiB are free when the loss first runs.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.loss import Loss
from tonnage.arch.tape import Grads, Value, needs_grad

LOGIT: Final = 4
"""Bytes of a logit."""
TILE: Final = 256 * 2**20
"""Bytes of a tile of logits (``_BWD_TILE_BYTES``)."""
COLUMNS: Final = 16384
"""Tokens of the vocabulary that one program sums up (``_SPLIT_COLS``)."""
MOST: Final = 4096
"""Rows at a time (``_MAX_ROWS``, ``_BWD_ROWS``)."""
BUDGET: Final = 2 * 2**30
"""Bytes of logits that are taken at a time where rows are (``_CHUNK_GB``)."""
SMALL: Final = int(24.5 * 2**30)
"""Bytes of a card that is small (``_SMALL_CARD_BYTES``)."""
LEAST: Final = 512 * 151936
"""Logits that are taken at a time, at least (``_MIN_LOGITS``)."""


class FusedHead(Loss):
    """``fused_linear_cross_entropy``.

    Args:
        tiles_from: rows from which a frozen head's logits are made in tiles; None for never.
        narrow: a tile is as wide as one program sums up.
    """

    tiles_from: int | None = MOST
    narrow: bool = False

    def on(self, memory: int | None, architecture: str) -> Loss:
        """On cards of up to 24.5 GiB every frozen head's logits are made in narrow tiles; before sm_80, none are."""
        major = architecture.removeprefix("sm_").rstrip("abcdef")[:-1]
        if architecture.startswith("sm_") and major.isdigit() and int(major) < 8:
            return self.but(tiles_from=None)
        small = memory is not None and memory <= SMALL
        return self.but(tiles_from=0, narrow=True) if small else self

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """Mean cross entropy of what the head would make of ``x`` (axes ``B T D``)."""
        tape = f.tape
        tape.category = "loss"
        (_, B), (_, T), D = x.axes
        weight = tape.parameter(head.alias_of or f"{head.name}.weight", (("V", head.V), ("D", head.D)))
        form = tape.autocast or weight.dtype
        rows, counted = B * T, B * (T - 1)
        # How many labels there are, and what is made of it: zeros, sums, divisors and factors.
        numbers = tape.new("numbers", (("X", 7),), "fp32")
        padding = [tape.new("label that does not count", (("B", B), ("T", 1)), "int64")]
        targets = tape.new("shifted labels", labels.axes, "int64")
        padding.clear()
        kept = tape.new("counted labels", (("T", rows),), "bool")
        places = tape.new("places of counted labels", (("T", counted),), "int64")
        del kept
        flows, makes = needs_grad(x), needs_grad(weight)
        grads = [tape.new("gradient of hidden states", x.axes, x.dtype)] if flows else []
        if makes:
            grads.append(tape.new(f"{weight.name}'s gradient", weight.axes, weight.dtype))
        cast = None if weight.dtype == form else tape.new("cast head", weight.axes, form)
        likely = tape.new("log-probabilities", (("T", counted),), "fp32")
        tiled = self.tiles_from is not None and counted >= self.tiles_from and not makes and tiles(head.V) > 2
        if tiled:
            sums = tape.new("log-sum-exp", (("T", counted),), "fp32")
            self._in_tiles(f, head, D, counted, x.dtype, form)
            del sums
        else:
            self._by_rows(f, head, D, counted, x.dtype, form, weight.dtype if makes else None)
        del cast
        wide = tape.new("negative log-probabilities", (("T", counted),), "fp64")
        loss = tape.new("loss", (("X", 1),), "fp32")
        del wide, likely, places, targets, numbers
        held = tuple(g.detached() for g in grads)
        grads.clear()

        def back(g: Value) -> Grads:
            made = [tape.new("scaled gradient", v.axes, v.dtype) for v in held]
            for v in made:
                v.storage.viewed = True
            return (made[0] if flows else None, made[-1] if makes else None)

        tape.record((loss,), (x, weight), back, held)
        return loss

    def _in_tiles(self, f: Forward, head: Head, D: tuple[str, int], counted: int, given: str, form: str) -> None:
        """``_tiled_forward`` with the gradient, flash-style: a sum of probabilities times rows of the head."""
        tape = f.tape
        rows, columns = tile(counted, head.V, narrow=self.narrow)
        tape.category = "logits"
        logits = tape.new("tile of logits", (("T", rows), ("V", columns)), "fp32")
        tape.category = "loss"
        total = tape.new("sum over tiles", (("T", rows), D), "fp32")
        highest = tape.new("highest logits", (("T", rows),), "fp32")
        # What is named stands until the next rows' is there.
        named: dict[str, Value] = {}
        for start in range(0, counted, rows):
            n = min(rows, counted - start)
            named["hidden"] = self._rows(f, n, D, given, form)
            named["labels"] = tape.new("labels of rows", (("T", n),), "int64")
            named["parts"] = tape.new("sums of splits", (("X", 8), ("X", tiles(head.V)), ("T", n)), "fp32")
        named.clear()
        del logits, total, highest

    def _by_rows(
        self, f: Forward, head: Head, D: tuple[str, int], counted: int, given: str, form: str, trained: str | None
    ) -> None:
        """The chunked pass: gradients of logits are written over these."""
        tape, rows = f.tape, chunk(counted, head.D, head.V)
        tape.category = "logits"
        logits = tape.new("logits of rows", (("T", rows), ("V", -(-head.V // 8) * 8)), "fp32")
        tape.category = "loss"
        # What is named stands until the next rows' is there.
        named: dict[str, Value] = {}
        for start in range(0, counted, rows):
            n = min(rows, counted - start)
            named["hidden"] = self._rows(f, n, D, given, form)
            named["labels"] = tape.new("labels of rows", (("T", n),), "int64")
            sums = tape.new("log-sum-exp of rows", (("T", n),), "fp32")
            if tiles(head.V) > 2:
                tape.new("sums of splits", (("X", 7), ("X", tiles(head.V)), ("T", n)), "fp32")
            named["sums"] = sums
            del sums
            named["gradient"] = tape.new("gradient of rows", (("T", n), D), "fp32")
            if given != "fp32":
                tape.new("gradient of rows, cast", (("T", n), D), given)
        named.clear()
        del logits

    def _rows(self, f: Forward, n: int, D: tuple[str, int], given: str, form: str) -> Value:
        """Rows of the hidden states whose labels count, copied together."""
        taken = f.tape.new("hidden states of rows", (("T", n), D), given)
        return taken if given == form else f.tape.new("hidden states of rows, cast", (("T", n), D), form)


def tiles(words: int) -> int:
    """Programs over a vocabulary.

    >>> tiles(128256)
    8
    """
    return -(-words // COLUMNS)


def tile(counted: int, words: int, *, narrow: bool) -> tuple[int, int]:
    """Rows and tokens of a tile of logits.

    >>> tile(8191, 128256, narrow=False), tile(1024, 128256, narrow=False), tile(1024, 128256, narrow=True)
    ((4096, 16384), (1024, 65536), (1024, 16384))
    """
    rows = max(min(MOST, counted, TILE // (COLUMNS * LOGIT)), 1)
    columns = max(TILE // max(rows * LOGIT, 1), COLUMNS)
    columns = COLUMNS if narrow else columns
    return rows, min(columns - columns % COLUMNS, tiles(words) * COLUMNS)


def chunk(counted: int, width: int, words: int) -> int:
    """Rows whose logits are taken at a time.

    >>> chunk(2047, 4096, 128256), chunk(16383, 4096, 32000)
    (512, 2048)
    """
    rows, least = _power(counted * width // words), min(max(_power(LEAST // words), 512), MOST)
    rows = min(max(rows, least), MOST, max(BUDGET // (words * LOGIT), 2))
    return max(min(rows, counted), 1)


def _power(n: int) -> int:
    """The largest power of two that is not above."""
    return 1 << max(n.bit_length() - 1, 0)
