"""A file of what runs showed of devices: one object, samples by device, from which an answer takes its reserves.

``{"schema": 1, "calibration": {"h100-sxm-80gb": [{"context_bytes": ..., "fragmentation": ..., "id": ..., "versions":
...}, ...]}}``. ``tonnage measure --calibrate`` writes it.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections.abc import Mapping
from typing import Any, Final

from tonnage.devices import Calibration, Device
from tonnage.errors import InputError, SourceError, nearest

VARIABLE: Final = "TONNAGE_CALIBRATION"
"""The environment's name for the file."""
SCHEMA: Final = 1
LARGEST: Final = 2**24
"""Of a file. [byte]"""
MOST: Final = 500
"""Samples that are kept of a device, the newest."""
SHARE: Final = 10.0
"""Fragmentation beyond which a sample is no figure."""


def _wrong(path: str, what: str) -> InputError:
    return InputError(what, key="calibration", file=path, hint="tonnage measure MODEL --calibrate FILE writes one")


def samples(path: str) -> dict[str, list[Mapping[str, Any]]]:
    """Samples by device; none where there is no file.

    Raises:
        SourceError: the file cannot be read.
        InputError: it is no calibration.
    """
    if not os.path.lexists(path):
        return {}
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(LARGEST))
    except OSError as e:
        raise SourceError(f"cannot read {path}: {e.strerror or e}", key="calibration", value=path, file=path) from None
    except (ValueError, RecursionError):
        raise _wrong(path, "no calibration: JSON is expected") from None
    rows = found.get("calibration") if isinstance(found, dict) else None
    if not isinstance(rows, dict) or found.get("schema") != SCHEMA:
        raise _wrong(path, f"no calibration of schema {SCHEMA}")
    for device, own in rows.items():
        if not isinstance(own, list) or not all(map(_is_sample, own)):
            raise _wrong(path, f"{device}: a sample is no object with context_bytes and fragmentation")
    return rows


def _is_sample(row: Any) -> bool:
    if not isinstance(row, dict):
        return False
    context, share = row.get("context_bytes"), row.get("fragmentation")
    sound = type(context) is int and 0 <= context < 2**50
    return sound and isinstance(share, int | float) and not isinstance(share, bool) and 0 <= share < SHARE


def read(path: str, device: str) -> Calibration | None:
    """What a file says of a device; None where it says nothing of it.

    Raises:
        SourceError: there is no such file.
        InputError: it is no calibration.
    """
    if not os.path.exists(path):
        raise SourceError(f"no such file: {path}", key="calibration", value=path, file=path)
    own = samples(path).get(device)
    if not own:
        return None
    context = sorted(int(row["context_bytes"]) for row in own)
    share = sorted(float(row["fragmentation"]) for row in own)
    releases = sorted({f"torch {row['versions']['torch']}" for row in own if _names_torch(row)})
    return Calibration(
        device=device,
        runs=len(own),
        context=(context[0], round(statistics.median(context)), context[-1]),
        fragmentation=(share[0], statistics.median(share), share[-1]),
        basis=", ".join(releases) or "releases untold",
    )


def _names_torch(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("versions"), dict) and isinstance(row["versions"].get("torch"), str)


def lacking(path: str, device: str) -> InputError:
    """The error for a file that says nothing of a device."""
    there = sorted(samples(path))
    return InputError(
        f"the calibration says nothing of {device}", key="calibration", value=device, file=path,
        nearest=nearest(device, there), hint=f"it has {', '.join(there) or 'no device'}",
    )  # fmt: skip


def added(path: str, device: str, sample: Mapping[str, Any]) -> int:
    """Add a sample, in one move: a file that is read at the same time is whole. How many there are of the device.

    Raises:
        SourceError: the file cannot be written.
        InputError: it is there and no calibration.
    """
    if not _is_sample(sample):
        raise InputError("the run tells no context and no fragmentation to keep", key="calibrate", value=path)
    rows = samples(path)
    rows[device] = [*rows.get(device, []), sample][-MOST:]
    text = json.dumps({"schema": SCHEMA, "calibration": rows}, indent=1)
    try:
        handle, name = tempfile.mkstemp(dir=os.path.dirname(os.path.abspath(path)), prefix=".calibration-")
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        os.replace(name, path)
    except OSError as e:
        raise SourceError(f"cannot write {path}: {e.strerror or e}", key="calibrate", value=path, file=path) from None
    return len(rows[device])


def applied(where: Device | None, path: str | None) -> Device | None:
    """The device with what a file says of it; unchanged where no file is named.

    Args:
        where: the device that is meant.
        path: that a flag names; the environment's where None.

    Raises:
        InputError: a flag names a file, and it says nothing of the device, or none is named.
        SourceError: it cannot be read.
    """
    named = path or os.environ.get(VARIABLE)
    if not named:
        return where
    if where is None:
        if path is None:
            return None
        raise InputError(
            "a calibration is of a device, and none is named", key="calibration", value=path, hint="add --gpu"
        )
    found = read(named, where.name)
    if found is None:
        if path is None:
            return where
        raise lacking(named, where.name)
    return where.but(calibration=found)
