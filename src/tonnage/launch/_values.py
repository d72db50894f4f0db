"""Values of flags, as the engines' parsers read them, and as they are written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from tonnage.errors import InputError

DECIMAL: Final = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
BINARY: Final = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

DTYPES: Final = {
    "half": "fp16", "float16": "fp16", "fp16": "fp16", "bfloat16": "bf16", "bf16": "bf16", "float": "fp32",
    "float32": "fp32", "fp32": "fp32",
}  # fmt: skip
WRITTEN: Final = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


def count(text: str, flag: str) -> int:
    """A whole number from 1.

    >>> count("8192", "-c")
    8192
    """
    value = number(text, flag)
    if value < 1:
        raise InputError(f"{flag} {text}: a number from 1 is meant", key=flag, value=text)
    return value


def number(text: str, flag: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{flag} {text}: a whole number is meant", key=flag, value=text) from None


def scaled(text: str, flag: str) -> int:
    """A whole number, or one with a unit: ``8k`` is 8,000 and ``8K`` is 8,192, as vLLM reads them.

    vllm-project/vllm v0.33.0 vllm/utils/argparse_utils.py ``human_readable_int``.

    >>> scaled("25.6k", "--max-model-len"), scaled("8K", "--max-model-len")
    (25600, 8192)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgGtT])", text.strip())
    if found is None:
        return count(text, flag)
    size, unit = found.groups()
    if unit in BINARY and "." in size:
        raise InputError(
            f"{flag} {text}: no decimals with {unit}, a power of two",
            key=flag,
            value=text,
            hint=f"{size}{unit.lower()}",
        )
    return int(size) * BINARY[unit] if unit in BINARY else int(float(size) * DECIMAL[unit])


def share(text: str, flag: str) -> float:
    """A number above 0 and up to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value <= 1.0:
        raise InputError(f"{flag} {text}: a number above 0 and up to 1 is meant", key=flag, value=text)
    return value


def size(text: str, flag: str) -> str:
    """Bytes, as a size of a workload.

    >>> size("10G", "--kv-cache-memory-bytes")
    '10737418240 B'
    """
    return f"{scaled(text, flag)} B"


def gibibytes(text: str, flag: str) -> str | None:
    """Bytes of a number of GiB, as a size of a workload; None for none.

    >>> gibibytes("1.5", "--cpu-offload-gb"), gibibytes("0", "--cpu-offload-gb")
    ('1610612736 B', None)
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 2**20:
        raise InputError(f"{flag} {text}: a number of GiB is meant", key=flag, value=text)
    return f"{round(value * 2**30)} B" if value else None


def in_gib(size: int) -> str:
    """A size as a number of GiB.

    >>> in_gib(1610612736)
    '1.5'
    """
    return f"{size / 2**30:g}"


def dtype(text: str, flag: str) -> str | None:
    """A format that is computed in; None for the checkpoint's.

    >>> dtype("half", "--dtype"), dtype("auto", "--dtype")
    ('fp16', None)
    """
    if text == "auto":
        return None
    if text.lower() not in DTYPES:
        raise InputError(f"{flag} {text}: no such format", key=flag, value=text, hint=f"auto, {', '.join(DTYPES)}")
    return DTYPES[text.lower()]


def as_told(text: str, flag: str) -> str:
    """A text as it is."""
    return text


def unless_auto(text: str, flag: str) -> str | None:
    """A text; None for "auto"."""
    return None if text.lower() == "auto" else text


def objects(text: str, flag: str) -> Mapping[str, Any]:
    """A JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(
            f"{flag}: a JSON object is meant", key=flag, value=text[:80],
            hint="in single quotes, such as '{\"method\": \"mtp\"}'",
        )  # fmt: skip
    return value
