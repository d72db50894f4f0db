"""A config's keys as a workload: read by the stack's table, and what no table knows told by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from tonnage.errors import InputError, nearest
from tonnage.launch.training import Config, Job, Key, Settled, config, configs
from tonnage.launch.training._commands import Started, started
from tonnage.launch.training._files import flat, is_file, mapping

EMPTY: Final[tuple[Any, ...]] = (None, False, "", [], {}, "null", "None", "none", "false", "False")


def job(text: str, stack: str | None) -> Job:
    """What a file or a command asks for."""
    known = config(stack) if stack is not None else None
    if is_file(text):
        found = mapping(text)
        return told(known or recognised(found, text), found, os.path.basename(text))
    begun = started(text, configs())
    if known is not None and begun.config is not None and known.stack != begun.config.stack:
        raise InputError(
            f"the command starts {begun.config.stack}, and stack is {known.stack}", key="stack", value=known.stack,
            hint="leave one of the two out",
        )  # fmt: skip
    return _of_command(begun, known)


def _of_command(begun: Started, known: Config | None) -> Job:
    found: dict[str, Any] = {}
    if begun.file is not None:
        found = mapping(begun.file)
    table = begun.config or known or recognised(found, begun.file or begun.program)
    for key, value in begun.given.items():
        if not key.startswith("_"):
            _put(found, key, value)
    launched: dict[str, Any] = {}
    if begun.launcher is not None:
        spread = told(config("transformers"), mapping(begun.launcher), begun.launcher)
        launched = {key: value for key, value in spread.said.items() if key in ("gpus", "sharding")}
    own = {key: value for key, value in begun.given.items() if key.startswith("_")}
    done = told(table, found, begun.program, own)
    return done.but(
        said={**launched, **({"gpus": begun.gpus} if begun.gpus else {}), **done.said},
        unmodelled=(*done.unmodelled, *begun.notes),
    )


def _put(found: dict[str, Any], key: str, value: Any) -> None:
    """Set a key that may stand inside of others."""
    *outer, last = key.split(".")
    place = found
    for name in outer:
        inner = place.get(name)
        place[name] = dict(inner) if isinstance(inner, Mapping) else {}
        place = place[name]
    place[last] = value


def recognised(found: Mapping[str, Any], where: str) -> Config:
    """The stack whose keys these are: of those that have a mark of their own in it, the one that knows most of it.

    Raises:
        InputError: no stack's.
    """
    keys = set(flat(found)) | set(found)
    marked = [
        table
        for table in configs()
        if any(all(any(fnmatchcase(key, part) for key in keys) for part in mark) for mark in table.marks)
    ]
    if marked:
        # The Trainer's own keys are part of what the stacks over it read.
        return min(marked, key=lambda t: (len(_strange(t, found)), t.stack == "transformers"))
    names = ", ".join(c.stack for c in configs())
    first = ", ".join(list(found)[:4])
    raise InputError(
        f"no stack is known by the keys of {os.path.basename(where)}: {first[:80]}", key="stack",
        hint=f"--stack names it: {names}",
    )  # fmt: skip


def told(table: Config, found: Mapping[str, Any], origin: str, command: Mapping[str, Any] | None = None) -> Job:
    """The job that a stack makes of a config.

    Args:
        table: of the stack.
        found: keys and values.
        origin: where they stand.
        command: ``_program``, the last word that starts the stack, and ``_positional``, its first argument; None where
            there is no command.

    Raises:
        InputError: a value that the stack refuses, or keys that contradict each other.
    """
    said: dict[str, Any] = dict(command or {})
    unmodelled: list[str] = []
    for name, value in flat(found, table.fields).items():
        key = _known(table, name)
        if key is None:
            if not _inert(table, name) and value not in EMPTY:
                unmodelled.append(f"{name} = {_short(value)}: {_unknown(table, name)}")
        elif key.matters:
            if value not in EMPTY and not any(value == h and type(value) is type(h) for h in key.harmless):
                unmodelled.append(f"{name} = {_short(value)}: {key.matters}")
        elif value is not None and value not in ("null", ""):
            read = key.reads(value, name)
            if read is not None:
                said[key.key] = read
    settled: Settled = table.finish(said)
    keys = dict(settled.said)
    model = keys.pop("_model", None)
    left = [key for key in keys if key.startswith("_") and key not in ("_program", "_positional")]
    assert not left, f"{table.stack}: {left} not settled"
    return Job(
        stack=table.stack,
        model=model,
        said={**{k: v for k, v in keys.items() if v is not None and k[0] != "_"}, "stack": table.stack},
        unmodelled=tuple(dict.fromkeys((*unmodelled, *settled.unmodelled))),
        told=settled.told,
        origin=origin,
    )


def _strange(table: Config, found: Mapping[str, Any]) -> list[str]:
    """Keys that a stack does not have."""
    return [n for n in flat(found, table.fields) if _known(table, n) is None and not _inert(table, n)]


def _known(table: Config, name: str) -> Key | None:
    return next((key for key in table.keys if any(fnmatchcase(name, n) for n in key.names)), None)


def _inert(table: Config, name: str) -> bool:
    return any(fnmatchcase(name, pattern) or name.startswith(f"{pattern}.") for pattern in table.inert)


def _unknown(table: Config, name: str) -> str:
    close = nearest(name, [n for key in table.keys for n in key.names if "*" not in n], most=1)
    return f"not a key that is known{f' (did you mean {close[0]}?)' if close else ''}"


def _short(value: Any) -> str:
    shown = str(value)
    return shown if len(shown) <= 50 else shown[:47] + "..."
