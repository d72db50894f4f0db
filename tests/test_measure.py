"""Measured rows and calibrations, without a device: what follows from a row, and what is said when torch is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from tonnage import child, measures
from tonnage.cli import main
from tonnage.errors import InputError, SourceError, UnsupportedError
from tonnage.measuring import process
from tonnage.report.measured import render
from tonnage.sources import calibration
from tonnage.units import GiB, MiB

PHASES = (
    "load",
    "step1.forward",
    "step1.backward",
    "step1.optimizer",
    "step2.forward",
    "step2.backward",
    "step2.optimizer",
)


def level(end: int, peak: int) -> dict[str, int]:
    return {"end": end, "peak": peak}


def row(**change: Any) -> dict[str, Any]:
    """A row as a CUDA device gives it: 10 GiB resident, 20 at the peak of the second step, 21 reserved."""
    phases = [
        {
            "phase": name, "requested": level(10 * GiB, (14 + i) * GiB - 5),
            "allocated": level(10 * GiB, (14 + i) * GiB),
            "reserved": level(21 * GiB, 21 * GiB), "device": level(22 * GiB, 22 * GiB),
        }
        for i, name in enumerate(PHASES)
    ]  # fmt: skip
    found = {
        "model": "a-model", "id": "", "date": "2026-01-01", "parameters": 5, "seconds": 1.5,
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"}, "phases": phases,
        "device": {"kind": "cuda", "name": "NVIDIA H100 80GB HBM3", "row": "h100-sxm-80gb",
                   "used_by_others_bytes": 400 * MiB},
        "prediction": None, "trace": None,
    }  # fmt: skip
    found |= {"steady": measures.peaks(measures.steady(phases)), "peaks": measures.peaks(phases)}
    found["context_bytes"] = measures.context(found)
    found["fragmentation"] = measures.fragmentation(found)
    return found | change


def test_the_steady_state_is_the_last_step() -> None:
    assert [p["phase"] for p in measures.steady(row()["phases"])] == list(PHASES[4:])
    request = [{"phase": name} for name in ("load", "prefill", "decode")]
    assert [p["phase"] for p in measures.steady(request)] == ["prefill", "decode"]


def test_context_and_fragmentation_follow_from_the_counters() -> None:
    found = row()
    assert found["steady"]["allocated"] == 20 * GiB
    assert found["context_bytes"] == GiB - 400 * MiB
    assert found["fragmentation"] == 0.1


def test_a_calibration_gives_measured_lines(tmp_path: Path) -> None:
    path = str(tmp_path / "calibration.json")
    assert measures.calibrate(row(), path) == 1
    assert measures.calibrate(row(context_bytes=700 * MiB, fragmentation=0.2), path) == 2
    plain = tn.train("gpt2", seq=512, gpu="h100-sxm-80gb", replay=False)
    found = tn.train("gpt2", seq=512, gpu="h100-sxm-80gb", replay=False, calibration=path)
    lines = {c.name: c for c in found.components}
    assert lines["context"].trust == lines["fragmentation"].trust == "measured"
    assert (lines["context"].low_bytes, lines["context"].high_bytes) == (GiB - 400 * MiB, 700 * MiB)
    moving = found.fullest.tier("allocated") - found.fullest.static_bytes
    assert lines["fragmentation"].low_bytes == round(0.1 * moving)
    assert found.fullest.tier("allocated") == plain.fullest.tier("allocated")
    assert found.fit is not None
    assert found.fit.verdict == "fits"


def test_the_environment_names_a_calibration_that_may_say_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "calibration.json")
    measures.calibrate(row(), path)
    monkeypatch.setenv(calibration.VARIABLE, path)
    trust = [c.trust for c in tn.serve("gpt2", context=512, gpu="h100-sxm-80gb").components if c.name == "context"]
    assert trust == ["measured"]
    trust = [c.trust for c in tn.serve("gpt2", context=512, gpu="l4").components if c.name == "context"]
    assert trust == ["assumed"]
    assert tn.serve("gpt2", context=512).fit is None


def test_every_estimate_for_the_device_counts_with_its_calibration(tmp_path: Path) -> None:
    path, GPU = str(tmp_path / "calibration.json"), "h100-sxm-80gb"
    measures.calibrate(row(context_bytes=6 * GiB, fragmentation=0.0), path)
    plain = tn.serve("llama-3.1-8b", gpu=GPU, context=8192, concurrency=16)
    found = tn.serve("llama-3.1-8b", gpu=GPU, context=8192, concurrency=16, calibration=path)
    assert plain.capacity is not None
    assert found.capacity is not None
    # A context of 6 GiB leaves room for fewer tokens; what is assumed is half a GiB, and gaps.
    assert found.capacity["max_context"] != plain.capacity["max_context"]
    assert found.capacity["max_concurrency"] != plain.capacity["max_concurrency"]
    tables = [
        tn.serve("llama-3.1-8b", gpu=GPU, context=8192, table="concurrency", calibration=c).extras["table"]["rows"]
        for c in (None, path)
    ]
    first = [next(r["device_bytes"] for r in rows if r["concurrency"] == 16) for rows in tables]
    assert first[1] - first[0] == found.fullest.tier("device") - plain.fullest.tier("device")


def test_a_suggestion_counts_with_the_calibration(tmp_path: Path) -> None:
    """What is said to fit does so beside the measured context; where it would not, more is changed."""
    said = {"gpu": "h100-sxm-80gb", "seq": 6144, "replay": False}
    small, large = str(tmp_path / "10.json"), str(tmp_path / "30.json")
    measures.calibrate(row(context_bytes=10 * GiB, fragmentation=0.1), small)
    measures.calibrate(row(context_bytes=30 * GiB, fragmentation=0.3), large)
    fits = [tn.train("llama-3.1-8b", calibration=path, **said).fit for path in (None, small, large)]
    told = [f.suggestion for f in fits if f is not None and f.suggestion is not None]
    assert len(told) == 3
    assert told[1].device_bytes > told[0].device_bytes + 8 * GiB
    assert told[0].change == told[1].change
    # What is enough beside 10 GiB is not beside 30.
    assert told[2].change.items() > told[1].change.items()


def test_what_a_calibration_does_not_say_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "calibration.json")
    measures.calibrate(row(), path)
    with pytest.raises(InputError, match=r"says nothing of t4 .*h100"):
        tn.train("gpt2", gpu="t4", calibration=path)
    with pytest.raises(InputError, match="none is named"):
        tn.train("gpt2", calibration=path)
    with pytest.raises(SourceError, match="no such file"):
        tn.train("gpt2", gpu="t4", calibration="/nowhere.json")
    with pytest.raises(UnsupportedError, match="pool"):
        tn.serve("llama-3.1-8b", engine="vllm", gpu="h100-sxm-80gb", calibration=path)
    assert main(["train", "gpt2", "--gpu", "t4", "--calibration", path]) == 2
    assert "calibration" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"schema": 2, "calibration": {}}', '{"schema": 1, "calibration": {"t4": [5]}}',
        '{"schema": 1, "calibration": {"t4": [{"context_bytes": -1, "fragmentation": 0}]}}',
        '{"schema": 1, "calibration": {"t4": [{"context_bytes": 1, "fragmentation": true}]}}',
        '{"schema": 1, "calibration": {"t4": [{"context_bytes": 1, "fragmentation": 99}]}}',
        '{"schema": 1, "calibration": {"t4": {}}}',
    ],
)  # fmt: skip
def test_a_strange_calibration_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"calibration|sample"):
        tn.train("gpt2", gpu="t4", calibration=str(path))
    before = path.read_text()
    with pytest.raises(InputError):
        measures.calibrate(row(), str(path))
    assert path.read_text() == before


def test_a_run_without_a_device_calibrates_nothing(tmp_path: Path) -> None:
    for change in (
        {"context_bytes": None},
        {"fragmentation": None},
        {"out_of_memory": {"phase": "load", "message": "x"}},
    ):
        with pytest.raises(InputError, match="tells no context"):
            measures.calibrate(row(**change), str(tmp_path / "c.json"))
    assert not (tmp_path / "c.json").exists()


def test_old_samples_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "MOST", 3)
    path = str(tmp_path / "c.json")
    for n in range(5):
        measures.calibrate(row(context_bytes=n), path)
    kept = json.loads(Path(path).read_text())["calibration"]["h100-sxm-80gb"]
    assert [sample["context_bytes"] for sample in kept] == [2, 3, 4]


# The verb.


def test_without_torch_one_line_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(process, "find_spec", lambda name: None)
    code = main(["measure", "gpt2", "--task", "train", "--seq", "64"])
    assert code == 3
    assert capsys.readouterr().err == (
        "error: measuring needs torch, which is not installed; pip install 'tonnage[trace]'\n"
    )


@pytest.mark.parametrize(
    ("argv", "key"),
    [
        (["--task", "dance"], "task"),
        (["--task", "train", "--max-seconds", "soon"], "max_seconds"),
        (["--task", "train", "--max-seconds", "-1"], "max_seconds"),
        (["--task", "train", "--precision", "int3"], "precision"),
        (["--task", "serve", "--context", "5", "--prompt", "9"], "prompt"),
        (["--task", "train", "--context", "5"], "context"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(
    capsys: pytest.CaptureFixture[str], argv: list[str], key: str
) -> None:
    code = main(["measure", "gpt2", *argv, "--json"])
    error = json.loads(capsys.readouterr().out)["error"]
    assert (code in (2, 3), error["key"]) == (True, key)


def test_a_row_as_tables() -> None:
    found = row(
        prediction={f"{t}_{k}": v for t in ("requested", "allocated", "reserved", "device") for k, v in
                    (("bytes", 20 * GiB), ("error", 0.012))},
        trace={"refused": "for a reason"}, retries=2,
    )  # fmt: skip
    text = render(found)
    assert "step2.backward" in text
    assert "+1.200%" in text
    assert "no trace: for a reason" in text
    assert "2 times" in text
    failed = render(row(out_of_memory={"phase": "step1.backward", "message": "CUDA out of memory"}))
    assert "OUT OF MEMORY in step1.backward" in failed


def test_a_process_that_dies_or_hangs_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "available", lambda job: None)
    program = "import sys, time; open(sys.argv[3], 'w').write('step1.forward'); {}"
    real = subprocess.Popen
    for end, told in (
        ("time.sleep(60)", "longer than 1 s"),
        ("sys.exit('broken')", "broken"),
        ("import os; os.abort()", "signal 6"),
    ):

        def popen(command: list[str], end: str = end, **options: Any) -> Any:
            return real([sys.executable, "-c", program.format(end), *command[3:]], **options)

        monkeypatch.setattr(child.subprocess, "Popen", popen)
        with pytest.raises(UnsupportedError, match=told) as found:
            process.measured({}, 1.0)
        assert "step1.forward" in str(found.value)
        monkeypatch.setattr(child.subprocess, "Popen", real)


def test_the_number_of_a_device_follows_what_may_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in measures.VISIBLE:
        monkeypatch.delenv(name, raising=False)
    assert measures._physical("1") == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [measures._physical(n) for n in ("", "0", "1", "2")] == [3, 3, 5, None]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-abc")
    assert measures._physical("0") is None


# Scenarios.


def test_there_are_scenarios_of_every_kind_and_each_is_a_workload(monkeypatch: pytest.MonkeyPatch) -> None:
    # The checkout's own, which is not part of the package.
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    from accuracy.measure import ordered, scenarios, workload
    from tonnage.workload import workload as checked
    from tonnage.workload.serving import Serve
    from tonnage.workload.training import Train

    found = scenarios()
    assert len(found) >= 60
    for s in found:
        checked(Train if s["task"] == "train" else Serve, workload(s))
    assert {s["config"]["model_type"] for s in found} >= {
        "llama", "qwen3", "gemma3_text", "gpt2", "opt", "mixtral", "deepseek_v3", "mamba", "mamba2", "bert", "t5",
    }  # fmt: skip
    assert {s["task"] for s in found} == {"train", "serve"}
    assert {s.get("recompute") for s in found} == {None, "full"}
    first = ordered(found, [])[:8]
    assert len({s["config"]["model_type"] for s in first}) >= 6
    again = ordered(found, [{"id": s["id"], "config": s["config"]} for s in first])
    assert not {s["id"] for s in again[:8]} & {s["id"] for s in first}
