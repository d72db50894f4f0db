"""Files that start containers: services of docker compose, and containers of Kubernetes' workloads.

A service becomes the line of a shell that it stands for: image, variables, devices, and the words that it runs.

References: https://github.com/compose-spec/compose-spec/blob/main/spec.md (services), 12-interpolation.md;
https://kubernetes.io/docs/reference/generated/kubernetes-api/v1.31/ (Container).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Final

from tonnage.errors import InputError, SourceError, UnsupportedError
from tonnage.launch._shell import Line, devices_named, lines
from tonnage.record import Record

ENDINGS: Final = (".yaml", ".yml")
LARGEST: Final = 4 * 2**20
"""Bytes of a file."""
SHELLS: Final = ("sh", "bash", "zsh", "ash")
DEVICES: Final = ("nvidia.com/gpu", "amd.com/gpu")
DEFAULTED: Final = re.compile(r"\$\{(\w+):?[-=]([^{}]*)\}")
REFERRED: Final = re.compile(r"\$\((\w+)\)")


class Service(Record):
    """One container: its name, and the simple commands that it runs."""

    name: str
    lines: tuple[Line, ...]


def split(text: str) -> tuple[str, str | None] | None:
    """The file and the service that ``file.yaml`` or ``file.yaml:service`` names; None where it names no such file."""
    for path, name in ((text, None), text.rpartition(":")[::2]):
        if path.lower().endswith(ENDINGS) and os.path.isfile(path):
            return path, name
    return None


def services(path: str) -> list[Service]:
    """Every container of a file.

    Raises:
        SourceError: it cannot be read.
        UnsupportedError: the library that reads YAML is not installed.
        InputError: it is not YAML, or has no containers.
    """
    try:
        if os.path.getsize(path) > LARGEST:
            raise SourceError(f"{path} has more than {LARGEST:,} bytes", file=path)
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError as e:
        raise SourceError(f"cannot read {path}: {e.strerror or e}", file=path) from None
    try:
        yaml: Any = import_module("yaml")
    except ImportError:
        raise UnsupportedError(
            f"{path}: reading YAML needs PyYAML", key="from", value=path, hint="pip install 'tonnage[yaml]'"
        ) from None
    try:
        found = [s for document in yaml.safe_load_all(text) for s in _document(document)]
    except (yaml.YAMLError, RecursionError, ValueError) as e:
        where = getattr(e, "problem_mark", None)
        line = f", line {where.line + 1}" if where is not None else ""
        raise InputError(f"not YAML{line}: {getattr(e, 'problem', None) or type(e).__name__}", file=path) from None
    if not found:
        raise InputError("neither services of docker compose nor containers of Kubernetes", file=path)
    return found


def _document(document: Any) -> Iterator[Service]:
    """Containers of one document."""
    if not isinstance(document, Mapping):
        return
    composed = document.get("services")
    if isinstance(composed, Mapping):
        for name, service in composed.items():
            if isinstance(service, Mapping):
                yield Service(str(name), _composed(service))
        return
    about = document.get("metadata")
    named = str(about.get("name") or "") if isinstance(about, Mapping) else ""
    for container in _containers(document, set()):
        own = str(container.get("name") or "")
        yield Service("/".join(part for part in (named, own) if part) or "container", _contained(container))


def _containers(node: Any, seen: set[int]) -> Iterator[Mapping[str, Any]]:
    """Mappings with an image under a list of containers, wherever they stand; shared nodes once."""
    if isinstance(node, Mapping | list):
        if id(node) in seen:
            return
        seen.add(id(node))
    if isinstance(node, list):
        for inner in node:
            yield from _containers(inner, seen)
    elif isinstance(node, Mapping):
        for key, inner in node.items():
            if key == "containers" and isinstance(inner, list):
                yield from (c for c in inner if isinstance(c, Mapping) and ("image" in c or "args" in c))
            else:
                yield from _containers(inner, seen)


def _composed(service: Mapping[str, Any]) -> tuple[Line, ...]:
    """What a service of docker compose runs."""
    variables = {k: _filled(v) for k, v in _variables(service.get("environment")).items()}
    words = [_filled(word) for key in ("entrypoint", "command") for word in _words(service.get(key))]
    return _lines(words, variables, _filled(str(service.get("image") or "")), _reserved(service))


def _contained(container: Mapping[str, Any]) -> tuple[Line, ...]:
    """What a container of Kubernetes runs."""
    variables = _variables(container.get("env"))
    words = [
        REFERRED.sub(lambda m: variables.get(m[1], m[0]), word)
        for key in ("command", "args")
        for word in _words(container.get(key))
    ]
    return _lines(words, variables, str(container.get("image") or ""), _limited(container))


def _lines(words: Sequence[str], variables: Mapping[str, str], image: str, devices: int | None) -> tuple[Line, ...]:
    """The simple commands: those of a shell's script, or the words themselves."""
    shown = devices_named(variables)
    devices = devices if shown is None else shown
    if words and words[0].rpartition("/")[2] in SHELLS:
        script = next((words[i + 1] for i, w in enumerate(words[:-1]) if re.fullmatch(r"-\w*c", w)), None)
        if script is not None:
            found = lines(script)
            return tuple(
                line.but(
                    variables={**variables, **line.variables}, image=line.image or image,
                    devices=devices if line.devices is None else line.devices,
                )
                for line in found
            )  # fmt: skip
    return (Line(tuple(words), dict(variables), image or None, devices),)


def _words(value: Any) -> list[str]:
    """A command as words: a list, or a text as a shell splits it."""
    if isinstance(value, list):
        return [str(word).strip() if not isinstance(word, bool) else str(word).lower() for word in value]
    return [word for line in lines(value) for word in line.words] if isinstance(value, str) and value.strip() else []


def _variables(value: Any) -> dict[str, str]:
    """Variables as a mapping, as ``NAME=value`` or as names with values."""
    if isinstance(value, Mapping):
        return {str(k): "" if v is None else str(v) for k, v in value.items()}
    out = {}
    for item in value if isinstance(value, list) else ():
        if isinstance(item, Mapping):
            if item.get("value") is not None:
                out[str(item.get("name"))] = str(item["value"])
        else:
            name, _, told = str(item).partition("=")
            out[name] = told
    return out


def _filled(text: str) -> str:
    """Defaults of variables that compose fills in; ``$$`` is a dollar."""
    return DEFAULTED.sub(lambda m: m[2], text).replace("$$", "$")


def _reserved(service: Mapping[str, Any]) -> int | None:
    """Devices that a service of docker compose reserves."""
    node: Any = service
    for key in ("deploy", "resources", "reservations", "devices"):
        node = node.get(key) if isinstance(node, Mapping) else None
    for device in node if isinstance(node, list) else ():
        if isinstance(device, Mapping):
            named, number = device.get("device_ids"), device.get("count")
            if isinstance(named, list) and named:
                return len(named)
            if isinstance(number, int) and number > 0:
                return number
    return None


def _limited(container: Mapping[str, Any]) -> int | None:
    """Devices that a container of Kubernetes is given."""
    resources = container.get("resources")
    for key in ("limits", "requests"):
        told = resources.get(key) if isinstance(resources, Mapping) else None
        for name in DEVICES:
            number = str(told.get(name, "")) if isinstance(told, Mapping) else ""
            if number.isdigit() and int(number) > 0:
                return int(number)
    return None
