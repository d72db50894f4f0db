"""A ``config.json``, wherever it lies."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final

from tonnage.errors import InputError
from tonnage.sources import RawModel

if TYPE_CHECKING:
    from tonnage.sources._files import Opened
    from tonnage.sources.places import Place

LARGEST: Final = 8 * 2**20
"""No config is near this size; a file that is larger is something else. [byte]"""


def of(place: Place, name: str) -> RawModel:
    """Read a config of a folder, an address or a repository.

    Raises:
        SourceError: it is not there or cannot be read.
        InputError: it is too large, no UTF-8, no JSON or no object.
    """
    with place.reading(name) as file:
        data = limited(file)
    path = place.path(name)
    # A file's own name, where it is not called as in every folder.
    stem = os.path.basename(name).removesuffix(".json")
    title = place.title if stem == "config" else stem
    return RawModel(config=parsed(data, path), name=title, origin=f"{place.origin}, {name}", file=path)


def limited(file: Opened) -> bytes:
    """All of a file that is no larger than a config is.

    Raises:
        InputError: it is.
    """
    if file.size > LARGEST:
        raise file.wrong(f"{file.size:,} bytes are too large for a config")
    return file.read(0, file.size)


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
