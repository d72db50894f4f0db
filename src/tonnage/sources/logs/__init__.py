"""Logs of engines: one reader for each, which takes what its engine prints about memory, in the words of any release.

A log that is cut off, or of a release that is not known, gives what can be read of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Final

from tonnage.errors import InputError, SourceError
from tonnage.record import Record
from tonnage.registry import names, variant
from tonnage.workload.told import Told

PACKAGE: Final = "tonnage.sources.logs"
LARGEST: Final = 64 * 2**20
"""Bytes that are read: what an engine prints while it starts stands before what it prints while it serves."""
NAMED: Final = (".log", ".out", ".txt")
OTHERS: Final = (".json", ".jsonl", ".safetensors", ".gguf", ".bin", ".pt", ".pth", ".pickle", ".gz", ".toml", ".yaml")


class Log(Record):
    """A reader.

    Args:
        engine: whose logs it reads.
        read: the lines of a log to what they tell; None where no line is the engine's.
        reference: where the engine prints them.
    """

    engine: str
    read: Callable[[Iterable[str]], Told | None]
    reference: str


def found(path: str) -> Told | None:
    """What a file tells, where it is an engine's log; None where it is another file, or none.

    Raises:
        SourceError: it cannot be read.
    """
    if not os.path.isfile(path) or path.lower().endswith(OTHERS):
        return None
    try:
        with open(path, "rb") as file:
            start = file.read(LARGEST)
    except OSError as e:
        raise SourceError(f"cannot read {path}: {e.strerror or e}", file=path) from None
    if b"\0" in start[:4096] and not start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return None
    code = "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    return told(start.decode(code, errors="replace"))


def pair(left: str, right: str, is_command: Callable[[str], bool]) -> tuple[str, str, Told] | None:
    """What was asked, the path of the log, and what it tells, of two texts of which one names a log.

    Args:
        left: a command, a model or the log.
        right: the same.
        is_command: whether a text is a launch command, beside which only a log makes sense.

    Returns:
        None where neither is a log.

    Raises:
        InputError: a command stands beside a file that is no log; a file is called a log and is none; both are logs.
        SourceError: the file beside a command is not there.
    """
    for asked, path in ((left, right), (right, left)):
        if is_command(asked):
            return asked, path, needed(path)
    logs = [found(right), found(left)]
    if logs[0] is not None and logs[1] is not None:
        raise InputError("both are logs", key="left", value=left, hint="name the model, or the command that started it")
    if logs[0] is not None:
        return left, right, logs[0]
    for path in (right, left) if logs[1] is None else ():
        if path.lower().endswith(NAMED) and os.path.isfile(path):
            needed(path)
    return None if logs[1] is None else (right, left, logs[1])


def told(text: str) -> Told | None:
    """What a log tells, by the reader that finds most in it.

    >>> told("INFO [gpu_worker.py:298] Available KV cache memory: 54.66 GiB").figures[0].name
    'kv_cache'
    """
    lines = text.splitlines()
    read = [t for name in names(PACKAGE) if (t := variant(PACKAGE, name, "LOG", Log).read(lines)) is not None]
    return max(read, key=lambda t: len(t.figures) + len(t.counts), default=None)


def needed(path: str) -> Told:
    """As ``found``; a file that tells nothing is an error.

    Raises:
        SourceError: the file is not there.
        InputError: no line of it is known.
    """
    if not os.path.isfile(path):
        raise SourceError(f"no such file: {path}", file=path)
    log = found(path)
    if log is None:
        engines = ", ".join(variant(PACKAGE, name, "LOG", Log).engine for name in names(PACKAGE))
        raise InputError(
            "no line about memory that an engine prints", file=path, hint=f"logs of {engines}, as they start"
        )
    return log
