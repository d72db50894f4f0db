"""Profiles of every kind become one history: figures of real runs, and hostile files that are one clear line."""

from __future__ import annotations

import gzip
import json
import pickle
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nsight_made import DEVICE, EVENTS, written

from tonnage import profiles
from tonnage.errors import InputError, SourceError, TonnageError, UnsupportedError
from tonnage.history import BEFORE, History, grouped
from tonnage.sources import chrome_trace, nsight, pprof, profile, xla_memory
from tonnage.sources._frames import Frames
from tonnage.units import MiB

DATA = Path(__file__).parent / "data" / "profiles"
RECORDINGS = Path(__file__).parents[2] / "accuracy" / "recordings"
PARAMETERS = 4 * (100 * 64 + 64 * 256 + 256 + 256 * 64 + 64 + 64 * 100 + 100)
"""Of the profiled network, fp32. [byte]"""


def named(history: History) -> dict[str, int]:
    """Bytes at the peak by component."""
    return {g.name: g.bytes for g in grouped(history.alive(history.peak()), "name")}


def read(name: str) -> History:
    return profile.read(str(DATA / name))


# What real files tell.


def test_a_chrome_trace_names_module_operator_and_range() -> None:
    found = read("chrome.json.gz")
    assert (found.kind, found.device, found.tier) == ("Chrome trace of torch.profiler", "cpu", "requested")
    lines = named(found)
    # AdamW keeps two moments a parameter and a step of 4 B for each of its seven tensors.
    assert lines["optimizer_state"] == 2 * PARAMETERS + 7 * 4
    assert {"activations", "gradients", "loss"} <= lines.keys()
    alive = found.alive(found.peak())
    assert {"nn.Module: Linear_0", "nn.Module: Embedding_0"} <= {life.where for life in alive}
    assert "aten::addmm" in {life.what for life in alive}
    assert [s.name for s in found.spans if s.start <= found.peak() < s.stop] == ["backward"]
    assert found.times == sorted(found.times)


def test_the_gradients_of_a_chrome_trace_are_those_of_every_parameter() -> None:
    found = read("chrome.json.gz")
    gradients = [life.size for life in found.lives if life.name == "gradients"]
    assert sum(gradients) == 2 * PARAMETERS
    assert len(gradients) == 2 * 7


def test_the_same_run_has_the_same_peak_in_three_files() -> None:
    """The trace lacks what was there before it began: the parameters and the token ids."""
    sums, raw, trace = (read(n) for n in ("timeline.json.gz", "timeline.raw.json.gz", "chrome.json.gz"))
    peak = max(sum(row) for row in json.loads(gzip.decompress((DATA / "timeline.json.gz").read_bytes()))[1])
    assert sums.levels()[sums.peak()] == raw.levels()[raw.peak()] == peak
    assert trace.levels()[trace.peak()] == peak - PARAMETERS - 4 * 32 * 8
    assert named(sums) == named(raw)
    assert named(sums)["weights"] == PARAMETERS
    assert {k: named(trace)[k] for k in ("optimizer_state", "gradients")} == {
        k: named(sums)[k] for k in ("optimizer_state", "gradients")
    }


def test_a_device_memory_profile_of_jax() -> None:
    found = read("memory.prof")
    assert (found.device, found.tier, len(found.lives)) == ("cpu:0", "allocated", 4)
    # w, x, the gradient of w and the value.
    assert sorted(life.size for life in found.lives) == [4, 64 * 256 * 4, 256 * 512 * 4, 256 * 512 * 4]
    assert {life.where.partition(" ")[0].rpartition("/")[2] for life in found.lives} == {"mk_jax.py:4", "mk_jax.py:10"}


@pytest.mark.parametrize("name", ["memory_analysis.txt", "memory_analysis.json"])
def test_a_memory_analysis_of_xla(name: str) -> None:
    found = read(name)
    arguments, results = (256 * 512 + 64 * 256) * 4, 256 * 512 * 4
    lines = named(found)
    assert lines["other:arguments"] == arguments
    assert results < lines["other:results"] < results + 64
    assert lines["other:temporaries"] == 655360


def test_an_nsight_export(tmp_path: Path) -> None:
    found = profile.read(written(tmp_path / "a.sqlite"))
    assert (found.device, found.tier) == ("cuda:0", "reserved")
    # Freed without having been seen before: 6 MiB were there when the recording began.
    assert [life.size for life in found.alive(0)] == [6 * MiB]
    assert found.levels()[found.peak()] == (6 + 20 + 2 + 512) * MiB
    assert found.levels()[-1] == (20 + 512) * MiB + 4096
    assert named(found) == {"other:device memory": 532 * MiB, "communication": 2 * MiB, BEFORE: 6 * MiB}
    assert {life.where for life in found.alive(found.peak())} == {"load", "forward", ""}
    assert any("67,108,864" in note for note in found.notes)
    assert [s.name for s in found.spans] == ["load", "forward"]


@pytest.mark.parametrize("name", ["wed_medium_128_training", "sil_bf16", "kk_ctx128_forward"])
def test_a_snapshot_holds_what_its_replay_holds(name: str) -> None:
    from tonnage.api import replay

    path = str(RECORDINGS / f"{name}.json.gz")
    found, played = profiles.read(path), replay(path).replayed
    assert played is not None
    assert found.levels()[found.peak()] == played.peak_requested
    assert found.highest("reserved") == played.peak_reserved
    assert found.highest("allocated") == played.peak_allocated


# Snapshots with frames.


def frame(text: str) -> dict[str, Any]:
    file, _, name = text.rpartition(" ")
    return {"filename": file or "??", "line": 7 if file else 0, "name": name}


def snapshot(*rows: tuple[Any, ...], blocks: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Rows are action, address, size and frames."""
    trace = [
        {
            "action": action,
            "addr": address,
            "size": size,
            "stream": 0,
            "time_us": i,
            "frames": [frame(f) for f in frames],
        }
        for i, (action, address, size, frames) in enumerate(rows)
    ]
    segments = [] if blocks is None else [{"device": 0, "address": 1 << 20, "total_size": 20 * MiB, "blocks": blocks}]
    return {"segments": segments, "device_traces": [trace]}


def pickled(folder: Path, value: Any) -> str:
    path = folder / "snapshot.pickle"
    path.write_bytes(pickle.dumps(value))
    return str(path)


STACKS = {
    "weights": ["/x/torch/nn/modules/module.py _apply", "train.py main"],
    "activations": ["/x/torch/nn/modules/linear.py forward", "model.py forward", "train.py main"],
    "loss": ["/x/torch/nn/functional.py cross_entropy", "train.py main"],
    "optimizer_state": ["/x/torch/optim/adamw.py _init_group", "/x/torch/optim/adamw.py step", "train.py main"],
    "other:optimizer step": ["/x/torch/optim/adamw.py _multi_tensor_adamw", "train.py main"],
    "workspace": ["at::cuda::getNewWorkspace()", "/x/torch/nn/modules/linear.py forward"],
    "kv_cache": ["/x/transformers/cache_utils.py update", "/x/transformers/models/llama/modeling_llama.py forward"],
    "other:backward pass": ["torch::autograd::Engine::evaluate_function(...)"],
    "other:no stack": [],
    "other:unattributed": ["train.py main"],
}


@pytest.mark.parametrize(("name", "stack"), STACKS.items())
def test_a_stack_tells_a_component(name: str, stack: list[str]) -> None:
    assert Frames().component(stack) == name


def test_what_a_backward_pass_leaves_are_gradients(tmp_path: Path) -> None:
    backward, step = STACKS["other:backward pass"], STACKS["other:optimizer step"]
    found = profile.read(
        pickled(
            tmp_path,
            snapshot(
                ("alloc", 1, 100, STACKS["activations"]), ("alloc", 2, 10, backward), ("alloc", 3, 7, backward),
                ("free_requested", 3, 7, backward), ("free_requested", 1, 100, backward), ("alloc", 4, 5, step),
                ("free_requested", 4, 5, step), ("free_requested", 2, 10, ["/x/torch/optim/optimizer.py zero_grad"]),
            ),
        )
    )  # fmt: skip
    assert [(life.size, life.name) for life in found.lives] == [
        (100, "activations"), (10, "gradients"), (7, "other:backward pass"), (5, "other:optimizer step"),
    ]  # fmt: skip
    assert found.lives[0].where == "model.py:7 forward"


def test_what_was_there_before_is_told_by_its_block(tmp_path: Path) -> None:
    blocks = [
        {"address": 1 << 20, "size": 1024, "requested_size": 1000, "state": "active_allocated",
         "frames": [frame(f) for f in STACKS["weights"]]},
        {"address": (1 << 20) + 1024, "size": 20 * MiB - 1024, "requested_size": 0, "state": "inactive", "frames": []},
    ]  # fmt: skip
    found = profile.read(pickled(tmp_path, snapshot(("alloc", 9, 50, []), blocks=blocks)))
    assert named(found) == {"weights": 1000, "other:no stack": 50}
    assert found.begin == 1
    assert found.highest("reserved") == 20 * MiB


def test_a_private_pool_is_no_hindrance_to_telling_what_is_alive(tmp_path: Path) -> None:
    value = snapshot(("alloc", 9, 50, []))
    value["device_traces"][0][0]["pool_id"] = (0, 3)
    found = profiles.read(pickled(tmp_path, value))
    assert found.levels()[found.peak()] == 50
    assert found.highest("allocated") is None
    assert any("private pools" in note for note in found.notes)


# Devices.


def cuda(device: int = 0, allocated: int = 0) -> list[dict[str, Any]]:
    def row(time: float, address: int, change: int, total: int) -> dict[str, Any]:
        return {"ph": "i", "name": "[memory]", "tid": 1, "ts": time,
                "args": {"Device Type": 1, "Device Id": device, "Addr": address, "Bytes": change,
                         "Total Allocated": total, "Total Reserved": 4096}}  # fmt: skip

    return [
        row(1.0, 11, 512, allocated + 512),
        row(2.0, 12, 1024, allocated + 1536),
        row(3.0, 5, -256, allocated + 1280),
    ]


def test_an_accelerator_in_a_chrome_trace_tells_blocks_and_what_was_there_before() -> None:
    found = chrome_trace.history({"traceEvents": cuda(allocated=2000)}, "a", None)
    assert (found.device, found.tier, found.highest("reserved")) == ("cuda:0", "allocated", 4096)
    assert found.levels()[-1] == 3280
    assert sorted(life.size for life in found.alive(found.begin - 1)) == [256, 1744]


def test_several_devices_must_be_named(tmp_path: Path) -> None:
    rows = {"traceEvents": cuda(0) + cuda(1)}
    with pytest.raises(InputError, match=r"holds devices 0, 1.*--device"):
        chrome_trace.history(rows, "a", None)
    assert chrome_trace.history(rows, "a", 1).device == "cuda:1"
    path = written(tmp_path / "a.sqlite", (*EVENTS, (600, 77, 512, DEVICE, 0, 0, 1)))
    with pytest.raises(InputError, match=r"holds devices 0, 1.*--device"):
        profile.read(path)
    assert profile.read(path, device=1).levels() == [512]


# Nothing hostile does harm.


def test_ranges_without_end_do_not_make_it_slow() -> None:
    """Nested a hundred thousand deep, with an allocation in each: seconds, not hours."""
    n = 100_000
    rows = [{"ph": "X", "cat": "cpu_op", "name": "a", "tid": 1, "ts": i, "dur": 3 * n} for i in range(n)]
    memory = {"Device Type": 0, "Bytes": 8, "Total Allocated": -1}
    told = [{"name": "[memory]", "tid": 1, "ts": i * 10, "args": {**memory, "Addr": i}} for i in range(n // 10)]
    strange = [{"ph": "X", "cat": [], "name": "b", "tid": {}, "ts": 1, "dur": 1}]
    since = time.monotonic()
    found = chrome_trace.history({"traceEvents": [*rows, *told, *strange]}, "a", None)
    assert len(found.lives) == n // 10
    assert time.monotonic() - since < 30


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("DROP TABLE CUDA_GPU_MEMORY_USAGE_EVENTS", "no table CUDA_GPU_MEMORY_USAGE_EVENTS"),
        ("DELETE FROM CUDA_GPU_MEMORY_USAGE_EVENTS", "is empty"),
        ("UPDATE CUDA_GPU_MEMORY_USAGE_EVENTS SET bytes = 'many'", "not whole numbers"),
        ("UPDATE CUDA_GPU_MEMORY_USAGE_EVENTS SET bytes = -5", "not whole numbers"),
        (
            "DROP TABLE CUDA_GPU_MEMORY_USAGE_EVENTS; CREATE VIEW CUDA_GPU_MEMORY_USAGE_EVENTS AS WITH"
            " RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT x AS start, 1 AS globalPid,"
            " 0 AS deviceId, 0 AS address, 1 AS bytes, 2 AS memKind, 0 AS memoryOperationType FROM r",
            "no table CUDA_GPU_MEMORY_USAGE_EVENTS",
        ),
        (
            "DROP TABLE CUDA_GPU_MEMORY_USAGE_EVENTS; CREATE TABLE CUDA_GPU_MEMORY_USAGE_EVENTS (start, deviceId,"
            " address, memKind, memoryOperationType, x, bytes GENERATED ALWAYS AS (hex(zeroblob(1000000))))",
            "no table CUDA_GPU_MEMORY_USAGE_EVENTS with bytes",
        ),
    ],
)  # fmt: skip
def test_a_strange_database_is_one_line(tmp_path: Path, more: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        profile.read(written(tmp_path / "a.sqlite", more=more))


def test_a_database_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock runs beside every query."""
    monkeypatch.setattr(nsight, "SECONDS", 0.2)
    path = written(tmp_path / "a.sqlite")
    since = time.monotonic()
    with pytest.raises(InputError, match="takes more than"), nsight.database(path) as db:
        db.execute("WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT max(x) FROM r").fetchone()
    assert time.monotonic() - since < 5


def test_a_database_cannot_be_written_and_attaches_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "a.sqlite")
    for statement in ("DELETE FROM StringIds", f"ATTACH '{tmp_path}/b.sqlite' AS b"):
        with pytest.raises(InputError, match="cannot be read"), nsight.database(path) as db:
            db.execute(statement)
    assert not (tmp_path / "b.sqlite").exists()


def test_a_cut_database_is_one_line(tmp_path: Path) -> None:
    whole = Path(written(tmp_path / "a.sqlite")).read_bytes()
    for length in (20, 100, 4096, len(whole) // 2, len(whole) - 4096):
        path = tmp_path / f"{length}.sqlite"
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            profile.read(str(path))


class Evil:
    def __reduce__(self) -> Any:
        return print, ("run",)


def test_a_pickle_that_names_anything_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnsupportedError, match="nothing of it is run"):
        profile.read(pickled(tmp_path, {"segments": [Evil()], "device_traces": []}))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "value",
    [
        {"traceEvents": []},
        {"traceEvents": [{"name": "[memory]", "args": {"Device Type": 1}}]},
        {"traceEvents": [{"name": "[memory]", "args": {"Device Type": 0, "Bytes": 2**70, "Addr": 1}, "ts": 1}]},
        {"traceEvents": 5},
        {"traceEvents": [{"name": "[memory]", "tid": [], "args": {"Device Type": 0, "Device Id": []}, "ts": 1}]},
        {"segments": [], "device_traces": [[{"action": "alloc", "addr": "x", "size": 5}]]},
        {"segments": [{"blocks": 5}], "device_traces": [[]]},
        {"segments": [{"total_size": 5}], "device_traces": [[{"action": 5}]]},
        {"argument_size_in_bytes": -5},
        {"argument_size_in_bytes": "5"},
        {"argument_size_in_bytes": 5, "output_size_in_bytes": 1, "alias_size_in_bytes": 2},
        {"temp_size_in_bytes": 5},
        [[1, 2, 3]],
        [[1, 9, 3, 0]],
        [[1, 2, 3, 99]],
        [[1, 2], [[0, 1]]],
        [[1], [[0] * 9, [0] * 9]],
        [[1], [[0.5] * 9]],
    ],
)
def test_a_strange_text_is_one_line(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(value))
    with pytest.raises(InputError) as found:
        profile.read(str(path))
    assert found.value.key in ("recording", "device")


@pytest.mark.parametrize(
    "data", [b"\x1f\x8b", b"\x1f\x8b\x08garbage", b"", b"\x80", b"[[", b"{", b"\n\x04\x08\x01\x10\x7f"]
)
def test_what_is_cut_is_one_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    with pytest.raises(InputError):
        profile.read(str(path))


def test_a_bomb_is_refused_before_it_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tonnage.sources._unpack.LARGEST", 2**20)
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(b'{"traceEvents": [' + b" " * 2**24))
    with pytest.raises(InputError, match="unpacks to more than"):
        profile.read(str(path))


def test_no_such_file() -> None:
    with pytest.raises((InputError, SourceError)):
        profile.read("/nowhere/at/all")


READERS: dict[str, Callable[[bytes], Any]] = {
    "memory.prof": lambda data: pprof.history(gzip.decompress(data), "a", None),
    "memory_analysis.txt": lambda data: xla_memory.history(data, None, "a"),
}


def test_a_damaged_pprof_is_one_line() -> None:
    data = gzip.decompress((DATA / "memory.prof").read_bytes())
    chance = random.Random(1)
    for _ in range(400):
        broken = bytearray(data)
        for _ in range(chance.randrange(1, 8)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        with suppress(TonnageError):
            pprof.history(bytes(broken[: chance.randrange(1, len(broken) + 1)]), "a", None)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_history_or_one_line(data: bytes) -> None:
    for start in (b"", b"\n\x04\x08"):
        with suppress(TonnageError):
            pprof.history(start + data, "a", None)
    profile.of_head(data)


def test_weights_and_configs_are_no_profiles(tmp_path: Path) -> None:
    for name, data in {
        "a.safetensors": b"\x10\0\0\0\0\0\0\0{}", "a.gguf": b"GGUF\x03", "config.json": b'{"model_type": "llama"}',
        "a.pt": b"PK\x03\x04", "old.pt": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        "index.json": b'{"weight_map": {"a": "b"}}',
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
        assert profile.kind(str(tmp_path / name)) is None


def test_a_database_of_another_kind(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as db:
        db.execute("CREATE TABLE t (a)")
        db.commit()
    with pytest.raises(InputError, match="nsys profile --cuda-memory-usage=true"):
        profile.read(str(tmp_path / "a.sqlite"))
