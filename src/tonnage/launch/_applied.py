"""A launch command on a model: what it leaves to the model, settled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tonnage.arch.model import Model
from tonnage.errors import InputError, nearest
from tonnage.launch import Command, stack
from tonnage.memory.pool.served import longest
from tonnage.workload.told import Told


def applied(
    command: Command, model: Model, said: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    """The keys of a workload, what is said beside the command winning.

    Args:
        command: as it was read.
        model: that runs.
        said: keys given beside the command; None is not said.

    Returns:
        The keys, what the command asks for that is not answered, and what has to be said of it.

    Raises:
        InputError: another engine is named beside it.
    """
    own = {key: value for key, value in said.items() if value is not None}
    if own.get("engine", command.stack) != command.stack:
        raise InputError(
            f"the command starts {command.stack}, and engine is {own['engine']}", key="engine", value=own["engine"],
            hint="leave one of the two out",
        )  # fmt: skip
    keys = {**command.said, **own}
    # Where the engine fits the context to what is free, it is left open.
    if command.whole and "context" not in own and not keys.get("fit"):
        reach = longest(model)
        if reach is not None:
            keys["context"] = reach
    told: list[str] = []
    if command.method is not None and "quant" not in own:
        quant, told = _quantization(command, model)
        if quant is not None:
            keys["quant"] = quant
    return keys, command.unmodelled, tuple(told)


def of_run(told: Told, command: Command | None, model: Model, said: Mapping[str, Any]) -> dict[str, Any]:
    """The workload of a run whose log is there.

    Args:
        told: by the log.
        command: that started it; None where only the model is named, and the log's own settings count.
        model: that ran.
        said: what is given beside both.

    Raises:
        InputError: the command starts another engine than the log is of.
    """
    if command is not None and told.engine not in (command.stack, stack(command.stack).log):
        raise InputError(
            f"the command starts {command.stack}, and the log is {told.engine}'s", key="engine", value=told.engine
        )
    own = {key: value for key, value in said.items() if value is not None}
    keys = {**told.said, "engine": told.engine, **own} if command is None else applied(command, model, own)[0]
    if told.release is not None and keys["engine"] == told.engine:
        keys.setdefault("engine_version", told.release)
    if keys.get("gpu") is None and told.total is not None:
        keys["gpu"] = f"{told.total} B"
    reach = longest(model)
    if command is None and reach is not None and keys.get("context", 0) > reach:
        keys["context"] = reach
    return keys


def _quantization(command: Command, model: Model) -> tuple[str | None, list[str]]:
    """The scheme that a method names: the checkpoint's own, where it has one.

    Raises:
        InputError: the stack has no such method.
    """
    method = str(command.method)
    if model.quantization is not None:
        return None, []
    formats = stack(command.stack).formats
    if method not in formats:
        raise InputError(
            f"quantization = {method}: no scheme that is known for a checkpoint without one", key="quant", value=method,
            nearest=nearest(method, formats), hint="--quant names one (tonnage serve --help)",
        )  # fmt: skip
    scheme = formats[method]
    if method == scheme or method in ("fp8", "bitsandbytes", "bitsandbytes-nf4", "bitsandbytes-fp4", "eetq"):
        return scheme, []
    return scheme, [f"the checkpoint is not quantized: {method} is answered as {scheme} (--quant names another)"]
