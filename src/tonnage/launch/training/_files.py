"""Files of settings: YAML, TOML and JSON as plain mappings, within limits that a config never comes near."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any, Final

from tonnage.errors import InputError, SourceError, UnsupportedError

LARGEST: Final = 2**20
"""Bytes of a file."""
MOST: Final = 20_000
"""Values in it, what an alias repeats counted as often as it stands."""
DEEPEST: Final = 40
ENDINGS: Final = (".yaml", ".yml", ".json", ".toml")
INSIDE: Final = re.compile(r"\$\{([\w.]+)\}")


def is_file(text: str) -> bool:
    """Whether a text names a file of settings, be it there or not."""
    return os.path.isfile(text) or (len(text.split()) == 1 and text.lower().endswith(ENDINGS))


def mapping(path: str) -> dict[str, Any]:
    """The keys and values of a file.

    Raises:
        SourceError: it is not there, or cannot be read.
        UnsupportedError: YAML, and nothing reads it here.
        InputError: it is too large, damaged, or no mapping.
    """
    text = _text(path)
    kind = os.path.splitext(path)[1].lower()
    try:
        found = _json(text) if kind == ".json" else _toml(text) if kind == ".toml" else _yaml(text)
    except RecursionError:
        raise InputError(f"settings deeper than {DEEPEST} levels", file=path) from None
    except ValueError as e:
        why = " ".join(str(e).split())[:200]
        raise InputError(f"no {kind[1:].upper() or 'YAML'}: {why[:1].lower()}{why[1:]}", file=path) from None
    if not isinstance(found, Mapping):
        raise InputError(
            f"a config is a mapping of keys to values, and this is {_called(found)}", file=path, key="from"
        )
    _count(found, path)
    return resolved({str(key): value for key, value in found.items()})


def _text(path: str) -> str:
    if not os.path.isfile(path):
        raise SourceError(f"no file {path}", file=path, hint="a path to a config, or a command in quotes")
    try:
        size = os.path.getsize(path)
        if size > LARGEST:
            raise InputError(f"a file of {size:,} bytes holds no settings: at most {LARGEST:,}", file=path)
        with open(path, "rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError as e:
        raise SourceError(f"cannot read {path}: {e.strerror or e}", file=path) from None
    if len(raw) > LARGEST:
        raise InputError(f"the file holds no settings: more than {LARGEST:,} bytes", file=path)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("the file is no text", file=path) from None


def _json(text: str) -> Any:
    return json.loads(text)


def _toml(text: str) -> Any:
    import tomllib

    return tomllib.loads(text)


def _yaml(text: str) -> Any:
    """As the stacks themselves read it: YAML 1.1, plain values only."""
    try:
        import yaml
    except ImportError:
        raise UnsupportedError(
            "reading YAML needs a library that is not installed", key="from", hint="pip install 'tonnage[yaml]'"
        ) from None
    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as e:
        problem = getattr(e, "problem", None) or "cannot be read"
        mark = getattr(e, "problem_mark", None)
        raise ValueError(f"{problem}{f', line {mark.line + 1}' if mark is not None else ''}") from None


def _called(value: Any) -> str:
    return {list: "a list", str: "a text", type(None): "empty"}.get(type(value), "a single value")


def _count(found: Any, path: str) -> None:
    """Refuse what grows without end: aliases of aliases are one object, and count wherever they stand.

    Raises:
        InputError: too many values, or too deep.
    """
    left, stack = MOST, [(found, 0)]
    while stack:
        value, depth = stack.pop()
        left -= 1
        if left < 0:
            raise InputError(f"a config of more than {MOST:,} values", file=path, hint="aliases count where they stand")
        if depth > DEEPEST:
            raise InputError(f"settings deeper than {DEEPEST} levels", file=path)
        if isinstance(value, Mapping):
            stack += [(v, depth + 1) for v in value.values()]
        elif isinstance(value, list | tuple | set):
            stack += [(v, depth + 1) for v in value]


def flat(found: Mapping[str, Any], whole: tuple[str, ...] = (), before: str = "") -> dict[str, Any]:
    """Keys inside of others with dots between them; those of ``whole`` stay as they are.

    >>> flat({"a": {"b": 1, "c": {}}, "d": [2]})
    {'a.b': 1, 'a.c': {}, 'd': [2]}
    """
    out: dict[str, Any] = {}
    for key, value in found.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping) and value and name not in whole:
            out.update(flat(value, whole, f"{name}."))
        else:
            out[name] = value
    return out


def resolved(found: dict[str, Any]) -> dict[str, Any]:
    """With ``${key}`` replaced by the value of that key, once, as OmegaConf and Hydra write it.

    >>> resolved({"n": 4, "batch": "${n}", "out": "${n}/x"})
    {'n': 4, 'batch': 4, 'out': '4/x'}
    """
    known = flat(found)

    def plain(value: Any) -> Any:
        if isinstance(value, str):
            whole = INSIDE.fullmatch(value)
            if whole is not None:
                return known.get(whole.group(1), value)
            return INSIDE.sub(lambda m: str(known.get(m.group(1), m.group(0))), value)
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, list) else value

    return {key: plain(value) for key, value in found.items()}
