"""PyTorch files: tensors are found, nothing is executed, and a file that is anything else is refused by name."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import Memory

from tonnage.errors import InputError, TonnageError, UnsupportedError
from tonnage.sources import headers
from tonnage.sources._pickle import Interpreter
from tonnage.sources.torch_file import header


def archive(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as z:
        for name, data in files.items():
            z.writestr(name, data)
    return out.getvalue()


def short(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def tensor(key: str, kind: str, numel: int, shape: tuple[int, ...], offset: int = 0, stride: Any = None) -> bytes:
    """The opcodes that torch.save writes for a tensor."""
    if stride is None:
        stride, step = [], 1
        for n in reversed(shape):
            stride.insert(0, step)
            step *= n
    counts = [b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in x) + b"t" for x in (shape, stride)]
    reference = b"(" + short("storage") + f"ctorch\n{kind}\n".encode() + short(key) + short("cpu")
    reference += b"\x8a\x08" + struct.pack("<q", numel) + b"tQ"
    rest = b"\x8a\x08" + struct.pack("<q", offset) + counts[0] + counts[1] + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + rest + b"tR"


def state(tensors: dict[str, bytes]) -> bytes:
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + b"".join(short(n) + t for n, t in tensors.items()) + b"u."


def saved(tensors: dict[str, bytes], storages: dict[str, bytes]) -> bytes:
    data = {f"archive/data/{key}": content for key, content in storages.items()}
    return archive(
        {"archive/data.pkl": state(tensors), "archive/byteorder": b"little", **data, "archive/version": b"3\n"}
    )


PLAIN = saved(
    {
        "model.layers.0.mlp.up_proj.weight": tensor("0", "BFloat16Storage", 12, (3, 4)),
        "model.norm.weight": tensor("1", "FloatStorage", 4, (4,)),
        "tied": tensor("0", "BFloat16Storage", 12, (3, 4)),
        "part": tensor("0", "BFloat16Storage", 12, (2,), 10),
        "scalar": tensor("1", "FloatStorage", 4, ()),
        "none": tensor("2", "HalfStorage", 0, (0, 5)),
    },
    {"0": bytes(24), "1": bytes(16), "2": b""},
)


def test_a_state_dict() -> None:
    found = header(Memory(PLAIN, path="m.bin"))
    assert [(t.name, t.shape, t.format, t.nbytes) for t in found.tensors] == [
        ("model.layers.0.mlp.up_proj.weight", (3, 4), "bf16", 24),
        ("model.norm.weight", (4,), "fp32", 16),
        ("part", (2,), "bf16", 4),
        ("scalar", (), "fp32", 4),
        ("none", (0, 5), "fp16", 0),
    ]
    assert "tied = model.layers.0" in found.notes[0]


class Payload:
    """What a hostile pickle runs when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_executed(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "ran"
    for value in (Payload(mark), {"w": Payload(mark)}, OrderedDict(w=Payload(mark))):
        data = archive({"a/data.pkl": pickle.dumps(value, protocol)})
        with pytest.raises(TonnageError) as e:
            header(Memory(data, path="m.pt"))
        assert "system" in str(e.value) or "opcode" in str(e.value)
    assert not mark.exists()


OTHERS = """
    builtins eval, os system, torch.storage _load_from_bytes, torch load, numpy.core.multiarray scalar, __main__ X,
    torch._utils _rebuild_qtensor, torch.nn.modules.linear Linear, collections defaultdict, torch._utils eval
"""


@pytest.mark.parametrize("name", [name.strip().replace(" ", "\n") for name in OTHERS.split(",")])
def test_names_of_anything_else_are_refused(name: str) -> None:
    for code in (f"c{name}\n.".encode(), b"".join(short(p) for p in name.split("\n")) + b"\x93."):
        with pytest.raises(UnsupportedError) as e:
            Interpreter(code, "x").run()
        assert name.replace("\n", ".") in str(e.value)


T = tensor("0", "FloatStorage", 4, (4,))
WRONG = [
    (b"", "not a PyTorch"),
    (b"PK", "zip archive is missing"),
    (b"\x89HDF", "not a PyTorch"),
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + bytes(30), "legacy"),
    (pickle.dumps({"a": 1}), "bare pickle"),
    (archive({"x": b""}), "0 data.pkl"),
    (archive({"a/data.pkl": b"", "b/data.pkl": b""}), "2 data.pkl"),
    (archive({"a/data.pkl": b""}), "truncated"),
    (archive({"a/data.pkl": b"."}), "empty"),
    (archive({"a/data.pkl": b"N."}), "no tensor"),
    (archive({"a/data.pkl": state({"w": T})}, zipfile.ZIP_DEFLATED), "compressed"),
    (archive({"a/data.pkl": state({"w": T}), "a/byteorder": b"big"}), "big-endian"),
    (saved({"w": T}, {}), "no storage '0'"),
    (saved({"w": T}, {"0": bytes(15)}), "4 elements take 16"),
    (saved({"w": tensor("0", "FloatStorage", 4, (5,))}, {"0": bytes(16)}), "beyond its storage"),
    (saved({"w": tensor("0", "FloatStorage", 4, (4,), 1)}, {"0": bytes(16)}), "beyond its storage"),
    (saved({"w": tensor("0", "FloatStorage", 4, (2, 2), 0, (9, 1))}, {"0": bytes(16)}), "beyond its storage"),
    (saved({"w": tensor("0", "FloatStorage", 4, (2,), 0, (-1,))}, {"0": bytes(16)}), "none"),
    (saved({"w": tensor("0", "FloatStorage", -1, (2,))}, {"0": bytes(16)}), "without type"),
    (saved({"w": tensor("0", "FloatStorage", 4, (2, 2), 0, (1,))}, {"0": bytes(16)}), "strides"),
    (saved({"w": tensor("0", "FloatStorage", 2**62, (2**62,))}, {"0": bytes(16)}), "elements take"),
    (saved({"w": tensor("0", "Storage", 4, (4,))}, {"0": bytes(16)}), "torch.Storage"),
]


@pytest.mark.parametrize(("content", "told"), WRONG, ids=[told for _, told in WRONG])
def test_what_is_wrong_is_told(content: bytes, told: str) -> None:
    with pytest.raises((InputError, UnsupportedError)) as e:
        header(Memory(content, path="m.bin"))
    assert told in str(e.value)


def test_a_zip_bomb_is_refused_unread() -> None:
    bomb = archive({"a/data.pkl": bytes(10**8)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsupportedError, match="100,000,000 bytes"):
        header(Memory(bomb, path="m.bin"))
    # Entries that lie over each other, as in bombs that need no compression twice.
    data = bytearray(archive({"a/data.pkl": bytes(1000), "a/data/0": bytes(1000)}))
    at = data.rfind(b"PK\1\2")
    data[at + 42 : at + 46] = bytes(4)
    data[at + 20 : at + 28] = struct.pack("<II", 2000, 2000)
    with pytest.raises(InputError, match="overlap"):
        header(Memory(bytes(data), path="m.bin"))


BOMBS = {
    "a text of a terabyte": b"\x8d" + struct.pack("<Q", 2**40),
    "mappings": b"}" * 300_000,
    "marks": b"(" * 300_000 + b"t",
    "nested tuples": b")" + b"\x85" * 300_000,
    "doubling": b"]" + b"q\0" + b"h\0h\0\x86q\0" * 60 + b".",
    "a number of a gigabyte": b"\x8b" + struct.pack("<I", 2**30),
    "numbers": b"K\1" * 300_000 + b".",
    "itself": b"]q\0h\0a.",
    "a long key": b"}" + short("k" * 5000) + T + b"s.",
    "long names": b"".join(b"}" + short("k" * 4000) for _ in range(9)) + T + b"s" * 9 + b".",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_end(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tonnage.sources._pickle.MOST", 200_000)
    content = archive({"a/data.pkl": BOMBS[name], "a/data/0": bytes(16)})
    tracemalloc.start()
    with pytest.raises((InputError, UnsupportedError)):
        header(Memory(content, path="m.bin"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**26


def test_a_pickle_of_many_opcodes_ends_in_seconds() -> None:
    content = archive({"a/data.pkl": b"}" * 6_000_000})
    before = time.process_time()
    with pytest.raises(InputError, match="opcodes"):
        header(Memory(content, path="m.bin"))
    assert time.process_time() - before < 20


def check(content: bytes) -> None:
    try:
        found = header(Memory(content, path="m.bin"))
    except TonnageError as e:
        told = str(e).encode("utf-8", "surrogateescape")
    else:
        told = b""
        assert found.file_bytes == len(content)
    assert len(told) < 4000


@settings(max_examples=400, deadline=2000)
@given(st.lists(st.sampled_from([bytes([b]) for b in range(256)] + [T, short("a"), b"K\1", b"(", b"u"]), max_size=30))
def test_any_pickle_ends_in_an_answer_or_an_error(parts: list[bytes]) -> None:
    check(archive({"a/data.pkl": b"".join(parts) + b".", "a/data/0": bytes(16)}))


def test_mutated_files() -> None:
    rng = random.Random(3)
    for _ in range(1500):
        data = bytearray(PLAIN)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            if rng.random() < 0.3:
                del data[at : at + rng.randint(1, 30)]
            else:
                data[at] = rng.randrange(256)
        check(bytes(data))


# torch itself


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


def test_what_torch_saves_is_read(torch: Any, tmp_path: Path) -> None:
    embed = torch.nn.Embedding(7, 4)
    model = torch.nn.ModuleDict({"embed": embed, "mlp": torch.nn.Linear(4, 6), "norm": torch.nn.BatchNorm1d(4)})
    values = {
        **model.state_dict(),
        "head.weight": embed.weight,
        **{f"x.{d}": torch.zeros(5, dtype=getattr(torch, d)) for d in (
            "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64",
            "float8_e4m3fn", "float8_e5m2", "uint16",
        )},
        "transposed": torch.zeros(3, 5).t(),
        "parameter": torch.nn.Parameter(torch.zeros(2, 2)),
    }  # fmt: skip
    path = tmp_path / "pytorch_model.bin"
    for value in (values, OrderedDict(values), {"state_dict": values, "epoch": 3, "args": {"lr": 0.1}}):
        torch.save(value, path)
        found = headers.read(str(path))
        assert {t.name: (t.shape, t.nbytes) for t in found.tensors} == {
            name: (tuple(t.shape), t.numel() * t.element_size()) for name, t in values.items() if name != "head.weight"
        }
        assert any("head.weight = embed.weight" in note for note in found.notes)
    torch.save(values, path, _use_new_zipfile_serialization=False)
    with pytest.raises(UnsupportedError, match="legacy"):
        headers.read(str(path))
    torch.save(model, path)
    with pytest.raises(UnsupportedError, match="ModuleDict"):
        headers.read(str(path))
