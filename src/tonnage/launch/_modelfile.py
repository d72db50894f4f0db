"""Modelfiles of Ollama: an instruction a line, long texts between three quotes."""

from __future__ import annotations

import re
from typing import Any, Final

from tonnage.errors import InputError

INSTRUCTION: Final = re.compile(r"^\s*(\w+)\s+(.*?)\s*$")
KNOWN: Final = (
    "from", "parameter", "template", "system", "adapter", "draft", "license", "message", "parser", "renderer",
    "requires",
)  # fmt: skip


def modelfile(text: str, path: str | None = None) -> dict[str, Any]:
    """Instructions and parameters of a text, by their names in lower case; the last one of a name stands.

    ollama/ollama v0.32.15, parser/parser.go.

    Raises:
        InputError: a line that begins with no instruction.

    >>> modelfile("FROM qwen3:8b\\nPARAMETER num_ctx 8192")
    {'from': 'qwen3:8b', 'num_ctx': '8192'}
    """
    out: dict[str, Any] = {}
    whole = re.sub(r'"""(.*?)"""', lambda found: repr(found.group(1)), text, flags=re.DOTALL)
    for n, line in enumerate(whole.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = INSTRUCTION.match(line)
        name = found.group(1).lower() if found is not None else ""
        if found is None or name not in KNOWN:
            raise InputError(
                f"line {n} begins with no instruction: {line.strip()[:60]!r}", key="file", file=path,
                hint=f"one of {', '.join(word.upper() for word in KNOWN)}",
            )  # fmt: skip
        value = found.group(2)
        if name == "parameter":
            name, _, value = value.partition(" ")
            name = name.lower()
        out[name] = value.strip().strip("'\"")
    return out
