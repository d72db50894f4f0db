"""Recordings of a GPU, told before by the trace of a model of the same shape: peaks to the byte, and what is reserved.

The figures are those of the memory snapshots in https://github.com/Wedsonlin/assignment2-systems (results/, commit
87b0864): ``medium`` (24 layers, width 1,024), batch 4, one step or one forward pass after five warm-up runs. A peak is
over what was live as recording began. Three of the snapshots are in accuracy/recordings.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import recorded_model

from tonnage.allocator.caching import Allocator
from tonnage.allocator.device import Device
from tonnage.allocator.run import Player
from tonnage.tracing.context import Tracing
from tonnage.tracing.levels import BETWEEN, without
from tonnage.tracing.stream import UNREQUESTED, Traced

WORKSPACE = 8_519_680
"""Of cuBLAS on that device, one for each thread. [byte]"""
PEAKS: list[tuple[str, int, bool, int, int | None]] = [
    # what ran, tokens, autocast to bf16, the peak, events
    ("train", 256, False, 4_008_140_800, 12_819),
    ("train", 1024, True, 19_111_272_456, 14_753),
    ("infer", 128, False, 35_651_584, 2_464),
    ("infer", 256, False, 92_407_808, 2_464),
    ("infer", 512, True, 247_861_248, 3_236),
    ("infer", 1024, False, 1_175_724_032, 2_464),
]
RESERVED = [
    # tokens, autocast, the peak, memory_reserved as the snapshot was taken
    (128, False, 1_918_013_444, 7_235_174_400),
    (512, True, 7_331_061_768, 12_660_506_624),
]


def traced(run: str, tokens: int, *, autocast: bool, warm: int) -> Traced:
    with Tracing(workspace=WORKSPACE) as t:
        getattr(recorded_model, run)(t, tokens, autocast=autocast, warm=warm)
    return t.trace()


def recorded(found: Traced) -> tuple[list[int], int]:
    """Sizes of the tensors that are made and freed while recording, and the highest they reach. [byte]"""
    phases = found.phases()
    start = next(at for name, at, _ in phases if name.startswith("step1"))
    stop = next(at for name, at, _ in phases if name == "end")
    told = [found.born[n if n >= 0 else ~n] for n in found.order[start:stop]]
    events = [
        b.size if n >= 0 else -b.size
        for n, b in zip(found.order[start:stop], told, strict=True)
        if b.kind not in UNREQUESTED
    ]
    return events, max(accumulate(events))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("run", PEAKS, ids=lambda r: f"{r[0]}-{r[1]}")
def test_a_recorded_peak_is_told_before(run: tuple[Any, ...]) -> None:
    kind, tokens, autocast, peak, count = run
    events, highest = recorded(traced(kind, tokens, autocast=autocast, warm=1))
    assert highest == peak
    assert len(events) == count


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("run", RESERVED, ids=lambda r: str(r[0]))
def test_what_was_reserved_is_told_before(run: tuple[Any, ...]) -> None:
    tokens, autocast, peak, reserved = run
    found = traced("train", tokens, autocast=autocast, warm=5)
    assert recorded(found)[1] == peak
    end = next(at for name, at, _ in found.phases() if name == "end")
    # On this machine segments lay upward: with downward ones both figures are off by half a per cent.
    samples: list[tuple[int, int, int]] = []
    Player(Allocator(device=Device(upward=True))).play(without(found, BETWEEN).events(), samples)
    assert samples[end - 1][2] == reserved
