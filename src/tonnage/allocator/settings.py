"""What ``PYTORCH_CUDA_ALLOC_CONF`` (``PYTORCH_ALLOC_CONF`` since 2.9) says, as a record.

c10/core/AllocatorConfig.h and c10/cuda/CUDAAllocatorConfig.h of pytorch/pytorch v2.13.0 (the installed headers), and
c10/core/AllocatorConfig.cpp of the 2.10 line. Torch passes over a missing colon or comma and over what follows a
number; here they are errors. In torch a key that is not given keeps what an earlier call set; here it has its default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from tonnage.errors import InputError, UnsupportedError, nearest
from tonnage.record import Record
from tonnage.units import MiB

INTERVALS: Final = 16
"""Powers of two from 1 MiB to 64 GiB, each of which may be divided otherwise (kRoundUpPowerOfTwoIntervals)."""
LARGE_SEGMENT: Final = 20 * MiB
LEAST_SEGMENT: Final = 10
"""``large_segment_size_mb`` is more than this (kMinLargeAlloc). [MiB]"""
MOST: Final = 2**44
"""Of a size in MiB: torch cuts what would not fit into 64 bits."""


class Settings(Record):
    """Settings of the caching allocator; the defaults are torch's.

    Args:
        divisions: steps between one power of two and the next to which a size is rounded up, for each of the
            ``INTERVALS``; 0 or 1 rounds to 512 B.
        max_split: blocks of at least this size are not split, and kept for requests of this size; None is no limit.
            [byte]
        max_rounding: how much larger than such a request an unsplit block may be; None is ``large_segment``. [byte]
        large_segment: segment for requests of more than 1 and less than 10 MiB. [byte]
        collect_above: share of the allowed memory above which old cached blocks are freed; 0 never.
        memory_fraction: share of the device that the process may take.
        expandable: one growing segment instead of one for each cudaMalloc.
        reject: raise as soon as ``memory_fraction`` would be exceeded, instead of freeing cached blocks.
    """

    divisions: tuple[int, ...] = (0,) * INTERVALS
    max_split: int | None = None
    max_rounding: int | None = None
    large_segment: int = LARGE_SEGMENT
    collect_above: float = 0.0
    memory_fraction: float = 1.0
    expandable: bool = False
    reject: bool = False

    @property
    def rounding(self) -> int:
        """How much larger an unsplit block may be. [byte]"""
        return self.large_segment if self.max_rounding is None else self.max_rounding


IGNORED: Final = {
    "release_lock_on_cudamalloc": "flag",
    "release_lock_on_hipmalloc": "flag",
    "graph_capture_record_stream_reuse": "flag",
    "pinned_use_cuda_host_register": "flag",
    "pinned_use_hip_host_register": "flag",
    "pinned_use_background_threads": "flag",
    "pinned_free_catch_all": "flag",
    "pinned_reserve_segment_size_mb": "count",
    "pinned_num_register_threads": "count",
}
"""Keys that change host memory, locking or graph capture, and nothing that is modelled here."""


def parse(text: str, *, key: str = "alloc_conf") -> Settings:
    """The settings that a string of ``key:value`` pairs states.

    Args:
        text: as the environment variable has it; empty for the defaults.
        key: flag or file key that it came from, for messages.

    Raises:
        InputError: an unknown key, a value that torch refuses, or one that is no value.
        UnsupportedError: another allocator (``backend:cudaMallocAsync``).

    >>> parse("expandable_segments:True,max_split_size_mb:128").max_split
    134217728
    >>> parse("roundup_power2_divisions:[256:1,512:2,>:4]").divisions[7:12]
    (1, 1, 2, 4, 4)
    """
    return _Reader(text, key).settings()


def _tokens(text: str) -> Iterator[str]:
    word = ""
    for letter in text:
        if letter in ",:[]":
            if word:
                yield word
            yield letter
            word = ""
        elif not letter.isspace():
            word += letter
    if word:
        yield word


class _Reader:
    """Reads one string.

    Args:
        text: the string.
        key: for messages.
    """

    def __init__(self, text: str, key: str) -> None:
        self.text, self.key = text, key
        self.tokens = list(_tokens(text))
        self.at = 0

    def wrong(self, what: str, **more: Any) -> InputError:
        """The error for one setting."""
        return InputError(f"allocator settings: {what}", key=self.key, value=self.text[:200], **more)

    def take(self, expected: str = "") -> str:
        """The next token, which may have to be a certain one."""
        found = self.tokens[self.at] if self.at < len(self.tokens) else ""
        if not found or (expected and found != expected):
            told = repr(found[:40]) if found else "the end"
            raise self.wrong(f"{expected or 'a value'!r} expected, not {told}", hint="write key:value,key:value")
        self.at += 1
        return found

    def next_is(self, token: str) -> bool:
        """Whether that token comes next."""
        return self.at < len(self.tokens) and self.tokens[self.at] == token

    def settings(self) -> Settings:
        """All pairs; a later one of the same key wins."""
        said: dict[str, Any] = {}
        while self.at < len(self.tokens):
            name = self.take()
            if name not in KEYS and name not in IGNORED:
                names = (*KEYS, *IGNORED)
                raise self.wrong(f"unrecognized key {name[:60]!r}", nearest=nearest(name, names))
            self.take(":")
            if name in KEYS:
                field, read = KEYS[name]
                said[field] = read(self, name)
            else:
                (_flag if IGNORED[name] == "flag" else _count)(self, name)
            if self.at < len(self.tokens):
                self.take(",")
        said.pop("backend", None)
        return self.checked(Settings(**said))

    def checked(self, settings: Settings) -> Settings:
        """Sizes that must not be below the large segment."""
        for name, size in (
            ("max_split_size_mb", settings.max_split),
            ("max_non_split_rounding_mb", settings.max_rounding),
        ):
            if size is not None and size < settings.large_segment:
                raise self.wrong(f"{name} too small, must be >= {settings.large_segment // MiB}")
        return settings


def _count(reader: _Reader, name: str) -> int:
    word = reader.take()
    if not word.isascii() or not word.isdigit() or len(word) > 20:
        raise reader.wrong(f"{name} is a whole number, not {word[:40]!r}")
    return int(word)


def _mebibytes(reader: _Reader, name: str) -> int:
    return min(_count(reader, name), MOST) * MiB


def _large_segment(reader: _Reader, name: str) -> int:
    size = _mebibytes(reader, name)
    if size <= LEAST_SEGMENT * MiB:
        raise reader.wrong(f"{name} must be > {LEAST_SEGMENT}")
    return size


def _flag(reader: _Reader, name: str) -> bool:
    word = reader.take()
    if word not in ("True", "False"):
        raise reader.wrong(f"{name} is True or False, not {word[:40]!r}")
    return word == "True"


def _share(reader: _Reader, name: str) -> float:
    word = reader.take()
    try:
        return float(word)
    except ValueError:
        raise reader.wrong(f"{name} is a number, not {word[:40]!r}") from None


def _collect_above(reader: _Reader, name: str) -> float:
    share = _share(reader, name)
    if not 0.0 < share < 1.0:
        raise reader.wrong(f"{name} is invalid, set it in (0.0, 1.0)")
    return share


def _memory_fraction(reader: _Reader, name: str) -> float:
    share = _share(reader, name)
    if not 0.0 <= share <= 1.0:
        raise reader.wrong(f"{name} is invalid, set it in [0.0, 1.0]")
    return share


def _backend(reader: _Reader, name: str) -> str:
    word = reader.take()
    if word in ("cudaMallocAsync", "hipMallocAsync"):
        raise UnsupportedError(
            f"{name}:{word} is the driver's own allocator, which is not modelled", key=reader.key, value=word
        )
    if word != "native":
        raise reader.wrong(f"unknown backend {word[:40]!r}, options are native and cudaMallocAsync")
    return word


def _power(reader: _Reader, name: str, least: int) -> int:
    number = _count(reader, name)
    if number < least or number & (number - 1):
        raise reader.wrong(f"{name} takes powers of two, not {number}")
    return number


def _divisions(reader: _Reader, name: str) -> tuple[int, ...]:
    """One number for every size, or ``[size in MiB:number,...,>:number]``.

    The first size states everything below it as well, and ``>`` everything above the last one.
    """
    if not reader.next_is("["):
        return (_power(reader, name, 1),) * INTERVALS
    reader.take("[")
    table, last, first = [0] * INTERVALS, 0, True
    while not reader.next_is("]"):
        above = reader.next_is(">")
        bound = 1 if above else 0
        if above:
            reader.take()
        else:
            bound = _power(reader, name, 1)
        reader.take(":")
        number = _power(reader, name, 0)
        if above:
            table[last + 1 :] = [number] * (INTERVALS - last - 1)
        else:
            last = min(bound.bit_length() - 1, INTERVALS - 1)
            if first:
                table[:last] = [number] * last
            table[last], first = number, False
        if not reader.next_is("]"):
            reader.take(",")
    reader.take("]")
    return tuple(table)


KEYS: Final[dict[str, tuple[str, Callable[[_Reader, str], Any]]]] = {
    "backend": ("backend", _backend),
    "roundup_power2_divisions": ("divisions", _divisions),
    "max_split_size_mb": ("max_split", _mebibytes),
    "max_non_split_rounding_mb": ("max_rounding", _mebibytes),
    "large_segment_size_mb": ("large_segment", _large_segment),
    "garbage_collection_threshold": ("collect_above", _collect_above),
    "per_process_memory_fraction": ("memory_fraction", _memory_fraction),
    "expandable_segments": ("expandable", _flag),
    "throw_on_cudamalloc_oom": ("reject", _flag),
}
"""Key of the string, to the field and how its value is read."""
