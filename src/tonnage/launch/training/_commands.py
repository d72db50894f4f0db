"""Commands that start a training run: the stack, its config file, and what the command says beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from tonnage.errors import InputError, nearest
from tonnage.launch._shell import VARIABLE, Line, lines
from tonnage.launch.training import Config
from tonnage.record import Record

PROCESSES: Final = ("nproc_per_node", "num_processes", "num_gpus")
"""Flags of launchers that say how many processes run on one machine."""
NUMBER: Final = re.compile(r"-?\d+(_\d+)*")


class Started(Record):
    """A command that starts a stack.

    Args:
        config: of the stack; None where only the config's keys tell.
        program: the command's first words.
        file: the config that it names; None where it names none.
        given: keys that the command says itself.
        gpus: processes that are launched; None where nothing is said.
        notes: what is asked for and not read.
        launcher: the config of the launcher before it (accelerate); None where none is named.
    """

    config: Config | None
    program: str
    file: str | None
    given: dict[str, Any]
    gpus: int | None = None
    notes: tuple[str, ...] = ()
    launcher: str | None = None


def known(text: str, configs: Sequence[Config]) -> bool:
    """Whether a text is a command that starts a training stack; a single word never is."""
    if len(text.split()) < 2:
        return False
    try:
        return any(_start(line, configs) is not None for line in lines(text))
    except InputError:
        return False


def started(text: str, configs: Sequence[Config]) -> Started:
    """The first line of a text that starts one of the stacks.

    Raises:
        InputError: no line does, or an argument is none of the stack's.
    """
    found = lines(text)
    for line in found:
        start = _start(line, configs)
        if start is not None:
            return _read(line, *start)
    shown = " ".join(found[-1].words[:4])
    first = [c.programs[0][0] for c in configs if c.programs]
    raise InputError(
        f"no file, and no command that starts a training stack: {shown[:60]!r}", key="from", value=text[:80],
        nearest=nearest(found[-1].words[0], first),
        hint="a .yaml, .toml or .json of a stack, or "
        + ", ".join(" ".join(c.programs[0]) for c in configs if c.programs),
    )  # fmt: skip


def _start(line: Line, configs: Sequence[Config]) -> tuple[Config, int, int] | None:
    """The stack, and where the words that start it begin and end."""
    plain = [word.rpartition("/")[2].removesuffix(".exe") for word in line.words]
    for table in configs:
        for program in table.programs:
            for i in range(len(plain) - len(program) + 1):
                if all(_is(plain[i + j], word) for j, word in enumerate(program)):
                    return table, i, i + len(program)
    return None


def _is(word: str, wanted: str) -> bool:
    """A word of a command; one that ends with a star is a beginning."""
    return word.startswith(wanted[:-1]) if wanted.endswith("*") else word == wanted


def _read(line: Line, table: Config, begin: int, end: int) -> Started:
    program = " ".join(line.words[begin:end])
    words = list(line.words[end:])
    given: dict[str, Any] = {}
    notes: list[str] = []
    file: str | None = None
    gpus = _processes(line.words[:end]) or line.devices
    while words:
        word = words.pop(0)
        if word.startswith("--") or (word.startswith("-") and len(word) > 1 and not NUMBER.fullmatch(word)):
            name, equals, value = word.lstrip("-").partition("=")
            named = name.replace("-", "_")
            if not equals:
                value = _next(words, None if table.flags else 1)
            if f"--{name}" == table.file:
                file = _plain(value, word)
            elif named in PROCESSES:
                gpus = int(value) if value.isdigit() else gpus
            elif table.flags:
                given[named] = typed(_plain(value, word)) if value else True
            else:
                notes.append(f"{word}: not read")
        elif table.overrides and "=" in word:
            name, _, value = word.partition("=")
            given[name.lstrip("~+")] = typed(_plain(value, word))
        elif not table.file and file is None:
            file = _plain(word, word)
        elif "_positional" not in given:
            given["_positional"] = word
        else:
            raise InputError(f"{word!r} is no argument of {program}", key="from", value=word)
    given["_program"] = line.words[end - 1].rpartition("/")[2]
    return Started(table, program, file, given, gpus, tuple(notes), _launcher(line.words[:begin]))


def _next(words: list[str], most: int | None) -> str:
    """The values that follow a flag, several with commas between them; "" where none does."""
    found: list[str] = []
    while words and len(found) != most and not (words[0].startswith("-") and not NUMBER.fullmatch(words[0])):
        found.append(words.pop(0))
    return ",".join(found)


def _plain(value: str, word: str) -> str:
    if VARIABLE.search(value):
        raise InputError(
            f"{word} {value}: a variable of the shell, whose value is not known here", key=word, value=value,
            hint="write its value",
        )  # fmt: skip
    return value


def _launcher(words: Sequence[str]) -> str | None:
    """The file that accelerate's launcher is told to read."""
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in ("--config_file", "--config-file"):
            return value if equals else words[i + 1] if i + 1 < len(words) else None
    return None


def _processes(words: Sequence[str]) -> int | None:
    """Processes that torchrun, accelerate or tune launch on one machine."""
    for i, word in enumerate(words):
        name, equals, value = word.lstrip("-").replace("-", "_").partition("=")
        if name in PROCESSES:
            value = value if equals else words[i + 1] if i + 1 < len(words) else ""
            return int(value) if value.isdigit() else None
    return None


def typed(text: str) -> Any:
    """A value of a command line as YAML would read it.

    >>> typed("4"), typed("true"), typed("1e-4"), typed("[q_proj,v_proj]"), typed("null")
    (4, True, '1e-4', ['q_proj', 'v_proj'], None)
    """
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.lower() in ("null", "~"):
        return None
    if NUMBER.fullmatch(text):
        return int(text)
    if text.startswith("[") and text.endswith("]"):
        return [part.strip(" '\"") for part in text[1:-1].split(",") if part.strip()]
    return text
