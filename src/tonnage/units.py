"""Integers inside, units where people read or write.

GB is 10^9 bytes and GiB is 2^30; nothing else in the project multiplies by either.
"""

from __future__ import annotations

from typing import Final

from tonnage.errors import InputError

KiB: Final = 2**10
MiB: Final = 2**20
GiB: Final = 2**30
TiB: Final = 2**40
MB: Final = 10**6
GB: Final = 10**9

_SIZES: Final = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "KiB": KiB,
    "MB": MB,
    "MiB": MiB,
    "GB": GB,
    "GiB": GiB,
    "TB": 10**12,
    "TiB": TiB,
}
_LOWER: Final = {unit.lower(): size for unit, size in _SIZES.items()}
_LARGEST_SIZE: Final = 10**18
_LARGEST_COUNT: Final = 10**12


def _split(text: str) -> tuple[str, str]:
    """Number and unit of ``"80 GB"``; the number may carry one decimal point and underscores."""
    text = text.strip()
    end = 0
    while end < len(text) and (text[end] in "0123456789._"):
        end += 1
    return text[:end].replace("_", ""), text[end:].strip()


def _scaled(number: str, factor: int) -> int | None:
    """``number`` x ``factor``, exactly; None when the number is not one."""
    whole, dot, part = number.partition(".")
    if not (whole + part).isascii() or not (whole + part).isdigit() or (dot and not part):
        return None
    scale: int = 10 ** len(part)
    return int(whole + part) * factor // scale


def parse_bytes(text: str, *, key: str | None = None) -> int:
    """Read a size. The unit is required: "80" alone is an error, not a guess.

    Args:
        text: a number and a unit, such as ``80 GB`` (10^9) or ``80GiB`` (2^30).
        key: the flag or key it came from, for the message.

    Returns:
        The size, rounded down to a whole byte. [byte]

    Raises:
        InputError: no unit, an unknown unit, not a number, zero, negative or absurd.

    >>> parse_bytes("80 GB"), parse_bytes("80GiB"), parse_bytes("1.5 KiB")
    (80000000000, 85899345920, 1536)
    """
    number, unit = _split(text)
    factor = _LOWER.get(unit.lower())
    if number and not unit:
        raise InputError(
            f"{text.strip()!r} has no unit", key=key, value=text, hint=f"write {number}GiB (2^30) or {number}GB (10^9)"
        )
    size = _scaled(number, factor) if number and factor else None
    if size is None:
        raise InputError(
            f"not a size: {text.strip()[:60]!r}", key=key, value=text, hint="write for example 80GiB or 80GB"
        )
    if not 0 < size <= _LARGEST_SIZE:
        raise InputError(f"not a sensible size: {text.strip()[:60]!r}", key=key, value=text)
    return size


def parse_count(text: str | int, *, key: str | None = None) -> int:
    """Read a positive count of tokens, sequences or devices; ``32k`` is 32 x 1,024 and ``1m`` is 1,024 x 1,024.

    >>> parse_count("32k"), parse_count("1m"), parse_count(7)
    (32768, 1048576, 7)
    """
    if isinstance(text, bool) or not isinstance(text, int | str):
        raise InputError(f"not a count: {text!r}", key=key, value=text)
    if isinstance(text, int):
        count: int | None = text
    else:
        number, unit = _split(text)
        factor = {"": 1, "k": KiB, "m": MiB}.get(unit.lower())
        count = _scaled(number, factor) if number and factor and (factor > 1 or "." not in number) else None
    if count is None:
        raise InputError(f"not a count: {str(text)[:60]!r}", key=key, value=text, hint="write a whole number or 32k")
    if not 0 < count <= _LARGEST_COUNT:
        raise InputError(f"not a sensible count: {str(text)[:60]!r}", key=key, value=text)
    return count


def gib(size: int, digits: int = 2) -> str:
    """A size for people, in GiB; small ones in MiB or KiB.

    >>> gib(16060522496), gib(3 * MiB), gib(12)
    ('14.96 GiB', '3.00 MiB', '12 B')
    """
    magnitude = abs(size)
    for unit, scale in (("TiB", 10 * TiB), ("GiB", GiB // 10), ("MiB", MiB // 10), ("KiB", KiB)):
        if magnitude >= scale:
            return f"{size / _SIZES[unit]:,.{digits}f} {unit}"
    return f"{size} B"


def count(number: int) -> str:
    """A number of parameters for people: ``8.03 B`` is 8.03 x 10^9.

    >>> count(8030261248), count(124439808), count(64)
    ('8.03 B', '124.44 M', '64')
    """
    for unit, scale in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if abs(number) >= scale:
            return f"{number / scale:,.2f} {unit}"
    return str(number)
