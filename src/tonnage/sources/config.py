"""A ``config.json``, or a folder that holds one."""

from __future__ import annotations

import json
import os
import stat
from typing import Any, Final

from tonnage.errors import InputError, SourceError
from tonnage.sources import RawModel

LARGEST: Final = 8 * 2**20
"""No config is near this size; a file that is larger is something else. [byte]"""


def read(path: str) -> RawModel:
    """Read a config from a file or from a folder.

    Raises:
        SourceError: the file or the folder's ``config.json`` is not there or cannot be opened.
        InputError: it is too large, no UTF-8, no JSON or no object.
    """
    file = path
    if os.path.isdir(path):
        file = os.path.join(path, "config.json")
        if not os.path.isfile(file):
            raise SourceError(f"the folder {path} has no config.json", key="model", value=path, file=path)
    try:
        found = os.stat(file)
        if not stat.S_ISREG(found.st_mode):
            # Opening a pipe would wait for a writer that may never come.
            raise SourceError(f"{file} is no regular file", key="model", value=path, file=path)
        size = found.st_size
        if size > LARGEST:
            raise InputError(
                f"{file} has {size:,} bytes: too large for a config.json", key="model", value=path, file=file
            )
        with open(file, "rb") as f:
            data = f.read(LARGEST + 1)
    except OSError as e:
        raise SourceError(f"cannot read {file}: {e.strerror or e}", key="model", value=path, file=file) from None
    return RawModel(config=parsed(data, file), name=_name(path), origin=f"file: {file}", file=file)


def fetch(address: str) -> RawModel:
    """Read a config at an address.

    Raises:
        SourceError: it cannot be had.
        InputError: it is too large, no UTF-8, no JSON or no object.
    """
    # Imported late: an answer from a file needs no network.
    from tonnage.sources.http import Remote

    remote = Remote(address)
    if remote.size > LARGEST:
        raise remote.wrong(f"{remote.size:,} bytes are too large for a config.json")
    name = address.partition("?")[0].rstrip("/").split("/")[-2] or remote.name
    return RawModel(
        config=parsed(remote.read(0, remote.size), address), name=name, origin=f"address: {address}", file=address
    )


def parsed(data: bytes | str, file: str | None) -> dict[str, Any]:
    """The object that a config holds.

    Raises:
        InputError: not UTF-8, not JSON, nested beyond reason, or not an object.
    """
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        value = json.loads(text, object_pairs_hook=_once)
    except UnicodeDecodeError as e:
        raise InputError(f"not UTF-8 at byte {e.start}", key="model", file=file) from None
    except json.JSONDecodeError as e:
        raise InputError(f"not JSON: {e.msg} at line {e.lineno}, column {e.colno}", key="model", file=file) from None
    except _TwiceError as e:
        raise InputError(f"the key {e.args[0]} stands twice in one object", key=e.args[0], file=file) from None
    except (RecursionError, ValueError) as e:
        raise InputError(f"not a config: {type(e).__name__}", key="model", file=file) from None
    if not isinstance(value, dict):
        raise InputError(f"a config is a JSON object, not a {type(value).__name__}", key="model", file=file)
    return value


class _TwiceError(ValueError):
    """A key that an object states twice: which of the two was meant, no one can tell."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return found


def _name(path: str) -> str:
    """The folder's name; the file's where it is not called as in every folder."""
    whole = os.path.abspath(path)
    stem = os.path.basename(whole).removesuffix(".json")
    if os.path.isdir(whole) or stem != "config":
        return stem
    return os.path.basename(os.path.dirname(whole)) or stem
