"""A device memory profile of JAX (``jax.profiler.save_device_memory_profile``): arrays by the stack that made them.

A gzipped protocol buffer of pprof (``proto/profile.proto`` of google/pprof); the few fields that are needed are read
here. It tells one moment, that at which it was saved.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, Final

from tonnage.errors import InputError
from tonnage.history import UNTOLD, History, Life
from tonnage.sources._unpack import EVENTS, wrong

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
SAMPLE_TYPE, SAMPLE, LOCATION, FUNCTION, STRINGS = 1, 2, 4, 5, 6
LARGEST: Final = 2**26
"""Of the message. [byte]"""
DEEPEST: Final = 100
KINDS: Final = {"buffer": "other:arrays", "executable": "other:code"}
LIBRARY: Final = re.compile(r"/jax(lib)?/|<frozen |/importlib/|^jax")


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends.

    >>> varint(bytes([0xE1, 0x02]), 0)
    (353, 2)
    """
    found = shift = 0
    while True:
        byte = data[at]
        found |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return found & (2**64 - 1), at
        if shift > 63:
            raise ValueError("a number of more than ten bytes")


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers of fields with their values: a whole number, or bytes.

    Raises:
        ValueError, IndexError: it is no message.
    """
    at, end = 0, len(data)
    while at < end:
        key, at = varint(data, at)
        kind = key & 7
        if kind == VARINT:
            value, at = varint(data, at)
            yield key >> 3, value
            continue
        if kind == BYTES:
            length, at = varint(data, at)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if length > end - at:
            raise ValueError("truncated")
        if kind == BYTES:
            yield key >> 3, data[at : at + length]
        at += length


def numbers(value: Any) -> list[int]:
    """A repeated number, packed or single."""
    if isinstance(value, int):
        return [value]
    found, at = [], 0
    while at < len(value):
        number, at = varint(value, at)
        found.append(number)
    return found


class _Profile:
    """The message, taken apart."""

    def __init__(self, data: bytes) -> None:
        self.types: list[dict[int, Any]] = []
        self.samples: list[bytes] = []
        self.locations: dict[int, list[tuple[int, int]]] = {}
        self.functions: dict[int, tuple[int, int]] = {}
        self.strings: list[str] = []
        self.frames: dict[int, list[str]] = {}
        for count, (number, value) in enumerate(fields(data)):
            if count > EVENTS:
                raise ValueError(f"more than {EVENTS:,} fields")
            if number == SAMPLE_TYPE:
                self.types.append(dict(fields(value)))
            elif number == SAMPLE:
                self.samples.append(value)
            elif number == LOCATION:
                self._location(value)
            elif number == FUNCTION:
                told = dict(fields(value))
                self.functions[told.get(1, 0)] = (told.get(2, 0), told.get(4, 0))
            elif number == STRINGS:
                self.strings.append(value.decode("utf-8", "replace")[:400])

    def _location(self, value: bytes) -> None:
        key, lines = 0, []
        for number, inner in fields(value):
            if number == 1:
                key = inner
            elif number == 4:
                told = dict(fields(inner))
                lines.append((told.get(1, 0), told.get(2, 0)))
        self.locations[key] = lines

    def frame(self, location: int) -> list[str]:
        """Frames of a location as ``file:line function``, each location read once."""
        found = self.frames.get(location)
        if found is None:
            found = self.frames[location] = []
            for function, line in self.locations[location][:DEEPEST]:
                name, file = self.functions[function]
                found.append(f"{self.strings[file]}:{line} {self.strings[name]}")
        return found

    def column(self) -> int:
        """Which value of a sample is its size."""
        for index, told in enumerate(self.types):
            if self.strings[told.get(2, 0)] == "bytes":
                return index
        raise ValueError("no value is in bytes")


class Sample:
    """What a sample says: size, stack, and its labels."""

    __slots__ = ("count", "labels", "size", "stack")

    def __init__(self, profile: _Profile, value: bytes, column: int) -> None:
        places: list[int] = []
        values: list[int] = []
        self.labels: dict[str, str] = {}
        for number, inner in fields(value):
            if number == 1:
                places += numbers(inner)
            elif number == 2:
                values += numbers(inner)
            elif number == 3:
                told = dict(fields(inner))
                self.labels[profile.strings[told.get(1, 0)]] = profile.strings[told.get(2, 0)]
        self.size = values[column]
        self.count = values[0]
        self.stack = tuple(islice(chain.from_iterable(map(profile.frame, places)), DEEPEST))


def history(data: bytes, file: str, index: int | None) -> History:
    """The arrays of one device.

    Args:
        data: the message, unpacked.
        file: for messages.
        index: of the device: the number that its name ends in; where None, the only one with arrays.

    Raises:
        InputError: no such profile, or several devices.
    """
    if len(data) > LARGEST:
        raise wrong(file, f"a device memory profile of {len(data):,} bytes: more than {LARGEST:,}")
    try:
        profile = _Profile(data)
        column = profile.column()
        samples = [Sample(profile, value, column) for value in profile.samples]
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as e:
        told = "truncated" if isinstance(e, IndexError) else str(e)
        raise wrong(file, f"no device memory profile: {told}"[:200]) from None
    device = _device(samples, index, file)
    lives = []
    for s in samples:
        if s.size <= 0 or s.size >= 2**62 or s.labels.get("device", device) != device:
            continue
        kind = s.labels.get("kind", "")
        own = next((f for f in s.stack if not LIBRARY.search(f)), "")
        what = f"{s.count} {kind or 'object'}{'s' if s.count != 1 else ''}"
        state = kind == "buffer" and any("/optax/" in frame for frame in s.stack)
        lives.append(Life(s.size, "optimizer_state" if state else KINDS.get(kind, UNTOLD), what, own, s.stack))
    return History(
        kind="device memory profile of JAX",
        file=file,
        device=device,
        tier="allocated",
        lives=lives,
        order=range(len(lives)),
        begin=max(len(lives) - 1, 0),
        notes=("one moment, that at which the profile was saved: no peak is told",),
    )


def _device(samples: list[Sample], index: int | None, file: str) -> str:
    there = sorted({s.labels["device"] for s in samples if s.size > 0 and "device" in s.labels})
    meant = there if index is None else [d for d in there if re.search(rf"(?<!\d){index}$", d)]
    if len(meant) == 1:
        return meant[0]
    if not there:
        return ""
    raise InputError(
        f"the profile holds devices {', '.join(there)}", key="device", value=index, file=file,
        hint="name one with --device",
    )  # fmt: skip
