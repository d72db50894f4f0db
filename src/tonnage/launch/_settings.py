"""Files of settings beside a command: YAML as engines' examples have it, with keys, lists and one level inside.

Nothing else of YAML is understood: anchors, tags, texts over several lines and deeper levels are refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, Final

from tonnage.errors import InputError, SourceError, UnsupportedError

LARGEST: Final = 2**20
"""Bytes of a file."""
ENTRY: Final = re.compile(r"^(\s*)(- )?(?:([\w.-]+)\s*:(?:\s+(.*)|$)|(.*))$")
ODD: Final = ("&", "*", "!", "|", ">", "%", "@", "`")


def settings(path: str, reads: Callable[[str, str | None], dict[str, Any]] | None = None) -> dict[str, Any] | None:
    """Keys and values of a file, those inside of another as ``outer.inner``; None where the file is not here.

    Values are texts, true or false, or lists of texts. ``reads`` tells the settings of a text that is no YAML.

    Raises:
        SourceError: it cannot be read.
        InputError: no YAML.
        UnsupportedError: YAML beyond what is read here.
    """
    if not os.path.isfile(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(LARGEST + 1)
    except (OSError, UnicodeDecodeError) as e:
        raise SourceError(f"cannot read {path}: {getattr(e, 'strerror', None) or 'no text'}", file=path) from None
    if len(text) > LARGEST:
        raise InputError("a file of more than 1 MiB holds no settings", file=path)
    return (reads or parsed)(text, path)


def parsed(text: str, path: str | None = None) -> dict[str, Any]:
    """The settings of a text.

    >>> parsed("tp: 2\\nkv_cache_config:\\n  dtype: 'fp8' # eight bits\\nnames: [a, b]\\nquiet: true")
    {'tp': '2', 'kv_cache_config.dtype': 'fp8', 'names': ['a', 'b'], 'quiet': True}
    """
    out: dict[str, Any] = {}
    outer: str | None = None
    # The key whose list may follow, and how far its neighbours stand in.
    listed: str | None = None
    depth = 0
    for n, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*$", "", raw).rstrip()
        if not line.strip() or line in ("---", "..."):
            continue
        indent, item, key, value, rest = ENTRY.match(line).groups()  # type: ignore[union-attr]
        inside = len(indent)
        if (item and listed is None) or (inside and outer is None):
            raise InputError(f"line {n} stands inside of nothing: {line.strip()[:60]!r}", key="config", file=path)
        if item:
            if key is not None:
                raise _deep(n, path)
            out.setdefault(str(listed), []).append(_scalar(rest, n, path))
            continue
        if key is None:
            raise InputError(f"line {n} is no 'key: value': {line.strip()[:60]!r}", key="config", file=path)
        if inside == 0:
            outer, depth = (None if value else key), 0
        elif depth not in (0, inside):
            raise _deep(n, path)
        else:
            depth = inside
        name = f"{outer}.{key}" if inside else key
        listed = None if value else name
        if value:
            out[name] = _value(value, n, path)
    return out


def _deep(n: int, path: str | None) -> UnsupportedError:
    return UnsupportedError(
        f"line {n}: settings deeper than one level are not read", key="config", file=path, hint="give them as flags"
    )


def _value(text: str, n: int, path: str | None) -> Any:
    if text.startswith("[") and text.endswith("]"):
        return [_scalar(part.strip(), n, path) for part in text[1:-1].split(",") if part.strip()]
    if text.startswith("{"):
        return text
    plain = _scalar(text, n, path)
    if text[:1] not in "\"'" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    return plain


def _scalar(text: str, n: int, path: str | None) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    if text.startswith(ODD):
        raise UnsupportedError(f"line {n}: {text[:40]!r} is YAML that is not read here", key="config", file=path)
    return text
