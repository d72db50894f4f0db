"""A workload as the command of a stack."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, Final

from tonnage.errors import InputError
from tonnage.launch import Flag, Launch

NEVER: Final = frozenset(
    {"task", "model", "gpu", "in_use", "engine", "engine_version", "gpus", "sharding", "concurrency", "quant", "cp"}
)
"""Keys that say where, or how many, and not how an engine is started; quantization is told of the checkpoint."""


def written(
    stack: Launch, model: str, workload: Mapping[str, Any], said: Mapping[str, Any]
) -> tuple[str, tuple[str, ...]]:
    """The command and what it cannot say.

    Raises:
        InputError: the workload is another engine's.
    """
    if workload.get("engine", stack.name) != stack.name:
        raise InputError(
            f"a workload of {workload['engine']} is no command of {stack.name}", key="to", value=stack.name,
            hint=f"--engine {stack.name} answers for it",
        )  # fmt: skip
    words = [*stack.lead(workload), *(model if word == "MODEL" else word for word in stack.begin)]
    # Names that begin with an underscore are no flags: a file or a variable says them.
    flags = [flag for flag in stack.flags if not flag.names[0].startswith("_")]
    told = {flag.key for flag in flags if flag.key} | {*stack.tails}
    for flag in flags:
        if flag.key in stack.always or (said.get(flag.key) is not None and flag.key not in stack.tails):
            words += _words(flag, workload.get(flag.key))
    words += stack.tail(workload)
    notes = [
        f"{key} = {value}: no flag of {stack.name} says so"
        for key, value in said.items()
        if key not in told and key not in NEVER and value is not None and workload.get(key) is not None
    ]
    if not model.endswith(stack.ending):
        notes.append(f"{stack.name} reads a {stack.ending} file: name one, or convert the checkpoint")
    quantized = workload.get("quant")
    if quantized not in (None, "none", "checkpoint") and quantized not in stack.formats.values():
        notes.append(f"the checkpoint has to be one that is stored as {quantized}")
    return shlex.join(words), tuple(notes)


def _words(flag: Flag, value: Any) -> list[str]:
    if value is None or value in flag.plain:
        return []
    if isinstance(value, bool):
        name = flag.names[0]
        return [name] if value else [f"--no-{name[2:]}"]
    return [flag.names[0], flag.writes(value)]
