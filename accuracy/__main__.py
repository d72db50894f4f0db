"""``python -m accuracy [GROUP ...]``: predict every case, print the errors by group, fail where one got worse."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

# This checkout is measured, whatever is installed.
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "src"))

from accuracy import cases, record
from accuracy.score import Outcome, Summary, outcome, row, summary

HEAD = f"{'group':<10}{'cases':>7}{'held out':>10}{'refused':>9}{'median':>11}{'90th':>11}{'worst':>11}{'too low':>9}"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 when a group got worse than recorded, or a case crashed."""
    asked = _asked(argv)
    chosen = asked.group or cases.groups()
    outcomes = {group: [outcome(case) for case in cases.load(group)] for group in chosen}
    summaries = {group: summary(found) for group, found in outcomes.items()}
    recorded = record.read(asked.recorded)
    verdicts = {group: _verdict(s, recorded.get(group)) for group, s in summaries.items()}
    crashed = [o for found in outcomes.values() for o in found if o.crashed]
    if asked.record:
        _record(asked, summaries, recorded)
    if asked.json:
        print(json.dumps(_as_dict(outcomes, summaries, verdicts), ensure_ascii=False))
    else:
        _show(outcomes, summaries, verdicts, rows=asked.rows)
    failed = any(what for group, what in verdicts.items() if not (asked.record and asked.accept))
    return int(failed or bool(crashed))


def _asked(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m accuracy", description=__doc__, allow_abbrev=False)
    parser.add_argument("group", nargs="*", metavar="GROUP", help=f"of {', '.join(cases.groups())} (all)")
    parser.add_argument("--rows", action="store_true", help="print every case with its prediction and error")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--record", action="store_true", help="record groups that are new or not worse")
    parser.add_argument(
        "--accept", metavar="REASON", help="with --record: record worse groups too, and keep the reason"
    )
    parser.add_argument("--recorded", metavar="FILE", default=record.PATH, help="the record (accuracy/recorded.json)")
    asked = parser.parse_args(argv)
    unknown = sorted(set(asked.group) - set(cases.groups()))
    if unknown:
        parser.error(f"unknown group {unknown[0]!r}: one of {', '.join(cases.groups())}")
    if asked.accept is not None and not (asked.record and asked.accept.strip()):
        parser.error("--accept gives the reason of a --record")
    return asked


def _verdict(now: Summary, before: dict[str, Any] | None) -> list[str]:
    return [] if before is None else record.worse(now, before)


def _record(asked: argparse.Namespace, summaries: dict[str, Summary], recorded: record.Record) -> None:
    for group, now in summaries.items():
        before = recorded.get(group)
        if before is None or asked.accept or not record.worse(now, before):
            recorded[group] = record.entry(now, before, asked.accept)
    record.write(recorded, asked.recorded)


def _as_dict(
    outcomes: dict[str, list[Outcome]], summaries: dict[str, Summary], verdicts: dict[str, list[str]]
) -> dict[str, Any]:
    return {
        "schema": 1,
        "groups": {
            group: {**asdict(s), "worse": verdicts[group], "rows": [row(o) for o in outcomes[group]]}
            for group, s in summaries.items()
        },
    }


def _show(
    outcomes: dict[str, list[Outcome]], summaries: dict[str, Summary], verdicts: dict[str, list[str]], *, rows: bool
) -> None:
    if rows:
        for group, found in outcomes.items():
            print(f"{group}:")
            for o in found:
                print(f"  {_line(o)}")
        print()
    print(HEAD)
    for group, s in summaries.items():
        errors = f"{s.median:>11.4%}{s.p90:>11.4%}{s.worst:>11.4%}{s.too_low:>9.0%}"
        print(f"{group:<10}{s.cases:>7}{s.held_out:>10}{s.refused:>9}{errors}")
    for found in outcomes.values():
        for o in found:
            if o.predicted is None:
                print(f"{'crashed' if o.crashed else 'refused'}: {o.case.id}: {_reason(o)}")
    for group, what in verdicts.items():
        for measure in what:
            print(f"WORSE: {group}: {measure}")


def _line(o: Outcome) -> str:
    if o.predicted is None:
        return f"{o.case.id:<48} {o.case.counter:<19}{o.case.measured:>22,.0f}{'-':>22}{'refused':>11}"
    figures = f"{o.case.measured:>22,.0f}{o.predicted:>22,}{o.error:>+11.4%}"
    return f"{o.case.id:<48} {o.case.counter:<19}{figures}"


def _reason(o: Outcome) -> str:
    return " ".join((o.crashed or o.refused).split())[:160]


if __name__ == "__main__":
    sys.exit(main())
