"""Flex attention's own operation, beside the code that inductor writes for it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tonnage.arch.flex import _compiled, mask
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Tape

RECORDED = json.loads((Path(__file__).parent / "data" / "flex_inductor.json").read_text())["rows"]


def levels(tape: Tape, since: int) -> list[int]:
    """Bytes alive behind each event from that one on."""
    found, level = [], 0
    for event in tape.events:
        storage = tape.born[event if event >= 0 else ~event]
        level += storage.nbytes if event >= 0 else -storage.nbytes
        found.append(level)
    return found[max(since - 1, 0) :]


@pytest.mark.parametrize("row", RECORDED, ids=str)
def test_it_takes_what_inductors_code_takes(row: dict[str, Any]) -> None:
    """``scripts/inductor_flex.py``: torch 2.13, both passes on tensors without data."""
    B, T, H = ("B", row["batch"]), ("T", row["tokens"]), ("H", row["width"])
    form = "fp32" if row["cast"] else "bf16"
    tape = Tape(grad=True, weights=form, autocast="bf16" if row["cast"] else None)
    f = Forward(tape, "flex", training=True)
    # The masks' tensors are inputs of the graph: so are queries, keys and values.
    f.blocks[None] = mask(tape, row["batch"], row["tokens"], row["tokens"])
    heads, shared = ("N", row["heads"]), ("K", row["shared"])
    q, k, v = (tape.leaf(name, (B, T, n, H), form) for name, n in zip("qkv", (heads, shared, shared), strict=True))
    start = len(tape.events)
    block: Any = SimpleNamespace(window=None)
    made = _compiled(f, block, q, k, v, sums=row["sums"])
    before, *forward = levels(tape, start)
    assert max(forward) - before == row["forward"]
    root, axes = (made[0].node, made[0].index), made[0].axes
    # The sums that are handed back are no part of what is kept.
    handed = 4 * row["batch"] * row["tokens"] * row["heads"] if row["sums"] else 0
    assert levels(tape, 0)[-1] - before - handed == row["kept"]
    del made
    del q, k, v
    grad = [tape.new("gradient", axes, "bf16")]
    start = len(tape.events)
    assert root[0] is not None
    masks = sum(s.nbytes for s in {x.storage for x in f.blocks[None]})
    tape.backward((root[0], root[1]), grad.pop())
    # Torch's own recording has one pair of masks' tensors for all four, and the zeros that autograd hands in at once.
    pair = masks // 4
    assert max(levels(tape, start)) - masks + pair == row["backward"]
