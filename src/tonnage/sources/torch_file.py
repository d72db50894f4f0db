"""PyTorch files (.bin, .pt, .pth): the directory of a zip archive and a pickle, of which nothing is executed."""

from __future__ import annotations

from math import prod
from typing import Any, Final

from tonnage.checkpoint import Header, Stored
from tonnage.errors import UnsupportedError
from tonnage.formats import FORMATS
from tonnage.sources._files import Opened, opened
from tonnage.sources._pickle import Interpreter, View
from tonnage.sources._zip import Entry, content, directory

LARGEST: Final = 50_000_000
"""Of the pickle. [byte]"""
DEEPEST: Final = 16
LONGEST: Final = 4096
"""Of a tensor's name."""
_LEGACY: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""torch/serialization.py MAGIC_NUMBER 0x1950a86a20f9469cfc6c, pickled by protocol 2."""
WEIGHTS: Final = ("state_dict", "model_state_dict", "model", "module", "params", "params_ema")
"""Where training scripts put a model's tensors beside other state."""


def read(path: str) -> Header:
    """The tensors of one file.

    Raises:
        SourceError: it cannot be opened.
        InputError: it is damaged, or its sizes contradict each other.
        UnsupportedError: the legacy format, compressed entries, or a pickle that names anything but tensors.
    """
    with opened(path) as file:
        return header(file)


def header(file: Opened) -> Header:
    """The tensors of an open file."""
    start = file.read(0, min(file.size, 64))
    if not start.startswith(b"PK"):
        _refuse(file, start)
    entries = directory(file)
    pickles = [name for name in entries if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(pickles) != 1:
        raise file.wrong(f"a zip archive with {len(pickles)} data.pkl: torch.save writes one")
    folder = pickles[0].removesuffix("data.pkl")
    order = entries.get(f"{folder}byteorder")
    if order is not None and content(file, order, 16) != b"little":
        raise UnsupportedError("a big-endian file is not read", key="model", file=file.path)
    value = Interpreter(content(file, entries[pickles[0]], LARGEST), file.path).run()
    tensors, notes = _Tensors(file, entries, folder).of(value)
    return Header(
        kind="pytorch",
        tensors=tensors,
        name=file.name,
        origin=f"file: {file.path}",
        file_bytes=file.size,
        header_bytes=file.size - sum(t.nbytes for t in tensors),
        notes=tuple(notes),
    )


def _refuse(file: Opened, start: bytes) -> None:
    if start.startswith(_LEGACY):
        raise UnsupportedError(
            "saved in torch's legacy format, which is not read: before 1.6, or without the new zipfile serialization",
            key="model", file=file.path, hint="load it and save it again, best as safetensors",
        )  # fmt: skip
    if start.startswith(b"\x80"):
        raise UnsupportedError("a bare pickle, which is not read", key="model", file=file.path)
    raise file.wrong(f"not a PyTorch file: it begins with {start[:8]!r}")


class _Tensors:
    """The tensors of a pickle's value, each held against the archive.

    Args:
        file: the archive.
        entries: of it.
        folder: in which the storages are.
    """

    def __init__(self, file: Opened, entries: dict[str, Entry], folder: str) -> None:
        self.file, self.entries, self.folder = file, entries, folder
        self.found: dict[str, View] = {}
        self.seen: set[int] = set()

    def of(self, value: Any) -> tuple[list[Stored], list[str]]:
        """The model's tensors, and what a reader should know."""
        notes = []
        self.walk(value, "", 0)
        found = self.found
        for key in WEIGHTS:
            inside = {n.removeprefix(f"{key}."): v for n, v in found.items() if n.startswith(f"{key}.")}
            # A model may have a submodule of that name: then nothing lies beside it.
            if isinstance(value, dict) and isinstance(value.get(key), dict) and inside and len(value) > 1:
                if len(inside) < len(found):
                    notes.append(f"{len(found) - len(inside)} tensors beside {key!r} are not counted")
                found = inside
                break
            if isinstance(value, dict) and list(value) == [key] and inside:
                found = inside
                break
        if not found:
            raise self.file.wrong("the pickle holds no tensor")
        out: list[Stored] = []
        alike: dict[tuple[Any, ...], str] = {}
        shared: list[str] = []
        for name, view in found.items():
            first = alike.setdefault((view.storage.key, view.offset, view.shape, view.stride), name)
            t = self.stored(name, view)
            if first == name:
                out.append(t)
            else:
                shared.append(f"{name} = {first}")
        if shared:
            notes.append(f"{len(shared)} tensors share the storage of others and count once: {', '.join(shared[:3])}")
        return out, notes

    def walk(self, value: Any, path: str, depth: int) -> None:
        """Find the tensors in nested mappings and lists; one that stands in two places is found in both."""
        if isinstance(value, View):
            self.found[path or "tensor"] = value
            return
        if not isinstance(value, dict | list | tuple) or id(value) in self.seen:
            return
        if depth > DEEPEST:
            raise self.file.wrong(f"tensors more than {DEEPEST} deep")
        self.seen.add(id(value))
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            if isinstance(inner, dict | list | tuple):
                name = f"{path}.{key}" if path else str(key)
                if len(name) > LONGEST:
                    raise self.file.wrong(f"a tensor's name of more than {LONGEST:,} characters: {name[:40]!r}")
                self.walk(inner, name, depth + 1)

    def stored(self, name: str, view: View) -> Stored:
        """One tensor, which must lie in its storage, which must lie in the archive."""
        storage = view.storage
        entry = self.entries.get(f"{self.folder}data/{storage.key}")
        held = FORMATS[storage.format].nbytes(storage.numel)
        if entry is None:
            raise self.file.wrong(f"{name[:80]!r}: the archive has no storage {storage.key[:40]!r}")
        if entry.size < held:
            raise self.file.wrong(
                f"{name[:80]!r}: its storage has {entry.size:,} bytes, {storage.numel:,} elements take {held:,}"
            )
        width, count = FORMATS[view.format].bytes, prod(view.shape)
        reach = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.stride, strict=True)) + 1 if count else 0
        if reach * width > held:
            raise self.file.wrong(
                f"{name[:80]!r} of {list(view.shape)} reaches beyond its storage of {storage.numel:,} elements"
            )
        # An expanded tensor has more elements than bytes to store them.
        return Stored(name, view.shape, view.format, min(count * width, held))
