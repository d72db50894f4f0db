"""Weights files of a model, whatever their format: one file, the parts that an index names, or what a folder holds."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import Final

from tonnage.checkpoint import Header, Stored
from tonnage.errors import InputError, SourceError, UnsupportedError
from tonnage.sources._files import Opened, opened, wrong
from tonnage.sources._scan import Scanner
from tonnage.sources.weights import is_file

LARGEST_INDEX: Final = 64 * 2**20
"""The index of DeepSeek-V3, 91,991 tensors, has 8.9 MB. [byte]"""
MOST_FILES: Final = 10_000
INDEX: Final = ".index.json"
ENDINGS: Final = {
    ".safetensors": "safetensors",
    ".gguf": "gguf",
    ".bin": "pytorch",
    ".pt": "pytorch",
    ".pth": "pytorch",
    ".ckpt": "pytorch",
}
FIRST: Final = (
    "model.safetensors.index.json",
    "model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "consolidated.safetensors",
)
"""What transformers, diffusers and Mistral call a model's weights, the preferred first."""

_PART: Final = re.compile(r"^(.*)-(\d{5})-of-(\d{5})(\.\w+)$")
_ENTRY: Final = re.compile(rb'\s*"([^"\\\x00-\x1f]*)"\s*:\s*"([^"\\\x00-\x1f]*)"\s*([,}])')
_OTHERS: Final = frozenset(["training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"])


def is_weights(path: str) -> bool:
    """Whether a path is one of weights by its ending.

    >>> is_weights("a/model.safetensors.index.json"), is_weights("a/config.json")
    (True, False)
    """
    return is_file(path)


def read(path: str) -> Header:
    """The headers of the model that a file, an index or a folder holds.

    Raises:
        SourceError: a file is missing or cannot be read.
        InputError: a file breaks a rule of its format, or a folder holds several models.
        UnsupportedError: no format that is read.
    """
    if os.path.isdir(path):
        found = within(path)
        if found is None:
            raise SourceError(f"the folder {path} holds no weights", key="model", value=path, file=path)
        return read(found).but(name=os.path.basename(os.path.abspath(path)), origin=f"folder: {path}")
    plain = _plain(path)
    if plain.lower().endswith(INDEX):
        return _indexed(path)
    part = _PART.match(os.path.basename(plain))
    if part is not None:
        return _parts(path, part)
    return _single(path)


def within(folder: str) -> str | None:
    """The weights file or the index of a folder; None where it holds none.

    Raises:
        InputError: it holds several and none has a usual name.
    """
    try:
        there = sorted(os.listdir(folder))
    except OSError as e:
        raise SourceError(f"cannot read {folder}: {e.strerror or e}", key="model", value=folder, file=folder) from None
    for name in FIRST:
        if name in there:
            return os.path.join(folder, name)
    names = [name for name in there if is_weights(name) and name not in _OTHERS]
    indexes = [name for name in names if name.lower().endswith(INDEX)]
    # A set of parts is one model; so is an index with the parts beside it.
    models = indexes or list({_stem(name): name for name in reversed(names)}.values())
    for ending in (".safetensors", ".gguf"):
        alike = [name for name in models if name.lower().endswith((ending, ending + INDEX))]
        models = alike or models
        if alike:
            break
    if len(models) > 1:
        raise InputError(
            f"the folder {folder} holds several weights files: {', '.join(sorted(models)[:6])}",
            key="model", value=folder, file=folder, hint="name one of them",
        )  # fmt: skip
    return os.path.join(folder, models[0]) if models else None


def _stem(name: str) -> str:
    part = _PART.match(name)
    return name if part is None else f"{part[1]}{part[4]}"


def reader(path: str) -> Callable[[Opened], Header]:
    """The function that reads the header of a file with this ending."""
    kind = ENDINGS.get(os.path.splitext(_plain(path).lower())[1])
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
        hint=f"files end with {', '.join(ENDINGS)} or {INDEX}",
    )  # fmt: skip


def _single(path: str) -> Header:
    read_header = reader(path)
    if "://" in path:
        return read_header(_remote(path))
    with opened(path) as file:
        return read_header(file)


def _remote(address: str) -> Opened:
    # Imported late: a file needs no network.
    from tonnage.sources.http import Remote

    return Remote(address)


def _plain(path: str) -> str:
    """A path, or an address without what follows its file's name."""
    return path.partition("?")[0] if "://" in path else path


def _whole(path: str) -> bytes:
    """An index."""
    if "://" in path:
        return _limited(_remote(path))
    with opened(path) as file:
        return _limited(file)


def _limited(file: Opened) -> bytes:
    if file.size > LARGEST_INDEX:
        raise file.wrong(f"{file.size:,} bytes: too large for an index of at most {LARGEST_INDEX:,}")
    return file.read(0, file.size)


def _parts(path: str, part: re.Match[str]) -> Header:
    """Every part of a model that is split by name, from any one of them."""
    folder, total = os.path.dirname(_plain(path)), int(part[3])
    if not 0 < int(part[2]) <= total <= MOST_FILES:
        raise wrong(path, f"part {int(part[2])} of {total} is no sensible number")
    names = [f"{part[1]}-{i:05d}-of-{part[3]}{part[4]}" for i in range(1, total + 1)]
    return _joined(path, folder, names, name=f"{part[1]}{part[4]}")


def _joined(path: str, folder: str, names: Iterable[str], name: str) -> Header:
    names = list(names)
    missing = [n for n in names if "://" not in path and not os.path.exists(os.path.join(folder, n))]
    if missing:
        raise SourceError(
            f"{len(missing)} of {len(names)} files of {os.path.basename(path)} are missing: {', '.join(missing[:3])}",
            key="model", value=path, file=path,
        )  # fmt: skip
    return joined([_single(os.path.join(folder, n)) for n in names], path, name)


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


def _indexed(path: str) -> Header:
    """The files that an index names, held against it."""
    index = Index(_whole(path), path)
    whole = _joined(path, os.path.dirname(_plain(path)), index.files, name=_title(path))
    wanted, notes = index.files_of, list(whole.notes)
    extra = 0
    for t in whole.tensors:
        extra += wanted.pop(t.name, None) is None
    if wanted:
        first = next(iter(wanted))
        raise wrong(
            path, f"{len(wanted)} tensors of the index are in none of its files, {first!r} of {wanted[first]} the first"
        )
    if extra:
        notes.append(f"{extra} tensors of the files are not in the index")
    stated, bytes_found = index.total_size, whole.weight_bytes
    if stated is not None and stated != bytes_found:
        notes.append(f"the index states {stated:,} bytes, the files hold {bytes_found:,}")
    return whole.but(notes=tuple(notes))


def _title(path: str) -> str:
    whole = _plain(path) if "://" in path else os.path.abspath(path)
    return os.path.basename(os.path.dirname(whole)) or os.path.basename(whole)


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


def _inside(scan: Scanner, file: str) -> None:
    """Refuse a name that leads out of the index's folder, or to something else than weights."""
    parts = file.replace("\\", "/").split("/")
    if not file or file.startswith(("/", "\\")) or ":" in parts[0] or ".." in parts or "\0" in file:
        scan.fail(f"the file {file[:80]!r} is not inside the folder of the index")
    if os.path.splitext(file.lower())[1] not in ENDINGS:
        scan.fail(f"the file {file[:80]!r} is no weights file")
