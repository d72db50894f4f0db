"""``tonnage replay``: the JSON contract, the table, exit codes, and one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tonnage.cli import main

FOLDER = Path(__file__).parents[1] / "accuracy" / "recordings"
TRAINING = str(FOLDER / "wed_medium_128_training.json.gz")
KEYS = [
    "schema", "recording", "settings", "allocations", "address_mismatches", "segment_mismatches", "first_mismatch",
    "guessed_blocks", "reserved_bytes", "allocated_bytes", "recorded_reserved_bytes", "recorded_allocated_bytes",
    "peak_reserved_bytes", "peak_allocated_bytes", "peak_requested_bytes", "events_per_second", "device",
]  # fmt: skip


def asked(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Any]]:
    code = main(["replay", *argv, "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, found


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["replay", *argv])
    return code, *capsys.readouterr()


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = asked(capsys, TRAINING)
    assert code == 0
    assert list(found) == KEYS
    speed = found.pop("events_per_second")
    assert speed > 0
    assert found == {
        "schema": 1, "recording": "wed_medium_128_training.json.gz", "settings": "", "allocations": 6526,
        "address_mismatches": 0, "segment_mismatches": 0, "first_mismatch": None, "guessed_blocks": 438,
        "reserved_bytes": 7_235_174_400, "allocated_bytes": 6_816_891_392,
        "recorded_reserved_bytes": 7_235_174_400, "recorded_allocated_bytes": 6_816_891_392,
        "peak_reserved_bytes": 7_235_174_400, "peak_allocated_bytes": found["peak_allocated_bytes"],
        "peak_requested_bytes": found["peak_requested_bytes"], "device": None,
    }  # fmt: skip
    assert found["peak_requested_bytes"] < found["peak_allocated_bytes"] < found["peak_reserved_bytes"]


def test_under_other_settings_nothing_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = asked(capsys, TRAINING, "--alloc-conf", "expandable_segments:True")
    assert code == 0
    assert list(found) == KEYS
    assert [found[key] for key in KEYS[4:8]] == [None] * 4
    assert found["settings"] == "expandable_segments:True"
    assert found["reserved_bytes"] < found["recorded_reserved_bytes"]


@pytest.mark.parametrize(
    ("code", "verdict", "argv"),
    [
        (0, "fits", ["--device-memory", "7GiB"]),
        (0, "fits after a retry", ["--device-memory", "6882MiB"]),
        (1, "out of memory", ["--device-memory", "6500MiB"]),
        (1, "out of memory", ["--device-memory", "1GiB"]),
        (0, "fits", ["--gpu", "t4"]),
        (0, "uncertain", ["--gpu", "7200MiB"]),
        (1, "uncertain", ["--gpu", "7200MiB", "--strict"]),
        (1, "out of memory", ["--gpu", "t4", "--in-use", "9GiB"]),
        (0, "fits", ["--device-memory", "6880MiB", "--alloc-conf", "expandable_segments:True"]),
        (1, "out of memory", ["--device-memory", "16GiB", "--alloc-conf", "per_process_memory_fraction:0.3"]),
    ],
)
def test_what_a_device_would_have_done(
    capsys: pytest.CaptureFixture[str], code: int, verdict: str, argv: list[str]
) -> None:
    exit_code, found = asked(capsys, TRAINING, *argv)
    device = found["device"]
    assert (exit_code, device["verdict"]) == (code, verdict)
    assert set(device) == {
        "name", "capacity_bytes", "range", "verdict", "peak_reserved_bytes", "peak_allocated_bytes", "retries",
        "retried_at", "out_of_memory",
    }  # fmt: skip
    low, high = device["range"]
    assert low <= device["capacity_bytes"] <= high
    if verdict != "uncertain":
        assert (device["out_of_memory"] is not None) == (verdict == "out of memory")
    assert device["retries"] == len(device["retried_at"]) or device["retries"] > 100


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = shown(capsys, TRAINING, "--device-memory", "6500MiB")
    assert (code, err) == (1, "")
    assert "every allocation landed at its recorded address, every segment has its recorded size" in out
    assert "7,235,174,400 B" in out
    assert "OUT OF MEMORY on 6500MiB" in out
    assert "438 blocks were live before the recording began" in out
    code, out, _ = shown(capsys, TRAINING, "--alloc-conf", "max_split_size_mb:64")
    assert "under max_split_size_mb:64" in out
    assert "landed" not in out


def test_differences_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    events = [["segment_alloc", 4096, 2**21, 0], ["alloc", 5120, 9, 0]]
    blocks = [[4096, 1024, 0, "inactive"], [5120, 512, 9, "active_allocated"], [5632, 2**21 - 1536, 0, "inactive"]]
    segment = {"address": 4096, "total_size": 2**21, "stream": 0, "segment_type": "small", "blocks": blocks}
    path = tmp_path / "moved.json"
    path.write_text(json.dumps({"segments": [segment], "events": events}))
    code, out, _ = shown(capsys, str(path))
    assert code == 0
    assert "1 allocations landed elsewhere, 0 segments differ; first at entry 1" in out
    assert shown(capsys, str(path), "--strict")[0] == 1
    assert asked(capsys, str(path))[1]["address_mismatches"] == 1


@pytest.mark.parametrize(
    ("code", "argv", "told"),
    [
        (4, ["nowhere.pickle"], "cannot read nowhere.pickle"),
        (2, [TRAINING, "--alloc-conf", "max_split_size:3"], "did you mean max_split_size_mb"),
        (2, [TRAINING, "--alloc-conf", "per_process_memory_fraction:0.5"], "name the memory with --device-memory"),
        (3, [TRAINING, "--alloc-conf", "backend:cudaMallocAsync"], "not modelled"),
        (2, [TRAINING, "--device-memory", "8"], "8GiB"),
        (2, [TRAINING, "--device-memory", "8GiB", "--gpu", "t4"], "give one of the two"),
        (2, [TRAINING, "--in-use", "1GiB"], "none is named"),
        (2, [TRAINING, "--gpu", "h10"], "h100"),
        (2, [TRAINING, "--device", "x"], "not a valid integer"),
        (2, [str(FOLDER / "README.md")], "neither a memory snapshot nor JSON"),
        (2, [], "missing argument"),
    ],
)
def test_wrong_input(capsys: pytest.CaptureFixture[str], code: int, argv: list[str], told: str) -> None:
    found, out, err = shown(capsys, *argv)
    assert (found, out) == (code, "")
    assert err.count("\n") == 1
    assert told in err
