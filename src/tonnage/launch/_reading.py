"""A command's words as flags with values, and these as a workload."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tonnage.errors import InputError, nearest
from tonnage.launch import Command, Launch
from tonnage.launch._manifests import services, split
from tonnage.launch._settings import settings
from tonnage.launch._shell import VARIABLE, Line, lines
from tonnage.record import Record
from tonnage.rows import FOLDER

Takes = Mapping[str, tuple[str, str]]
"""Of every name of a flag what it takes and its first name."""
DASHES: Final = str.maketrans(dict.fromkeys("–—−", "-"))
"""What editors make of a dash."""


class Given(Record):
    """A flag as it was given: its first name, as it was written, and its value; a switch has True or False."""

    name: str
    written: str
    value: str | tuple[str, ...] | bool

    def __str__(self) -> str:
        if isinstance(self.value, bool):
            return self.written
        return f"{self.written} {self.value if isinstance(self.value, str) else ' '.join(self.value)}"


def flags_of(stack: Launch) -> dict[str, tuple[str, str]]:
    """Every flag that a release of the stack has."""
    out: dict[str, tuple[str, str]] = {}
    with open(os.path.join(FOLDER, "flags", f"{stack.name.replace('-', '_')}.txt"), encoding="utf-8") as file:
        for row in file:
            if row.startswith("#"):
                continue
            takes, *names = row.split()
            for name in names[1 if takes == "no" else 0 :]:
                out[name] = (takes, names[0])
                if takes == "b" and name.startswith("--"):
                    out[f"--no-{name[2:]}"] = ("no", names[0])
                    if name.startswith("--enable-"):
                        out.setdefault(f"--disable-{name[9:]}", ("no", names[0]))
    return out


def command(text: str, stacks: Sequence[Launch]) -> Command:
    """The first line of a text that starts one of the stacks, or the service of a file that does."""
    place = split(text)
    if place is not None:
        return _served(*place, stacks)
    found = lines(text)
    started = _started(found, stacks)
    if started is not None:
        return _command(*started)
    shown = " ".join(found[-1].words[:4])
    known = ", ".join(" ".join(s.starts[0]) for s in stacks)
    raise InputError(
        f"no launch command that is known: {shown[:60]!r}", key="from", value=text[:80],
        nearest=nearest(found[-1].words[0] if found[-1].words else "", [s.starts[0][0] for s in stacks]),
        hint=f"one that begins with {known}",
    )  # fmt: skip


def _started(found: Sequence[Line], stacks: Sequence[Launch]) -> tuple[Launch, str, list[str], Line] | None:
    """The first line that starts one of the stacks, with the stack, its program and what follows it."""
    for line in found:
        for stack in stacks:
            program, arguments = _arguments(line, stack)
            if arguments is not None:
                return stack, program, arguments, line
    return None


def _served(path: str, name: str | None, stacks: Sequence[Launch]) -> Command:
    """The command of the service of a file that starts an engine.

    Raises:
        InputError: none does, or several and none is named.
    """
    found = services(path)
    starting = [(s.name, started) for s in found if (started := _started(s.lines, stacks)) is not None]
    chosen = [started for one, started in starting if name in (None, one, one.rpartition("/")[2])]
    if len(chosen) == 1:
        return _command(*chosen[0])
    names = ", ".join(f"{one} ({started[0].name})" for one, started in starting)
    if not starting:
        raise InputError(
            f"no service starts an engine that is known: {', '.join(s.name for s in found)[:200]}", key="from",
            value=path, hint=f"one of {', '.join(s.name for s in stacks)}",
        )  # fmt: skip
    raise InputError(
        f"several services start an engine: {names}" if name is None else f"no service {name!r} starts an engine",
        key="from", value=path, hint=f"--from {path}:NAME, one of {names}",
    )  # fmt: skip


def starts(text: str, stack: Launch) -> bool:
    """Whether a line of a text starts the stack; a text of one word does where it names a file of services."""
    if split(text) is not None:
        return True
    if len(text.split()) < 2:
        return False
    try:
        return any(_arguments(line, stack)[1] is not None for line in lines(text))
    except InputError:
        return False


def _arguments(line: Line, stack: Launch) -> tuple[str, list[str] | None]:
    """The program of the stack and what follows it; None where the line starts another one."""
    plain = [word.rpartition("/")[2].removesuffix(".exe") for word in line.words]
    for start in stack.starts:
        for i in range(len(plain) - len(start) + 1):
            if tuple(plain[i : i + len(start)]) == start:
                return start[0], list(line.words[i + len(start) :])
    if line.image is not None and any(name in line.image for name in stack.images):
        return stack.starts[0][0], list(line.words)
    return "", None


def _command(stack: Launch, program: str, arguments: Sequence[str], line: Line) -> Command:
    takes = flags_of(stack)
    given, free = _parsed(arguments, takes, stack)
    if free[1 if stack.positional else 0 :] and not stack.prompt:
        raise InputError(
            f"{free[-1]!r} is neither a flag of {stack.name} nor a value of one", key="from", value=free[-1]
        )
    filed, notes = _from_file(given, stack, takes)
    given = [*given, *filed] if stack.file_wins else [*filed, *given]
    said, unmodelled = _told([*_from_variables(line, stack, takes), *given], stack, takes)
    unmodelled += notes
    unmodelled += [
        f"{name}={line.variables[name]}: {why}" for name, why in stack.noted.items() if name in line.variables
    ]
    if stack.positional and free:
        said["_model"] = free[0]
    settled, more = stack.finish({"_program": program, **said}, line.devices)
    settled.pop("_program", None)
    method, model = settled.pop("_quantization", None), settled.pop("_model", None)
    release = _release(line.image)
    if release is not None:
        settled.setdefault("engine_version", release)
    return Command(
        stack=stack.name,
        model=model,
        said={**settled, "engine": stack.name},
        unmodelled=tuple(dict.fromkeys((*unmodelled, *more))),
        method=method,
        whole=stack.whole and "context" not in settled,
    )


def _told(given: Sequence[Given], stack: Launch, takes: Takes) -> tuple[dict[str, Any], list[str]]:
    """Keys, and flags that change memory in a way that is not answered; a later flag wins over an earlier one."""
    table = {takes.get(name, ("", name))[1]: flag for flag in stack.flags for name in flag.names}
    models = {takes[name][1] for name in stack.model}
    said: dict[str, Any] = {}
    unmodelled: dict[str, str] = {}
    for g in given:
        flag = table.get(g.name)
        if g.name in models:
            said["_model"] = g.value
        elif flag is not None and flag.matters:
            unmodelled.pop(g.name, None)
            if g.value is not False and g.value not in flag.harmless:
                unmodelled[g.name] = f"{_short(str(g))}: {flag.matters}"
        elif flag is not None:
            value = flag.reads(_plain(g), g.written) if not isinstance(g.value, bool) or flag.reads_switch else g.value
            old = said.get(flag.key)
            said[flag.key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return {key: value for key, value in said.items() if value is not None}, list(unmodelled.values())


def _parsed(arguments: Sequence[str], takes: Takes, stack: Launch) -> tuple[list[Given], list[str]]:
    """Flags with their values in order, and what stands free."""
    given: list[Given] = []
    free: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not _is_flag(word, takes):
            free.append(word)
            continue
        name, value = _known(word.translate(DASHES) if word[:1] in "–—−" else word, takes, stack)
        kind, first = takes[name]
        if stack.prefixes and "." in word.partition("=")[0] and word.partition("=")[0] not in takes:
            given.append(
                Given(first, word.partition("=")[0], _inside(word.partition("=")[0], _one(word, value, words)))
            )
        elif kind in ("0", "b", "no"):
            given.append(Given(first, word, kind != "no"))
        elif kind == "1":
            written = "-O" if name == "-O" else word.partition("=")[0]
            given.append(Given(first, written, _one(word, value, words)))
        else:
            given.append(Given(first, word.partition("=")[0], _several(kind, value, words, takes)))
    return given, free


def _is_flag(word: str, takes: Takes) -> bool:
    """A negative number is none, unless a flag is called so."""
    if word[:1] in ("–", "—", "−"):
        return True
    return len(word) > 1 and word.startswith("-") and (word in takes or not word[1:].replace(".", "", 1).isdigit())


def _known(word: str, takes: Takes, stack: Launch) -> tuple[str, str | None]:
    """The name that a word stands for, and the value it carries.

    Raises:
        InputError: the stack has no such flag.
    """
    name, equals, value = word.partition("=")
    if equals and not stack.equals:
        raise InputError(f"{stack.name} takes no '=' in {name}", key=name, value=word, hint=f"write {name} {value}")
    if stack.dashes and name.startswith("--"):
        name = name.replace("_", "-")
    if name not in takes and stack.prefixes and name.startswith("--"):
        firsts = {takes[other][1]: other for other in takes if other.startswith(name)}
        name = next(iter(firsts.values())) if len(firsts) == 1 else name
    if name not in takes and name[:2] == "-O" and "-O" in takes:
        return "-O", name[2:] or value
    base = name.partition(".")[0]
    if name not in takes and stack.prefixes and "." in name and base in takes:
        # A key inside of a JSON object: --compilation-config.mode 0.
        return base, value if equals else None
    if name not in takes:
        raise InputError(
            f"{stack.name} has no flag {name} in the releases that are known", key=name, value=word,
            nearest=nearest(name, takes), hint=f"flags are those of {stack.reference}",
        )  # fmt: skip
    return name, value if equals else None


def _inside(name: str, value: str) -> str:
    """A JSON object of a key inside of it.

    >>> _inside("--speculative-config.num_speculative_tokens", "2")
    '{"num_speculative_tokens": 2}'
    """
    try:
        found: Any = json.loads(value)
    except ValueError:
        found = value
    for key in reversed(name.split(".")[1:]):
        found = {key: found}
    return json.dumps(found)


def _one(word: str, value: str | None, words: list[str]) -> str:
    if value is not None:
        return value
    if not words:
        raise InputError(f"{word} needs a value, and the command ends", key=word, value=word)
    return words.pop(0)


def _several(kind: str, value: str | None, words: list[str], takes: Takes) -> str | tuple[str, ...] | bool:
    """The values of a flag that takes some, two, or perhaps one; True where it takes none."""
    if value is not None:
        return value
    most = {"?": 1, "2": 2}.get(kind, len(words))
    found: list[str] = []
    while words and len(found) < most and not _is_flag(words[0], takes):
        found.append(words.pop(0))
    return True if not found else found[0] if kind == "?" else tuple(found)


def _plain(given: Given) -> str:
    """The value as a text.

    Raises:
        InputError: it is a variable of the shell, which only the shell knows.
    """
    value = given.value
    text = "" if isinstance(value, bool) else value if isinstance(value, str) else " ".join(value)
    if VARIABLE.search(text):
        raise InputError(
            f"{given.written} {text}: a variable of the shell, whose value is not known here", key=given.written,
            value=text, hint="write its value",
        )  # fmt: skip
    return text


def _from_variables(line: Line, stack: Launch, takes: Takes) -> list[Given]:
    """Flags that variables stand for; a flag of the command wins over them."""
    out = []
    for name, value in line.variables.items():
        flag = stack.variables(name)
        if flag is None or (flag not in takes and not flag.startswith("_")):
            continue
        # What no flag of the command says.
        kind, first = takes.get(flag, ("1", flag))
        on: str | bool = value.lower() in ("1", "true", "on", "yes", "enabled") if kind in ("0", "b", "no") else value
        out.append(Given(first, name, (not on) if kind == "no" else on))
    return out


def _from_file(given: Sequence[Given], stack: Launch, takes: Takes) -> tuple[list[Given], list[str]]:
    """Flags that a file of settings stands for, and what it says that is not answered."""
    named = [g for g in given if g.name == stack.file and stack.file]
    if not named:
        return [], []
    path = _plain(named[-1])
    found = settings(path, stack.reads)
    if found is None:
        return [], [f"{named[-1]}: a file of further settings, which is not here"]
    out: list[Given] = []
    notes: list[str] = []
    for key, value in found.items():
        if key == "model" and stack.model:
            out.append(Given(stack.model[0], key, str(value)))
            continue
        flag = stack.settings.get(key, "--" + (key.replace("_", "-") if stack.prefixes else key))
        base, dot, _ = flag.partition(".")
        told = value if isinstance(value, bool) else " ".join(value) if isinstance(value, list) else str(value)
        if flag in takes or flag.startswith("_"):
            out.append(Given(takes[flag][1] if flag in takes else flag, f"{key} in {os.path.basename(path)}:", told))
        elif dot and base in takes and stack.prefixes:
            out.append(Given(takes[base][1], flag, _inside(flag, json.dumps(told) if isinstance(told, bool) else told)))
        elif key not in stack.inert:
            notes.append(f"{key} in {os.path.basename(path)}: not read")
    return out, notes


def _release(image: str | None) -> str | None:
    """The release that a container's tag names.

    >>> _release("vllm/vllm-openai:v0.11.0"), _release("lmsysorg/sglang:latest"), _release("llama.cpp:server-b4370")
    ('0.11', None, 'b4370')
    """
    tag = (image or "").rpartition(":")[2] if ":" in (image or "") else ""
    build = re.search(r"-(b\d+)$", tag)
    if build is not None:
        return build.group(1)
    parts = tag.removeprefix("v").split("-")[0].split(".")
    return ".".join(parts[:2]) if len(parts) > 1 and all(p.isdigit() for p in parts[:2]) else None


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
