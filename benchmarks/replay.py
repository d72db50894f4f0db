"""``python -m benchmarks.replay``: recordings through the model of the caching allocator, events in a second.

Allocations and frees are counted, a free once; reading the file is not. Since the machine may be noisy, each round also
times a loop that does nothing but look one of as many numbers up in a mapping, and the ratio of the two is the median
over the rounds: what an event costs in dictionary look-ups.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Final

ROOT: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "src"))

from tonnage.allocator import parse, run  # noqa: E402  this checkout is measured, whatever is installed
from tonnage.allocator.asked import asked  # noqa: E402
from tonnage.allocator.recording import Recording  # noqa: E402
from tonnage.allocator.replay import Replay  # noqa: E402
from tonnage.sources.recording import read  # noqa: E402

FOLDER: Final = os.path.join(ROOT, "accuracy", "recordings")
RATIO: Final = 60.0
"""Budget: an event over a look-up."""
SPEED: Final = 200_000
"""Budget: events in a second, in the best round."""

HOW: Final = {
    "to its addresses": None,
    "default settings": "",
    "expandable_segments": "expandable_segments:True",
    "max_split_size_mb": "max_split_size_mb:64",
}
"""Ways to replay; other settings are played from what was asked for."""


def looked_up(count: int) -> float:
    """Seconds for ``count`` look-ups in a mapping of 1,024 numbers."""
    table = {n: n for n in range(1024)}
    begin = perf_counter()
    for n in range(count):
        table[n & 1023]
    return perf_counter() - begin


def prepared(recording: Recording, conf: str | None) -> tuple[int, Callable[[], Any]]:
    """Events of one replay, and what plays it once."""
    if conf is None:
        replay = Replay(recording, parse(recording.settings))
        events = sum(entry[0] in ("alloc", "free_requested") for entry in recording.entries)
        return events, replay.run
    found = asked(recording)
    played, settings = [*found.earlier, *found.events], parse(conf)
    return len(played), lambda: run(played, settings)


def figures(recordings: Sequence[Recording], conf: str | None, rounds: int) -> dict[str, float]:
    """Events in a second over all recordings, median and best, and what an event costs in look-ups."""
    speeds, ratios = [], []
    for _ in range(rounds):
        seconds, total = 0.0, 0
        for recording in recordings:
            events, play = prepared(recording, conf)
            gc.collect()
            gc.disable()
            begin = perf_counter()
            play()
            seconds += perf_counter() - begin
            gc.enable()
            total += events
        speeds.append(total / seconds)
        ratios.append(seconds / looked_up(total))
    return {
        "events_per_second": statistics.median(speeds),
        "best_events_per_second": max(speeds),
        "over_look_up": statistics.median(ratios),
    }


def over_budget(found: dict[str, dict[str, float]]) -> list[str]:
    """What exceeds the budget, in words."""
    out = []
    for name, f in found.items():
        if f["over_look_up"] > RATIO:
            out.append(f"{name}: {f['over_look_up']:.1f} look-ups an event, budget {RATIO:g}")
        if f["best_events_per_second"] < SPEED:
            out.append(f"{name}: {f['best_events_per_second']:,.0f} events/s, budget {SPEED:,}")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 when ``--check`` is given and the budget is exceeded."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="rounds (7)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--check", action="store_true", help="exit 1 when the budget is exceeded")
    asked_for = parser.parse_args(argv)
    if asked_for.rounds < 1:
        parser.error("--rounds is at least 1")
    names = sorted(name for name in os.listdir(FOLDER) if name.endswith(".json.gz"))
    recordings = [read(os.path.join(FOLDER, name)) for name in names]
    found = {name: figures(recordings, conf, asked_for.rounds) for name, conf in HOW.items()}
    exceeded = over_budget(found)
    if asked_for.json:
        print(json.dumps({"schema": 1, "recordings": len(names), "replays": found, "over_budget": exceeded}))
    else:
        print(f"{len(names)} recordings, median of {asked_for.rounds} rounds")
        print(f"{'':<22}{'events/s':>14}{'best':>14}{'look-ups an event':>20}")
        for name, f in found.items():
            speeds = f"{f['events_per_second']:>14,.0f}{f['best_events_per_second']:>14,.0f}"
            print(f"{name:<22}{speeds}{f['over_look_up']:>20.1f}")
        for what in exceeded:
            print(f"OVER BUDGET: {what}")
    return int(asked_for.check and bool(exceeded))


if __name__ == "__main__":
    sys.exit(main())
