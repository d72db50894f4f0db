"""A line of a shell as what it runs: variables set before a program, the program, its arguments.

Pipes, redirections, wrappers such as ``sudo`` and containers are seen through; nothing is expanded and nothing is run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from tonnage.errors import InputError
from tonnage.record import Record

LONGEST: Final = 100_000
"""Characters of a command."""
ASSIGNED: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
VARIABLE: Final = re.compile(r"\$(\{|\(|[A-Za-z_])|`")
REDIRECTION: Final = re.compile(r"^(\d|&)?(>>?|<)(&\d|.*)$")
BETWEEN: Final = frozenset({"&&", "||", ";", "|", "&", "|&"})
CONTAINERS: Final = frozenset({"docker", "podman", "nerdctl", "nvidia-docker"})

VISIBLE: Final = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


class Line(Record):
    """One simple command.

    Args:
        words: what is run and its arguments, quotes taken off.
        variables: what the line sets for it, or for its container.
        image: of the container; None where there is none.
        devices: how many devices it may see; None where nothing is said.
    """

    words: tuple[str, ...]
    variables: Mapping[str, str]
    image: str | None = None
    devices: int | None = None


def lines(text: str) -> tuple[Line, ...]:
    """The simple commands of a text.

    Raises:
        InputError: nothing is there, or a quote is not closed.

    >>> lines("CUDA_VISIBLE_DEVICES=0,1 vllm serve x 2>&1 | tee log")[0]
    Line(words=('vllm', 'serve', 'x'), variables={'CUDA_VISIBLE_DEVICES': '0,1'}, image=None, devices=2)
    """
    if len(text) > LONGEST:
        raise InputError(f"a command of {len(text):,} characters", key="from", hint=f"at most {LONGEST:,}")
    joined = re.sub(r"[\\`^][ \t]*\r?\n", " ", text)
    try:
        words = shlex.split(_apart(joined))
    except ValueError as e:
        raise InputError(
            f"the command does not end: {str(e)[:1].lower()}{str(e)[1:]}", key="from", value=text[:80],
            hint="close every quote; in a shell put the command into quotes of the other kind",
        ) from None  # fmt: skip
    found = [line for part in _parts(words) if (line := _line(part)) is not None]
    if not found:
        raise InputError(
            "no command is given", key="from", value=text[:80], hint='such as --from "vllm serve org/name"'
        )
    return tuple(found)


def _apart(text: str) -> str:
    """Blanks around what ends a simple command outside of quotes; lines that are comments left out."""
    out, quote, i = [], "", 0
    for line in text.split("\n"):
        if not quote and line.lstrip().startswith("#"):
            continue
        for i, c in enumerate(line):
            if quote:
                quote = "" if c == quote and not (quote == '"' and line[i - 1 : i] == "\\") else quote
            elif c in "\"'" and line[i - 1 : i] != "\\":
                quote = c
            elif c in ";|" or (c == "&" and line[i - 1 : i] not in (">", "<") and line[i + 1 : i + 2] != ">"):
                double = line[i - 1 : i] == c or line[i + 1 : i + 2] == c
                out.append(f" {c} " if not double else f" {c}" if line[i + 1 : i + 2] == c else f"{c} ")
                continue
            out.append(c)
        out.append("\n" if quote else " ; ")
    return "".join(out)


def _parts(words: Sequence[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    skip = False
    for word in words:
        if word in BETWEEN:
            parts.append([])
        elif skip:
            skip = False
        elif REDIRECTION.match(word) and not word.startswith("<|"):
            skip = word.rstrip("&").endswith((">", "<"))
        elif word.startswith("#") and parts[-1]:
            # The rest of the line is a comment.
            parts[-1].append("#")
        else:
            parts[-1].append(word)
    return [part[: part.index("#")] if "#" in part else part for part in parts]


def _line(part: Sequence[str]) -> Line | None:
    words = list(part)
    variables: dict[str, str] = {}
    while words and (ASSIGNED.match(words[0]) or words[0] in ("env", "export", "exec", "nohup", "sudo", "time")):
        name, equals, value = words.pop(0).partition("=")
        if equals:
            variables[name] = value
    if not words:
        return None
    image = None
    shown = devices_named(variables)
    if words[0].rpartition("/")[2] in CONTAINERS and "run" in words:
        image, words, inside, shown_inside = _contained(words[words.index("run") + 1 :])
        variables |= inside
        shown = devices_named(inside) or shown_inside or shown
    return Line(tuple(words), variables, image, shown)


def _contained(words: Sequence[str]) -> tuple[str | None, list[str], dict[str, str], int | None]:
    """A container's image, what it is told to run, variables set in it, and its devices."""
    variables: dict[str, str] = {}
    devices = None
    i = 0
    while i < len(words) and words[i].startswith("-"):
        flag, equals, value = words[i].partition("=")
        if not equals and flag in _WITH_VALUE and i + 1 < len(words):
            i += 1
            value = words[i]
        if flag in ("-e", "--env") and "=" in value:
            name, _, told = value.partition("=")
            variables[name] = told
        if flag == "--gpus":
            devices = _gpus(value)
        i += 1
    image = words[i] if i < len(words) else None
    return image, list(words[i + 1 :]), variables, devices


_WITH_VALUE: Final = frozenset(
    [
        "-e", "--env", "-v", "--volume", "-p", "--publish", "--name", "--gpus", "--ipc", "--shm-size", "--network",
        "--net", "--ulimit", "-w", "--workdir", "-u", "--user", "-h", "--hostname", "--env-file", "--mount",
        "--entrypoint", "--device", "--group-add", "--security-opt", "--cap-add", "--runtime", "--restart", "-m",
        "--memory", "--cpus", "--platform", "--add-host", "--label", "-l", "--log-driver", "--log-opt", "--pull",
        "--pid", "--tmpfs", "--cpuset-cpus",
    ]
)  # fmt: skip


def devices_named(variables: Mapping[str, str]) -> int | None:
    """Devices that a variable names."""
    for name in VISIBLE:
        value = variables.get(name, "all")
        if value not in ("all", "", "void", "none") and not VARIABLE.search(value):
            return len([part for part in value.split(",") if part.strip()])
    return None


def _gpus(value: str) -> int | None:
    """Devices of ``--gpus``.

    >>> _gpus('"device=0,1"'), _gpus("2"), _gpus("all")
    (2, 2, None)
    """
    plain = value.strip("\"'")
    if plain.isdigit():
        return int(plain)
    named = re.search(r"device=([\w,.:-]+)", plain)
    return len(named.group(1).strip(",").split(",")) if named else None
