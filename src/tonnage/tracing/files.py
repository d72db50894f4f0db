"""Results in files: a trace, which is answered anew, or a result as ``--json`` prints it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from tonnage.devices import Device
from tonnage.errors import InputError, SourceError
from tonnage.tracing.stream import from_dict, is_trace

START: Final = 4096
"""Bytes in which a file of ours names its schema."""
LARGEST: Final = 2**30
"""Of a file. [byte]"""


def found(path: str, device: Callable[[str], Device]) -> Mapping[str, Any] | None:
    """The result that a file holds; None where the text names no file, or one of another kind.

    Args:
        path: of the file.
        device: finds one by name.

    Raises:
        SourceError: it cannot be read.
        InputError: a trace that is damaged, or no JSON.
    """
    if not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as file:
            start = file.read(START)
            if not start.lstrip().startswith(b"{") or b'"schema"' not in start:
                return None
            if os.fstat(file.fileno()).st_size > LARGEST:
                raise InputError("a file of more than 1 GiB is no result", file=path)
            value = json.loads(start + file.read())
    except OSError as e:
        raise SourceError(f"cannot read {path}: {e.strerror or e}", file=path) from None
    except (ValueError, RecursionError) as e:
        raise InputError(f"not JSON: {e}"[:200], file=path) from None
    if is_trace(value):
        return _of_trace(value, path, device)
    return value if isinstance(value, dict) and _is_result(value) else None


def _of_trace(value: Any, path: str, device: Callable[[str], Device]) -> Mapping[str, Any]:
    from tonnage.tracing.ask import of_trace

    traced = from_dict(value, path)
    if not isinstance(traced.told.get("workload"), dict) or not isinstance(traced.told.get("model"), dict):
        raise InputError("a damaged trace: it does not say what was traced", file=path)
    named = traced.told["workload"].get("gpu")
    return of_trace(traced, (device(named) if named else None, 0)).as_dict()


def _is_result(value: Mapping[str, Any]) -> bool:
    ranks = value.get("ranks")
    keys = {"components", "instants", "peak", "device_bytes", "reserved_bytes"}
    sound = isinstance(ranks, list) and bool(ranks) and all(isinstance(r, dict) and keys <= r.keys() for r in ranks)
    return sound and isinstance(value.get("workload"), dict)
