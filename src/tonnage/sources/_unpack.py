"""Bytes of a profile: read once, unpacked within a limit."""

from __future__ import annotations

import json
import zlib
from typing import Any, Final

from tonnage.errors import InputError
from tonnage.sources._files import opened

LARGEST: Final = 2**29
"""Of a profile, and of what it unpacks to. [byte]"""
EVENTS: Final = 2_000_000
"""Events and rows of one profile."""
GZIP: Final = b"\x1f\x8b"


def wrong(file: str, what: str) -> InputError:
    """The error for what a file holds."""
    return InputError(what, key="recording", file=file)


def content(path: str) -> bytes:
    """What a file holds, unpacked.

    Raises:
        SourceError: it cannot be read.
        InputError: it is damaged or too large.
    """
    with opened(path) as file:
        if file.size > LARGEST:
            raise wrong(path, f"{file.size:,} bytes are more than the {LARGEST:,} that are read of a profile")
        data = file.read(0, file.size)
    if not data.startswith(GZIP):
        return data
    reader = zlib.decompressobj(wbits=31)
    try:
        found = reader.decompress(data, LARGEST)
    except zlib.error:
        raise wrong(path, "a damaged gzip file") from None
    if not reader.eof:
        raise wrong(path, f"a truncated gzip file, or one that unpacks to more than {LARGEST:,} bytes")
    return found


def start(path: str, length: int) -> bytes:
    """The first bytes of a file, unpacked.

    Raises:
        SourceError: it cannot be read.
    """
    with opened(path) as file:
        data = file.read(0, min(file.size, length))
    if not data.startswith(GZIP):
        return data
    try:
        return zlib.decompressobj(wbits=31).decompress(data, length)
    except zlib.error:
        return b""


def parsed(data: bytes, file: str) -> Any:
    """JSON.

    Raises:
        InputError: it is none.
    """
    try:
        return json.loads(data)
    except (UnicodeDecodeError, ValueError, RecursionError) as e:
        at = f" at line {e.lineno}, column {e.colno}" if isinstance(e, json.JSONDecodeError) else ""
        raise wrong(file, f"no JSON{at}") from None


def whole(value: Any) -> bool:
    """Whether a value is a whole number that a size or an address can be."""
    return type(value) is int and -(2**63) < value < 2**64
