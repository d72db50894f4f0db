"""Safetensors headers: what the library reads is read, what it refuses is refused, and nothing else can happen."""

from __future__ import annotations

import ctypes
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tonnage.errors import InputError, SourceError, TonnageError
from tonnage.sources import headers
from tonnage.sources.safetensors import DTYPES, LARGEST, Table, read

ONE = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}


def raw(header: Any, data: int = 0, pad: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    text += b" " * pad
    return len(text).to_bytes(8, "little") + text + bytes(data)


def written(folder: Path, content: bytes, name: str = "model.safetensors") -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_a_header_is_read(tmp_path: Path) -> None:
    table = {
        "__metadata__": {"format": "pt", "é\n": "x"},
        "model.layers.0.mlp.up_proj.weight": entry("BF16", [4, 8], 0, 64),
        "scalar": entry("F64", [], 64, 72),
        "empty": entry("I64", [0, 7], 72, 72),
        "fp4": entry("F4", [6], 72, 75),
    }
    found = read(written(tmp_path, raw(table, 75)))
    assert [(t.name, t.shape, t.format, t.nbytes) for t in found.tensors] == [
        ("model.layers.0.mlp.up_proj.weight", (4, 8), "bf16", 64),
        ("scalar", (), "fp64", 8),
        ("empty", (0, 7), "int64", 0),
        ("fp4", (6,), "fp4_e2m1", 3),
    ]
    assert found.metadata == {"format": "pt", "é\n": "x"}
    assert found.weight_bytes == 75
    assert found.file_bytes == found.weight_bytes + found.header_bytes


@pytest.mark.parametrize("length", range(99_990, 100_011))
def test_every_length_of_header(tmp_path: Path, length: int) -> None:
    plain = json.dumps(ONE).encode()
    found = read(written(tmp_path, raw(plain, 24, pad=length - len(plain))))
    assert found.header_bytes == length + 8
    assert found.weight_bytes == 24


@pytest.mark.parametrize(
    "text",
    [
        b' {"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}   ',
        b'{"a":{"shape":[1],"dtype":"U8","data_offsets":[0,1]}}',
        b'{"a" : { "data_offsets" : [ 0 , 1 ] , "shape" : [ 1 ] , "dtype" : "U8" } }',
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"later":{"x":[1,{"y":2}]}}}',
        b'{"\\u0061":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b'{"a":{"dtype":"U8","shape":[ 1 ],"data_offsets":[0,1]}\n}',
    ],
)
def test_other_spellings(tmp_path: Path, text: bytes) -> None:
    (t,) = read(written(tmp_path, raw(text, 1))).tensors
    assert (t.name, t.shape, t.format, t.nbytes) == ("a", (1,), "uint8", 1)


def test_the_number_of_tensors_is_bounded(tmp_path: Path) -> None:
    rows = b",".join(b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(500_000))
    with pytest.raises(InputError, match="more than 500,000 tensors"):
        read(written(tmp_path, raw(b"{" + rows + b"}")))


U8 = b'"dtype":"U8","shape":[1],"data_offsets":[0,1]'
WRONG = [
    (b"", "8"),
    (b"\0" * 7, "8"),
    ((LARGEST + 1).to_bytes(8, "little"), "100,000,000"),
    (b"\xff" * 8, "no"),
    ((50).to_bytes(8, "little") + b"{}", "truncated"),
    (raw(b""), "not JSON"),
    (raw(b"[]"), "not JSON"),
    (raw(b"{"), "not JSON"),
    (raw(b"{}x"), "follows"),
    (raw(b'{"a"'), "not JSON"),
    (raw(b'{"a":1}'), "object"),
    (raw(b'{"a":{' + U8 + b"},}", 1), "not JSON"),
    (raw(b'{"a":{' + U8 + b'}"b":{}}', 1), "not JSON"),
    (raw(b'{"\xff":{' + U8 + b"}}", 1), "UTF-8"),
    (raw(b'{"\\ud800":{' + U8 + b"}}", 1), "UTF-8"),
    (raw(b'{"\\x":{' + U8 + b"}}", 1), "escape"),
    (raw(b'{"a\n":{' + U8 + b"}}", 1), "control character"),
    (raw(b'{"a":{"dtype":"U8","shape":[1]}}', 1), "data_offsets"),
    (raw(b'{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}', 1), "counts"),
    (raw(b'{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}', 1), "counts"),
    (raw(b'{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}', 1), "counts"),
    (raw(b'{"a":{"dtype":7,"shape":[1],"data_offsets":[0,1]}}', 1), "dtype"),
    (raw(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}}', 1), "two of them"),
    (raw(b'{"a":{"dtype":"U8","shape":[01],"data_offsets":[0,1]}}', 1), "not JSON"),
    (raw(b'{"a":{"dtype":"U8","shape":1,"data_offsets":[0,1]}}', 1), "counts"),
    (raw(b'{"a":' + b"[" * 1000 + b"]" * 1000 + b"}"), ""),
    (raw(b'{"a":' + b"[" * 200_000), "does not end"),
    (raw(b'{"a":{"x":' + b"[]," * 60_000 + b"}}"), "does not end"),
    (raw(b'{"__metadata__":[]}'), "not JSON"),
    (raw(b'{"__metadata__":{"a":1}}'), "no text"),
    (raw(b'{"' + b"a" * 100_000 + b'":1}'), "bytes, more than"),
    (raw({"a": entry("F99", [1], 0, 1)}, 1), "unknown dtype 'F99'"),
    (raw({"a": entry("I4", [2], 0, 1)}, 1), "unknown dtype"),
    (raw({"a": entry("F32", [2], 0, 4)}, 4), "takes 8"),
    (raw({"a": entry("F32", [1], 4, 0)}, 4), "span -4"),
    (raw({"a": entry("F4", [3], 0, 2)}, 2), "whole bytes"),
    (raw({"a": entry("F6_E2M3", [2], 0, 2)}, 2), "whole bytes"),
    (raw({"a": entry("F32", [2**62, 4], 0, 0)}), "overflows"),
    (raw({"a": entry("F32", [2**40, 2**40, 0], 0, 0)}), ""),
    (raw({"a": entry("F32", [2**63, 2**63], 0, 0)}), "overflows"),
    (raw({"a": entry("U8", [1] * 300, 0, 1)}, 1), "dimensions"),
    (raw({"a": entry("U8", [1], 1, 2)}, 2), "hole"),
    (raw({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 1, 3)}, 3), "overlaps"),
    (raw({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 0, 2)}, 4), "overlaps"),
    (raw({"b": entry("U8", [2], 3, 5), "a": entry("U8", [2], 0, 2)}, 5), "hole"),
    (raw({"a": entry("U8", [1], 0, 1)}, 2), "belong to no tensor"),
    (raw({"a": entry("U8", [2], 0, 2)}, 1), "truncated"),
    (raw({}, 1), "belong to no tensor"),
]


@pytest.mark.parametrize(("content", "told"), WRONG)
def test_what_is_wrong_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    if told == "" and b"1099511627776" in content:
        assert read(written(tmp_path, content)).weight_bytes == 0
        return
    with pytest.raises(InputError) as e:
        read(written(tmp_path, content))
    assert told in str(e.value)
    assert str(tmp_path) in str(e.value)


def test_offsets_in_another_order(tmp_path: Path) -> None:
    table = {"b": entry("U8", [2], 3, 5), "a": entry("U8", [3], 0, 3), "e": entry("U8", [0], 3, 3)}
    found = read(written(tmp_path, raw(table, 5)))
    assert [t.name for t in found.tensors] == ["b", "a", "e"]


def test_of_duplicates_the_last_one_wins(tmp_path: Path) -> None:
    two = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}'
    found = read(written(tmp_path, raw(two, 2)))
    assert [(t.format, t.nbytes) for t in found.tensors] == [("uint8", 2)]
    assert "stand" in found.notes[0]


def test_not_a_file(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.safetensors", tmp_path, Path("/dev/zero"), Path("a\0b")):
        with pytest.raises(SourceError):
            read(str(path))


# Sharded files


def sharded(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    written(folder, raw({"a": entry("F32", [2], 0, 8)}, 8), "model-00001-of-00002.safetensors")
    written(folder, raw({"b": entry("BF16", [3], 0, 6)}, 6), "model-00002-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = {"metadata": {"total_size": 14}, "weight_map": weight_map, **changes}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return folder / "model.safetensors.index.json"


def test_an_index_and_its_parts(tmp_path: Path) -> None:
    index = sharded(tmp_path / "org-name")
    for path in (index, index.parent, index.parent / "model-00002-of-00002.safetensors"):
        found = headers.read(str(path))
        assert {t.name for t in found.tensors} == {"a", "b"}
        assert (found.files, found.weight_bytes, found.notes) == (2, 14, ())
        assert found.file_bytes == found.weight_bytes + found.header_bytes
    assert headers.read(str(index)).name == "org-name"


def test_an_index_that_disagrees(tmp_path: Path) -> None:
    index = sharded(tmp_path, metadata={"total_size": 15.0})
    assert "states 15 bytes" in headers.read(str(index)).notes[0]
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = sharded(tmp_path, weight_map={**parts, "c": parts["a"]})
    with pytest.raises(InputError, match="1 tensors of the index are in none"):
        headers.read(str(index))
    index = sharded(tmp_path, weight_map={"a": parts["a"]})
    assert headers.read(str(index)).files == 1
    index = sharded(tmp_path, weight_map={**parts, "c": "model-00003-of-00003.safetensors"})
    with pytest.raises(SourceError, match="missing"):
        headers.read(str(index))
    index = sharded(tmp_path, weight_map={"a": parts["a"], "x": "other.safetensors"})
    written(tmp_path, raw({"a": entry("U8", [1], 0, 1)}, 1), "other.safetensors")
    with pytest.raises(InputError, match="in two files"):
        headers.read(str(index))


@pytest.mark.parametrize(
    "file",
    ["/etc/passwd", "../x.safetensors", "a/../../x.safetensors", "C:/x.safetensors", "", "a\0.safetensors", "x.py"],
)
def test_an_index_stays_in_its_folder(tmp_path: Path, file: str) -> None:
    index = sharded(tmp_path, weight_map={"a": file})
    with pytest.raises(InputError):
        headers.read(str(index))


@pytest.mark.parametrize(
    "text", [b"", b"{}", b'{"weight_map":{}}', b'{"weight_map":[]}', b'{"weight_map":{"a":1}}', b"\xff"]
)
def test_not_an_index(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(InputError):
        headers.read(written(tmp_path, text, "model.safetensors.index.json"))


def test_what_a_folder_holds(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no weights"):
        headers.read(str(tmp_path))
    content = raw(ONE, 24)
    written(tmp_path, content, "b.safetensors")
    written(tmp_path, b"", "training_args.bin")
    assert headers.read(str(tmp_path)).name == tmp_path.name
    written(tmp_path, content, "c.safetensors")
    with pytest.raises(InputError, match="several"):
        headers.read(str(tmp_path))
    written(tmp_path, content, "model.safetensors")
    assert headers.read(str(tmp_path)).weight_bytes == 24


# Anything at all

LENGTHS = st.one_of(st.none(), st.integers(0, 200), st.integers(0, 2**64 - 1))
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-5, 2**70), st.floats(allow_nan=False), st.text(max_size=8))
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=4), v, max_size=4))
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from([*DTYPES, "X"]) | VALUES,
        "shape": st.lists(st.integers(0, 4) | st.integers(0, 2**65), max_size=4) | VALUES,
        "data_offsets": st.lists(st.integers(0, 64) | st.integers(0, 2**65), min_size=2, max_size=2) | VALUES,
        "more": VALUES,
    },
)
TABLES = st.dictionaries(st.text(max_size=6) | st.just("__metadata__"), ENTRIES | VALUES, max_size=4)


@settings(max_examples=400, deadline=2000)
@given(
    st.dictionaries(st.text(max_size=6) | st.just("__metadata__"), ENTRIES | VALUES, max_size=4),
    LENGTHS,
    st.binary(max_size=80),
)
def test_any_header_ends_in_an_answer_or_an_error(table: dict[str, Any], length: int | None, data: bytes) -> None:
    text = json.dumps(table).encode()
    content = (len(text) if length is None else length).to_bytes(8, "little") + text + data
    check(content)


@settings(max_examples=300, deadline=2000)
@given(st.binary(max_size=300))
def test_any_bytes_end_in_an_answer_or_an_error(content: bytes) -> None:
    check(content)
    check(len(content).to_bytes(8, "little") + content)


class Memory:
    """A file that lies in memory."""

    def __init__(self, content: bytes) -> None:
        self.content, self.path, self.name, self.size = content, "m.safetensors", "m.safetensors", len(content)

    def read(self, at: int, length: int) -> bytes:
        assert 0 <= at <= at + length <= self.size
        return self.content[at : at + length]

    def wrong(self, what: str, at: int | None = None) -> InputError:
        return InputError(f"{what} at {at}", file=self.path)


def check(content: bytes) -> None:
    from tonnage.sources.safetensors import header

    try:
        found = header(Memory(content))
    except TonnageError as e:
        told = str(e).encode()
    else:
        told = b""
        assert found.weight_bytes + found.header_bytes == found.file_bytes == len(content)
    assert len(told) < 4000


def test_mutated_files() -> None:
    table = {f"model.layers.{i}.mlp.up_proj.weight": entry("BF16", [4, 4], 32 * i, 32 * i + 32) for i in range(20)}
    good = raw({"__metadata__": {"format": "pt"}, **table}, 640)
    rng = random.Random(4)
    for _ in range(1500):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data) - 600)
            if rng.random() < 0.3:
                del data[at : at + rng.randint(1, 20)]
            else:
                data[at] = rng.choice([rng.randrange(256), *b'"{}[],:\\0 '])
        check(bytes(data))


@pytest.mark.parametrize("filler", [b"[],", b'"a":', b"\\", b"{", b" ", b'"', b"0"])
@pytest.mark.parametrize("start", [b"", b'{"a":', b'{"a":{"dtype":"U8","shape":[', b'{"__metadata__":{"a":"', b'{"'])
def test_six_megabytes_of_nothing_are_refused_in_a_moment(start: bytes, filler: bytes) -> None:
    import tracemalloc

    content = start + filler * (6_000_000 // len(filler))
    tracemalloc.start()
    before = time.process_time()
    with pytest.raises(InputError):
        Table(content, "x")
    took, (_, peak) = time.process_time() - before, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took < 5
    assert peak < 3 * len(content) + 2**20


# The library


def library(content: bytes) -> list[tuple[str, str, tuple[int, ...]]] | None:
    st_ = pytest.importorskip("safetensors")
    try:
        found = st_.deserialize(content)
    except Exception:
        return None
    return sorted((name, t["dtype"], tuple(t["shape"])) for name, t in found)


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    st_ = pytest.importorskip("safetensors")
    kinds = {"b": ("float32", [2, 3], 24), "a": ("bfloat16", [5], 10), "s": ("int64", [], 8), "z": ("uint8", [0], 0)}
    data = ctypes.create_string_buffer(24)
    where = ctypes.addressof(data)
    content = st_.serialize(
        {
            name: st_.TensorSpec(dtype=dtype, shape=shape, data_ptr=where, data_len=size)
            for name, (dtype, shape, size) in kinds.items()
        },
        {"format": "pt"},
    )
    found = read(written(tmp_path, content))
    names = {ours: theirs for theirs, ours in DTYPES.items()}
    assert sorted((t.name, names[t.format], t.shape) for t in found.tensors) == library(content)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_are_the_library_s(dtype: str) -> None:
    size = {"BOOL": 1, "F4": 0.5}.get(dtype) or int(dtype.lstrip("IUBCF").partition("_")[0]) / 8
    content = raw({"a": entry(dtype, [8], 0, int(8 * size))}, int(8 * size))
    check(content)
    found = library(content)
    if dtype == "F8_E5M2FNUZ" and found is None:
        pytest.skip("newer than this release")
    assert found is not None
    assert [shape for _, _, shape in found] == [(8,)]


KINDS = st.tuples(st.sampled_from(["U8", "F32", "BF16", "F4", "F64"]), st.lists(st.integers(0, 3), max_size=3))
CLEAN = st.dictionaries(st.text(max_size=5), KINDS, min_size=1, max_size=4)


@settings(max_examples=200, deadline=2000)
@given(CLEAN, st.randoms(use_true_random=False))
def test_the_library_agrees(tensors: dict[str, tuple[str, list[int]]], rng: random.Random) -> None:
    bits = {"U8": 8, "F32": 32, "BF16": 16, "F4": 4, "F64": 64}
    table, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        count = 1
        for n in shape:
            count *= n
        size = count * bits[dtype] // 8
        table[name] = entry(dtype, shape, at, at + size)
        at += size
    victim = rng.choice(list(table.values()))
    change = rng.random()
    if change < 0.3:
        victim["data_offsets"][rng.randrange(2)] += rng.choice([-1, 1])
    elif change < 0.5:
        victim["shape"] = [*victim["shape"], rng.choice([1, 2])]
    elif change < 0.6:
        at += 1
    content = raw(table, at)
    try:
        from tonnage.sources.safetensors import header

        ours = sorted((t.name, t.shape) for t in header(Memory(content)).tensors)
    except TonnageError:
        ours = None
    if any(n < 0 for e in table.values() for n in e["data_offsets"]):
        assert ours is None
        return
    theirs = library(content)
    assert ours == (None if theirs is None else [(name, shape) for name, _, shape in theirs])
