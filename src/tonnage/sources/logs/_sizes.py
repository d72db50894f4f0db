"""Sizes as engines print them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from tonnage.units import GiB, MiB
from tonnage.workload.told import Figure

ESCAPES: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
SCALES: Final = {"GiB": GiB, "GB": GiB, "MiB": MiB, "MB": MiB}
"""What engines call GB is GiB throughout."""


NUMBERS: Final = {
    "<size>": r"(\d{1,12}(?:\.\d{1,9})?)",
    "<signed>": r"(-?\d{1,12}(?:\.\d{1,9})?)",
    "<count>": r"(\d{1,3}(?:,\d{3}){0,6}|\d{1,18})",
    "<whole>": r"(\d{1,18})",
}
"""What stands for a number in a pattern; a damaged line has none of them."""


def pattern(text: str, flags: int = 0) -> re.Pattern[str]:
    """A pattern with its numbers filled in.

    >>> pattern("took <size> (GiB|GB)").search("took 14.99 GiB").groups()
    ('14.99', 'GiB')
    """
    for name, number in NUMBERS.items():
        text = text.replace(name, number)
    return re.compile(text, flags)


def plain(line: str) -> str:
    """A line without the colours of a terminal."""
    return ESCAPES.sub("", line).rstrip()


def figure(
    name: str, number: str, unit: str, line: str, *, device: str = "", parts: tuple[str, ...] = (), times: int = 1
) -> Figure:
    """A size as printed, with half of its last digit.

    >>> figure("weights", "14.99", "GiB", "").half
    5368710
    """
    scale = SCALES[unit] * times
    digits = len(number.partition(".")[2])
    return Figure(
        name=name, bytes=round(float(number) * scale), half=-(-scale // (2 * 10**digits)), device=device, parts=parts,
        text=line.strip()[:300],
    )  # fmt: skip


def count(text: str) -> int:
    """A number with commas."""
    return int(text.replace(",", ""))


def values(line: str, patterns: Mapping[str, str]) -> dict[str, str]:
    """What follows the names of a line that prints settings as ``name=value``."""
    out = {}
    for key, name in patterns.items():
        found = re.search(rf"(?:^|[\s({{,'\"]){re.escape(name)}['\"]?\s*[=:]\s*['\"]?([^,'\")}}\s]+)", line)
        if found is not None and found.group(1) not in ("None", "auto", "<PLACEHOLDER>"):
            out[key] = found.group(1)
    return out


def typed(
    found: Mapping[str, str], counts: tuple[str, ...], shares: tuple[str, ...], switches: tuple[str, ...]
) -> dict[str, Any]:
    """Settings as keys of a workload; what is not of its type is left out."""
    out: dict[str, Any] = {}
    for key, text in found.items():
        if key in counts:
            if text.isdigit() and int(text) > 0:
                out[key] = int(text)
        elif key in shares:
            if re.fullmatch(r"[01]?\.\d+|1", text):
                out[key] = float(text)
        elif key in switches:
            if text in ("True", "False"):
                out[key] = text == "True"
        else:
            out[key] = text
    return out
