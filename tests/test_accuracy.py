"""Accuracy on figures that others measured: the gate holds, it can fail, and its arithmetic is right."""

from __future__ import annotations

import doctest
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from accuracy import cases, record, score  # noqa: E402  the checkout's own, which is not part of the package
from accuracy.__main__ import main  # noqa: E402

ALL = {group: cases.load(group) for group in cases.groups()}
EVERY = [case for found in ALL.values() for case in found]
EXAMPLE = cases.Case(
    id="example", model="gpt2", workload={"task": "params"}, measured=100.0, step=0.0, counter="parameters",
    source="a document", exactness="exact", seen=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def outcomes() -> dict[str, list[score.Outcome]]:
    return {group: [score.outcome(case) for case in found] for group, found in ALL.items()}


def predicted(value: int | None, *, measured: float = 100.0, seen: bool = True) -> score.Outcome:
    case = replace(EXAMPLE, measured=measured, seen=seen)
    return score.Outcome(case=case, predicted=value, refused="" if value is not None else "not yet")


# The gate.


def test_no_group_is_worse_than_recorded(outcomes: dict[str, list[score.Outcome]]) -> None:
    recorded = record.read()
    assert set(recorded) == set(ALL)
    worse = {group: record.worse(score.summary(found), recorded[group]) for group, found in outcomes.items()}
    assert worse == {group: [] for group in ALL}


def test_nothing_crashes(outcomes: dict[str, list[score.Outcome]]) -> None:
    assert [(o.case.id, o.crashed) for found in outcomes.values() for o in found if o.crashed] == []


def test_what_is_exact_is_met_exactly(outcomes: dict[str, list[score.Outcome]]) -> None:
    off = [
        (o.case.id, o.error)
        for found in outcomes.values()
        for o in found
        if o.case.exactness in ("exact", "traced") and o.error not in (0.0, None)
    ]
    assert off == []


def test_every_count_is_answered(outcomes: dict[str, list[score.Outcome]]) -> None:
    assert [o.case.id for o in outcomes["counts"] if o.predicted is None] == []


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A table of one group whose three predictions are 2 % too low, exact, and refused."""
    made = iter([predicted(98), predicted(100), predicted(None)] * 9)
    monkeypatch.setattr(cases, "groups", lambda: ("made-up",))
    monkeypatch.setattr(cases, "load", lambda group: (EXAMPLE,) * 3)
    monkeypatch.setattr("accuracy.__main__.outcome", lambda case: next(made))
    return tmp_path / "recorded.json"


def test_a_new_group_is_recorded_when_asked(small: Path) -> None:
    assert main(["--recorded", str(small)]) == 0
    assert not small.exists()
    assert main(["--record", "--recorded", str(small)]) == 0
    assert main(["--recorded", str(small)]) == 0
    found = record.read(str(small))["made-up"]
    assert found == {
        "cases": 3, "held_out": 0, "refused": 1, "median": 0.01, "p90": 0.02, "worst": 0.02, "too_low": 0.5,
        "accepted": [],
    }  # fmt: skip


@pytest.mark.parametrize("measure", [*record.MEASURES, "cases"])
def test_the_gate_fails_when_any_measure_got_worse(
    small: Path, measure: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--record", "--recorded", str(small)])
    better = record.read(str(small))
    better["made-up"][measure] += 1 if measure == "cases" else -0.001
    record.write(better, str(small))
    capsys.readouterr()
    assert main(["--recorded", str(small)]) == 1
    assert f"WORSE: made-up: {measure} " in capsys.readouterr().out
    assert main(["--record", "--recorded", str(small)]) == 1
    assert record.read(str(small)) == better


def test_a_worse_group_is_recorded_with_its_reason_only(small: Path) -> None:
    main(["--record", "--recorded", str(small)])
    better = record.read(str(small))
    better["made-up"]["worst"] = 0.01
    record.write(better, str(small))
    assert main(["--record", "--accept", "a case was added", "--recorded", str(small)]) == 0
    found = record.read(str(small))["made-up"]
    assert found["worst"] == 0.02
    assert found["accepted"] == [{"reason": "a case was added", "worse": ["worst 0.01 -> 0.02"]}]
    main(["--record", "--recorded", str(small)])
    assert record.read(str(small))["made-up"] == found


def test_the_gate_fails_when_a_case_crashes(
    monkeypatch: pytest.MonkeyPatch, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(score.COUNTERS, "parameters", lambda model: 1 // 0)
    monkeypatch.setattr("accuracy.__main__.outcome", score.outcome)
    assert main(["--recorded", str(small)]) == 1
    assert "crashed: example: ZeroDivisionError" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["nowhere"], ["--accept", "why"], ["--record", "--accept", " "], ["--rec"]])
def test_wrong_usage_exits_2(wrong: list[str], small: Path) -> None:
    with pytest.raises(SystemExit) as found:
        main([*wrong, "--recorded", str(small)])
    assert found.value.code == 2


def test_json_holds_groups_and_rows(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--json", "--recorded", str(small)])
    group: dict[str, Any] = json.loads(capsys.readouterr().out)["groups"]["made-up"]
    assert group["worst"] == 0.02
    assert [(row["predicted"], row["error"], row["refused"]) for row in group["rows"]] == [
        (98, -0.02, None), (100, 0.0, None), (None, None, "not yet"),
    ]  # fmt: skip


def test_rows_show_every_case(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--rows", "--recorded", str(small)])
    out = capsys.readouterr().out
    assert out.count("  example ") == 3
    assert "-2.0000%" in out
    assert "refused: example: not yet" in out


# The cases.


def test_ids_are_unique() -> None:
    ids = [case.id for case in EVERY]
    assert sorted(set(ids)) == sorted(ids)


@pytest.mark.parametrize("case", EVERY, ids=lambda case: case.id)
def test_case_is_complete(case: cases.Case) -> None:
    assert len(case.source) > 10
    assert not case.source.startswith("/")
    assert case.counter in score.COUNTERS
    assert case.exactness in cases.EXACTNESS
    assert case.measured > 0
    assert 0 <= case.step < case.measured
    assert case.workload["task"] in ("params", "train", "serve", "replay", "operator")
    assert (case.workload["task"] == "params") == (case.counter == "parameters")
    assert isinstance(case.seen, bool)


def test_every_group_of_measurements_holds_some_out() -> None:
    assert [group for group in ("cache", "serving") if all(case.seen for case in ALL[group])] == []


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "made-up.jsonl"
    path.write_text('{"id": "a", "mesured": 1}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"made-up\.jsonl:1: unknown keys mesured"):
        list(cases._read(str(path)))


# The arithmetic.


def test_summary() -> None:
    found = score.summary(
        [predicted(90), predicted(101, seen=False), predicted(103), predicted(100), predicted(None, seen=False)]
    )
    assert (found.cases, found.held_out, found.refused) == (5, 2, 1)
    assert (found.median, found.p90, found.worst, found.too_low) == pytest.approx((0.02, 0.1, 0.1, 0.25))


def test_summary_without_an_answer() -> None:
    found = score.summary([predicted(None)])
    assert (found.refused, found.median, found.p90, found.worst, found.too_low) == (1, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("value", "step", "expected"),
    [(100, 0, 0.0), (99, 0, -0.01), (102, 0, 0.02), (99, 2, 0.0), (98, 2, -0.01), (103, 2, 0.02)],
)
def test_error_is_counted_from_the_nearest_printed_value(value: int, step: float, expected: float) -> None:
    assert score.relative(value, 100, step) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (9, 9), (10, 9), (11, 10), (20, 18)])
def test_percentile_is_the_nearest_rank(n: int, expected: int) -> None:
    assert score.percentile([float(i) for i in range(1, n + 1)], 0.9) == expected


@pytest.mark.parametrize("module", [cases, score, record], ids=lambda module: module.__name__)
def test_examples(module: Any) -> None:
    failed, tried = doctest.testmod(module)
    assert tried
    assert not failed
