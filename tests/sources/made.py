"""Files that tests make, in memory, with a size that need not be held."""

from __future__ import annotations

import struct
from typing import Any

from tonnage.errors import InputError
from tonnage.formats import FORMATS
from tonnage.sources.gguf import TYPES

NUMBERS = {name: number for number, name in TYPES.items()}


class Memory:
    """A file that begins with ``content``; what follows up to ``size`` may not be read."""

    def __init__(self, content: bytes, size: int | None = None, path: str = "m.gguf") -> None:
        self.content, self.path, self.name = content, path, path
        self.size = len(content) if size is None else size
        self.reads: list[tuple[int, int]] = []

    def read(self, at: int, length: int) -> bytes:
        assert 0 <= at <= at + length <= self.size
        self.reads.append((at, length))
        data = self.content[at : at + length]
        return data + bytes(length - len(data))

    def wrong(self, what: str, at: int | None = None) -> InputError:
        return InputError(what if at is None else f"{what} at byte {at:,}", file=self.path)


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value(v: Any) -> bytes:
    """Type and value: u32, f32, bool, text, or an array of those."""
    if isinstance(v, bool):
        return struct.pack("<I?", 7, v)
    if isinstance(v, int):
        return struct.pack("<II", 4, v) if v < 2**32 else struct.pack("<IQ", 10, v)
    if isinstance(v, float):
        return struct.pack("<If", 6, v)
    if isinstance(v, str):
        return struct.pack("<I", 8) + text(v)
    items = [value(x) for x in v]
    kind = items[0][:4] if items else struct.pack("<I", 4)
    return struct.pack("<I", 9) + kind + struct.pack("<Q", len(items)) + b"".join(x[4:] for x in items)


def gguf(metadata: dict[str, Any], tensors: dict[str, tuple[tuple[int, ...], str]], **change: Any) -> tuple[bytes, int]:
    """Header of a GGUF file, and the size of the whole file. Shapes are torch's."""
    keys = b"".join(text(k) + value(v) for k, v in metadata.items())
    rows, at = b"", 0
    align = metadata.get("general.alignment", 32)
    for name, (shape, form) in tensors.items():
        count = 1
        for n in shape:
            count *= n
        rows += text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", n) for n in reversed(shape))
        rows += struct.pack("<IQ", change.get("type", NUMBERS[form]), at + change.get("shift", 0))
        at += -(-FORMATS[form].nbytes(count) // align) * align
    counts = (change.get("version", 3), change.get("tensors", len(tensors)), change.get("keys", len(metadata)))
    content = b"GGUF" + struct.pack("<IQQ", *counts) + keys + rows
    content += bytes(-len(content) % align)
    return content, len(content) + at
