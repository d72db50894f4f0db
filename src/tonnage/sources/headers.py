"""Weights files of a model, whatever their format: one file, the parts that an index names, or what a place holds."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Final

from tonnage.checkpoint import Header, Stored
from tonnage.errors import SourceError, UnsupportedError
from tonnage.sources import choice, places
from tonnage.sources._files import Opened, wrong
from tonnage.sources._scan import Scanner
from tonnage.sources.places import Place, Progress

LARGEST_INDEX: Final = 64 * 2**20
"""The index of DeepSeek-V3, 91,991 tensors, has 8.9 MB. [byte]"""
MOST_FILES: Final = 10_000
ENDINGS: Final = {
    ".safetensors": "safetensors",
    ".gguf": "gguf",
    ".bin": "pytorch",
    ".pt": "pytorch",
    ".pth": "pytorch",
    ".ckpt": "pytorch",
}
FIRST_OF_GGUF: Final = 2 * 2**20
"""What is asked of a network at once: a vocabulary of 50,000 tokens takes 1.8 MB, one of 262,000 6.5 MB. [byte]"""
_ENTRY_BYTES: Final = 104
"""Of a tensor in a safetensors header, its name aside: 60 to 100 as known writers spell them. [byte]"""

_ENTRY: Final = re.compile(rb'\s*"([^"\\\x00-\x1f]*)"\s*:\s*"([^"\\\x00-\x1f]*)"\s*([,}])')


def read(path: str, progress: Progress | None = None) -> Header:
    """The headers of the model that a file, an index or a folder holds, on this machine or at an address.

    Raises:
        SourceError: a file is missing or cannot be read.
        InputError: a file breaks a rule of its format, or a folder holds several models.
        UnsupportedError: no format that is read.
    """
    place, name, _ = places.of(path)
    if name is not None:
        return header(place, name, progress)
    found = whole(place, progress=progress)
    if found is None:
        raise SourceError(f"{place.words} holds no weights", key="model", value=path, file=path)
    return found


def whole(place: Place, quant: str = "", progress: Progress | None = None) -> Header | None:
    """The headers of the model that a place holds; None where it holds no weights.

    Args:
        place: where the files lie.
        quant: the quantization of a GGUF file that is asked for.
        progress: called as files are read.

    Raises:
        SourceError: none is known, and not all files are known.
    """
    name = choice.weights(place, quant)
    if name is None:
        if place.down is not None:
            raise place.down
        return None
    found = header(place, name, progress).but(name=choice.title(place, name), origin=place.origin)
    if not name.startswith(choice.ADAPTER):
        return found
    from tonnage.sources.model import base_of

    return found.but(notes=(f"an adapter for {base_of(place)}: these are its own parameters", *found.notes))


def header(place: Place, name: str, progress: Progress | None = None) -> Header:
    """The headers of the model that a file of a place belongs to: the index's, those of all parts, or its own."""
    if name.lower().endswith(choice.INDEX):
        return _indexed(place, name, progress)
    part = choice.PART.match(name)
    if part is not None:
        return _parts(place, name, part, progress)
    return _single(place, name)


def reader(path: str) -> Callable[[Opened], Header]:
    """The function that reads the header of a file with this ending."""
    kind = _kind(path)
    # Imported late: an answer pays for one format.
    if kind == "safetensors":
        from tonnage.sources.safetensors import header as safetensors

        return safetensors
    if kind == "gguf":
        from tonnage.sources.gguf import header as gguf

        return gguf
    if kind == "pytorch":
        from tonnage.sources.torch_file import header as pytorch

        return pytorch
    raise UnsupportedError(
        f"{path}: no weights format that is read", key="model", value=path, file=path,
        hint=f"files end with {', '.join(ENDINGS)} or {choice.INDEX}",
    )  # fmt: skip


def _kind(name: str) -> str | None:
    return ENDINGS.get(os.path.splitext(name.lower())[1])


def _single(place: Place, name: str, first: int = 0) -> Header:
    read_header = reader(name)
    with place.reading(name, first or (FIRST_OF_GGUF if _kind(name) == "gguf" else 0)) as file:
        return read_header(file)


def _limited(file: Opened) -> bytes:
    """An index."""
    if file.size > LARGEST_INDEX:
        raise file.wrong(f"{file.size:,} bytes: too large for an index of at most {LARGEST_INDEX:,}")
    return file.read(0, file.size)


def _parts(place: Place, name: str, part: re.Match[str], progress: Progress | None) -> Header:
    """Every part of a model that is split by name, from any one of them."""
    total = int(part[3])
    if not 0 < int(part[2]) <= total <= MOST_FILES:
        raise wrong(place.path(name), f"part {int(part[2])} of {total} is no sensible number")
    names = [f"{part[1]}-{i:05d}-of-{part[3]}{part[4]}" for i in range(1, total + 1)]
    return _joined(place, name, names, choice.stem(name).rpartition("/")[2], {}, progress)


def _joined(
    place: Place, name: str, names: list[str], title: str, first: Mapping[str, int], progress: Progress | None
) -> Header:
    path = place.path(name)
    missing = [] if place.remote else [n for n in names if not place.has(n)]
    if missing:
        raise SourceError(
            f"{len(missing)} of {len(names)} files of {name} are missing: {', '.join(missing[:3])}",
            key="model", value=path, file=path,
        )  # fmt: skip

    def single(one: str) -> Header:
        return _single(place, one, first.get(one, 0))

    if not place.remote:
        return joined([single(n) for n in names], path, title)
    # Imported late: threads speed up only what is waited for.
    from tonnage.sources._parallel import each

    return joined(each(single, names, progress), path, title)


def joined(parts: list[Header], path: str, name: str) -> Header:
    """One header of a model's parts.

    Raises:
        InputError: a tensor is in two parts, or the parts do not belong together.
    """
    tensors: list[Stored] = []
    for one in parts:
        tensors += one.tensors
    if len({t.name for t in tensors}) != len(tensors):
        raise wrong(path, _twice(parts))
    count = parts[0].metadata.get("split.count")
    if parts[0].kind == "gguf" and count is not None and count != len(parts):
        raise wrong(path, f"the header says {count} parts, the name {len(parts)}")
    stated = parts[0].metadata.get("split.tensors.count")
    if parts[0].kind == "gguf" and stated is not None and stated != len(tensors):
        raise wrong(path, f"the header says {stated} tensors in all, the parts hold {len(tensors)}")
    return Header(
        kind=parts[0].kind,
        tensors=tensors,
        name=name,
        origin=f"file: {path}",
        files=len(parts),
        file_bytes=sum(one.file_bytes for one in parts),
        header_bytes=sum(one.header_bytes for one in parts),
        metadata=parts[0].metadata,
        notes=tuple(dict.fromkeys(note for one in parts for note in one.notes)),
    )


def _twice(parts: list[Header]) -> str:
    seen: dict[str, str] = {}
    for one in parts:
        for t in one.tensors:
            if t.name in seen:
                return f"{t.name!r} is in two files: {seen[t.name]} and {one.name}"
            seen[t.name] = one.name
    raise AssertionError("no name stands twice")


def _indexed(place: Place, name: str, progress: Progress | None) -> Header:
    """The files that an index names, held against it."""
    folder, _, _ = name.rpartition("/")
    path = place.path(name)
    with place.reading(name) as file:
        index = Index(_limited(file), path)
    below = {f"{folder}/{part}" if folder else part: size for part, size in index.header_bytes().items()}
    title = folder.rpartition("/")[2] or place.title
    joint = _joined(place, name, list(below), title, below, progress)
    wanted, notes = index.files_of, list(joint.notes)
    extra = 0
    for t in joint.tensors:
        extra += wanted.pop(t.name, None) is None
    if wanted:
        missing = next(iter(wanted))
        raise wrong(
            path,
            f"{len(wanted)} tensors of the index are in none of its files, {missing!r} of {wanted[missing]} the first",
        )
    if extra:
        notes.append(f"{extra} tensors of the files are not in the index")
    stated, bytes_found = index.total_size, joint.weight_bytes
    if stated is not None and stated != bytes_found:
        notes.append(f"the index states {stated:,} bytes, the files hold {bytes_found:,}")
    return joint.but(notes=tuple(notes))


class Index:
    """An index: which file holds which tensor.

    Args:
        data: the JSON.
        path: for messages.

    Raises:
        InputError: it is no index.
    """

    def __init__(self, data: bytes, path: str) -> None:
        self.files_of: dict[str, str] = {}
        self.total_size: int | None = None
        self._files: dict[str, str] = {}
        scan = Scanner(data.removeprefix(b"\xef\xbb\xbf"), path)
        there, found = scan.opened(), False
        while there:
            key = scan.string("a key")
            scan.expect(b":")
            if key == "weight_map":
                self._map(scan)
                found = True
            else:
                self._other(scan, key)
            there = scan.more()
        scan.finished()
        if not found or not self.files_of:
            raise wrong(path, "an index names the file of each tensor under weight_map: there is none")

    def _other(self, scan: Scanner, key: str) -> None:
        if scan.peek() in (b"{", b"["):
            value = scan.value(f"the value of {key[:80]!r}")
            size = value.get("total_size") if key == "metadata" and isinstance(value, dict) else None
            # transformers writes a whole number, some tools a float.
            if isinstance(size, int | float) and size == int(size if abs(size) < 2**63 else 0):
                self.total_size = int(size)
        elif scan.peek() == b'"':
            scan.pass_string()
        else:
            scan.scalar()

    def _map(self, scan: Scanner) -> None:
        there, data, match, files_of = scan.opened(), scan.data, _ENTRY.match, self.files_of
        known: dict[bytes, str] = {}
        at = scan.at
        while there:
            found = match(data, at)
            if found is not None:
                raw, part, then = found.groups()
                if part in known:
                    try:
                        files_of[raw.decode()] = known[part]
                    except UnicodeDecodeError:
                        scan.fail("not UTF-8: a text", at)
                    at = found.end()
                    there = then == b","
                    continue
            scan.at = at
            name = scan.string("the name of a tensor")
            scan.expect(b":")
            file = scan.string("the name of a file")
            if file not in self._files:
                _inside(scan, file)
                self._files[file] = file
                if len(self._files) > MOST_FILES:
                    scan.fail(f"more than {MOST_FILES:,} files")
            files_of[name] = known[file.encode()] = self._files[file]
            there, at = scan.more(), scan.at
        scan.at = at

    @property
    def files(self) -> list[str]:
        """The files in the order of their names."""
        return sorted(self._files)

    def header_bytes(self) -> dict[str, int]:
        """About how long the header of each file is, in the order of their names: one request is to bring all of it."""
        sizes = dict.fromkeys(self.files, 1024)
        for name, file in self.files_of.items():
            sizes[file] += len(name) + _ENTRY_BYTES
        return {file: min(size, 8 * 2**20) for file, size in sizes.items()}


def _inside(scan: Scanner, file: str) -> None:
    """Refuse a name that leads out of the index's folder, or to something else than weights."""
    parts = file.replace("\\", "/").split("/")
    if not file or file.startswith(("/", "\\")) or ":" in parts[0] or ".." in parts or "\0" in file:
        scan.fail(f"the file {file[:80]!r} is not inside the folder of the index")
    if os.path.splitext(file.lower())[1] not in ENDINGS:
        scan.fail(f"the file {file[:80]!r} is no weights file")
