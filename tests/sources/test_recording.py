"""Recordings are read from JSON and from pickles, nothing of them is run, and what is damaged is one clear line."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tonnage.allocator import parse
from tonnage.allocator.asked import asked
from tonnage.allocator.blocks import UNMAPPED
from tonnage.allocator.caching import Allocator
from tonnage.allocator.device import Device
from tonnage.allocator.replay import replay
from tonnage.allocator.run import run
from tonnage.errors import InputError, SourceError, TonnageError, UnsupportedError
from tonnage.sources.recording import read
from tonnage.units import MiB

FOLDER = Path(__file__).parents[2] / "accuracy" / "recordings"
STATES = {0: "inactive", 1: "active_allocated", 2: "active_pending_free"}


class Tracing(Device):
    """Tells the events of segments as torch's trace does."""

    def __init__(self) -> None:
        super().__init__()
        self.trace: list[dict[str, Any]] = []

    def tell(self, action: str, address: int, size: int) -> None:
        """One entry."""
        entry = {"action": action, "addr": address, "size": size, "stream": 0, "frames": [], "time_us": 1}
        self.trace.append(entry)

    def allocate(self, size: int) -> int | None:
        address = super().allocate(size)
        assert address is not None
        self.tell("segment_alloc", address, size)
        return address

    def release(self, address: int, size: int) -> None:
        super().release(address, size)
        self.tell("segment_free", address, size)

    def map(self, address: int, size: int) -> bool:
        self.tell("segment_map", address, size)
        return super().map(address, size)

    def unmap(self, address: int, size: int) -> None:
        super().unmap(address, size)
        self.tell("segment_unmap", address, size)


def made(conf: str = "", steps: int = 400, seed: int = 1) -> dict[str, Any]:
    """A snapshot of a made-up program, as torch.cuda.memory._snapshot() returns it."""
    chance, device = random.Random(seed), Tracing()
    a = Allocator(parse(conf), device)
    live: list[Any] = []
    waiting: list[Any] = []
    for _ in range(steps):
        what = chance.random()
        if what < 0.55:
            size = int(2 ** chance.uniform(0, 26))
            live.append(a.malloc(size))
            device.tell("alloc", live[-1].address, size)
        elif what < 0.97 and live:
            block = live.pop(chance.randrange(len(live)))
            if chance.random() < 0.2:
                a.record_stream(block, 7)
                waiting.append(block)
            device.tell("free_requested", block.address, block.requested)
            if block not in waiting:
                device.tell("free_completed", block.address, block.requested)
            a.free(block)
        elif what < 0.98 and waiting:
            block = waiting.pop(0)
            device.tell("free_completed", block.address, block.requested)
            a.complete(block)
        elif what > 0.99 and not waiting:
            a.empty_cache()
    return {
        "segments": segments(a),
        "device_traces": [device.trace, []],
        "allocator_settings": {"PYTORCH_CUDA_ALLOC_CONF": conf},
        "external_annotations": [],
    }


def segments(a: Allocator) -> list[dict[str, Any]]:
    """What an allocator holds, as torch tells it: of an expandable segment each mapped stretch is one."""
    out: list[dict[str, Any]] = []
    last = None
    for block in a.blocks():
        if block.state == UNMAPPED:
            last = None
            continue
        if last is None or last.next is not block:
            small = block.shelf.pool.small
            out.append({"device": 0, "address": block.address, "total_size": 0, "stream": 0, "blocks": [],
                        "segment_type": "small" if small else "large", "is_expandable": block.area is not None,
                        "segment_pool_id": (0, 0)})  # fmt: skip
        out[-1]["total_size"] += block.size
        out[-1]["blocks"].append(
            {"address": block.address, "size": block.size, "requested_size": block.requested, "frames": [],
             "state": STATES[block.state]}
        )  # fmt: skip
        last = block
    return out


def written(folder: Path, snapshot: Any, name: str = "snapshot.pickle") -> str:
    path = folder / name
    path.write_bytes(pickle.dumps(snapshot) if name.endswith("pickle") else json.dumps(snapshot).encode())
    return str(path)


@pytest.mark.parametrize("conf", ["", "expandable_segments:True", "roundup_power2_divisions:4", "max_split_size_mb:40"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_snapshot_of_our_own_allocator_replays_exactly(tmp_path: Path, conf: str, seed: int) -> None:
    recording = read(written(tmp_path, made(conf, seed=seed)))
    found = replay(recording)
    assert (found.address_mismatches, found.segment_mismatches) == (0, 0)
    assert (found.reserved, found.allocated) == (recording.reserved, recording.allocated)
    assert found.allocations > 150


def test_the_second_half_of_a_recording_replays_exactly(tmp_path: Path) -> None:
    """A ring buffer loses the beginning: what was held there follows from the end."""
    for seed in range(6):
        snapshot = made(seed=seed)
        trace = snapshot["device_traces"][0]
        del trace[: len(trace) // 2]
        recording = read(written(tmp_path, snapshot))
        found = replay(recording)
        assert found.guessed > 0
        assert (found.address_mismatches, found.segment_mismatches) == (0, 0)


def test_streams_are_followed(tmp_path: Path) -> None:
    recording = read(written(tmp_path, made()))
    events = asked(recording)
    kinds = {type(event).__name__ for event in events.events}
    assert {"RecordStream", "Complete"} <= kinds
    outcome = run(events.events)
    assert (outcome.allocated, outcome.requested >= outcome.allocated // 2) == (recording.allocated, True)


def test_a_recording_that_begins_with_expandable_segments_is_refused(tmp_path: Path) -> None:
    snapshot = made("expandable_segments:True")
    del snapshot["device_traces"][0][:100]
    recording = read(written(tmp_path, snapshot))
    with pytest.raises(UnsupportedError, match="--alloc-conf"):
        replay(recording)
    begin = asked(recording)
    assert run([*begin.earlier, *begin.events]).verdict == "fits"


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_pickle_protocols(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "snapshot.pickle"
    path.write_bytes(pickle.dumps(made(steps=40), protocol=protocol))
    if protocol < 2:
        with pytest.raises(TonnageError):
            read(str(path))
    else:
        assert read(str(path)).entries


def test_json_and_gzip_hold_the_same(tmp_path: Path) -> None:
    snapshot = made(steps=60)
    first = read(written(tmp_path, snapshot))
    again = read(written(tmp_path, snapshot, "snapshot.json"))
    packed = tmp_path / "packed.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(snapshot).encode()))
    third = read(str(packed))
    assert (first.segments, first.entries) == (again.segments, again.entries) == (third.segments, third.entries)


def test_other_actions_are_passed_over(tmp_path: Path) -> None:
    snapshot = made(steps=40)
    trace = snapshot["device_traces"][0]
    trace.insert(3, {"action": "oom", "device_free": 5, "size": 7, "stream": 0})
    trace.append({"action": "snapshot", "addr": 0, "size": 5, "stream": 0})
    assert replay(read(written(tmp_path, snapshot))).address_mismatches == 0


def test_the_device_is_named_where_there_are_several(tmp_path: Path) -> None:
    snapshot = made(steps=40)
    snapshot["device_traces"][1] = snapshot["device_traces"][0]
    path = written(tmp_path, snapshot)
    with pytest.raises(InputError, match=r"holds devices 0, 1 .*; name one with --device"):
        read(path)
    assert read(path, device=0).segments
    with pytest.raises(InputError, match="holds devices"):
        read(path, device=5)


# Nothing is run.


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("echo broken > /tmp/tonnage-was-here",)


@pytest.mark.parametrize("value", [Evil(), {"segments": [Evil()]}, os.system, io.BytesIO()])
def test_a_pickle_that_names_anything_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(UnsupportedError, match="nothing of it is run") as found:
        read(written(tmp_path, value))
    assert found.value.key == "recording"


@pytest.mark.parametrize(
    "data",
    [b"\x80\x04)R.", b"\x80\x04Nb.", b"\x80\x04N)\x81.", b"\x80\x04NQ.", b"\x80\x04i", b"\x80\x04h\x00.", b"\x80"],
)
def test_strange_opcodes_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "snapshot.pickle"
    path.write_bytes(data)
    with pytest.raises(TonnageError):
        read(str(path))


# What is damaged is told.

TINY: dict[str, Any] = {
    "segments": [
        {
            "address": 4096, "total_size": 2 * MiB, "stream": 0, "segment_type": "small", "is_expandable": False,
            "blocks": [[4096, 512, 9, "active_allocated"], [4608, 2 * MiB - 512, 0, "inactive"]],
        }
    ],
    "events": [["segment_alloc", 4096, 2 * MiB, 0], ["alloc", 4096, 9, 0]],
    "allocator_settings": {},
}  # fmt: skip


def changed(**change: Any) -> dict[str, Any]:
    return {**TINY, **change}


def segment(**change: Any) -> dict[str, Any]:
    return changed(segments=[{**TINY["segments"][0], **change}])


def test_the_tiny_recording_is_right(tmp_path: Path) -> None:
    recording = read(written(tmp_path, TINY, "a.json"))
    assert (recording.reserved, recording.allocated) == (2 * MiB, 512)
    assert replay(recording).address_mismatches == 0


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([], "an object is expected, not list"),
        ({}, "'segments' is missing"),
        (changed(segments=5), "'segments' is no list"),
        (changed(events=None), "'events' is missing"),
        (changed(events=[["alloc", 4096, 9]]), "event 0 is not action, address, size and stream"),
        (changed(events=[["alloc", 4096, "9", 0]]), "event 0 is not action"),
        (changed(events=[["alloc", -4096, 9, 0]]), "event 0 is not action"),
        (changed(events=[["alloc", 4096, 2**70, 0]]), "event 0 is not action"),
        (changed(events=[["alloc", 4096, 9.5, 0]]), "event 0 is not action"),
        (changed(events=[["alloc", 4096, True, 0]]), "event 0 is not action"),
        (changed(events=[["borrow", 4096, 9, 0]]), "event 0 has the unknown action 'borrow'"),
        (changed(events=[[["alloc"], 4096, 9, 0]]), "event 0 is not action"),
        (changed(events=[5]), "event 0 is not action"),
        (changed(device_traces=5), "'device_traces' is no list"),
        (changed(device_traces=[[5]]), "event 0 is not action"),
        (changed(device_traces=[5]), "the events are no list"),
        (changed(allocator_settings={"PYTORCH_CUDA_ALLOC_CONF": 5}), "is no text"),
        (changed(segments=[5]), "segment 0 has no blocks"),
        (segment(address="a"), "segment 0: address is no whole number"),
        (segment(total_size=None), "segment 0: total_size is no whole number"),
        (segment(stream=-1), "segment 0: stream is no whole number"),
        (segment(total_size=5 * MiB), "do not fill it"),
        (segment(blocks=[[4096, 2 * MiB, 9]]), "not address, size, requested size and state"),
        (segment(blocks=[[9999, 2 * MiB, 9, "inactive"]]), "does not begin where the one before it ends"),
        (segment(blocks=[[4096, 2 * MiB, 9, None]]), "does not begin where"),
        (segment(blocks=[{"size": 2 * MiB}]), "does not begin where"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, value: Any, told: str) -> None:
    with pytest.raises(InputError) as found:
        read(written(tmp_path, value, "a.json"))
    assert told in str(found.value)
    assert found.value.key == "recording"


@pytest.mark.parametrize(
    "value", [segment(segment_pool_id=[1, 0]), changed(device_traces=[[{"action": "alloc", "pool_id": [0, 3]}]])]
)
def test_private_pools_are_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(UnsupportedError, match="private pools"):
        read(written(tmp_path, value, "a.json"))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "neither a memory snapshot nor JSON"),
        (b"hello", "neither a memory snapshot nor JSON at line 1, column 1"),
        (b"\xff\xfe", "neither a memory snapshot nor JSON"),
        (b"[" * 100_000, "neither a memory snapshot nor JSON"),
        (b'{"segments": [', "neither a memory snapshot nor JSON at line 1"),
        (b"\x1f\x8bnonsense", "a damaged gzip file"),
        (gzip.compress(b"{}", mtime=0)[:-9], "a truncated gzip file"),
        (b"\x80\x04\x95\x0b\x00", "truncated"),
    ],
)
def test_files_that_are_none_are_told(tmp_path: Path, data: bytes, told: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(InputError) as found:
        read(str(path))
    assert told in str(found.value)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot read"):
        read(str(tmp_path / "nowhere"))
    with pytest.raises(SourceError, match="no regular file"):
        read(str(tmp_path))
    (tmp_path / "a.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(UnsupportedError, match="no memory snapshot"):
        read(str(tmp_path / "a.pt"))


@given(cut=st.integers(0, 965), flips=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=4))
@settings(max_examples=150, deadline=None)
def test_damaged_recordings_never_crash(tmp_path_factory: pytest.TempPathFactory, cut: int, flips: Any) -> None:
    plain = bytearray(gzip.decompress((FOLDER / "sil0.json.gz").read_bytes()))
    for at, value in flips:
        plain[at % len(plain)] = value
    path = tmp_path_factory.mktemp("cut") / "a.json"
    path.write_bytes(bytes(plain) if cut > 900 else bytes(plain[: cut * 5]))
    with suppress(TonnageError):
        assert replay(read(str(path))).allocations <= 36


@given(data=st.binary(max_size=60))
@settings(max_examples=150, deadline=None)
def test_random_pickles_never_crash(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("pickle") / "a.pickle"
    path.write_bytes(b"\x80\x04" + data + b".")
    with pytest.raises(TonnageError):
        read(str(path))
