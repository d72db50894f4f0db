"""Values of configs as the stacks read them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from tonnage.errors import InputError, UnsupportedError, nearest

TRUE: Final = ("true", "yes", "on", "1")
FALSE: Final = ("false", "no", "off", "0", "none", "null", "")


def truth(value: Any, key: str) -> bool:
    """True or false, as YAML, JSON or a command line writes it."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in TRUE + FALSE:
        return value.lower() in TRUE
    raise InputError(f"{key}: true or false is meant, not {_shown(value)}", key=key, value=_shown(value))


def count(value: Any, key: str) -> int:
    """A whole number from 1; a text of digits as well."""
    number = whole(value, key)
    if number < 1:
        raise InputError(f"{key} = {number}: a number from 1 is meant", key=key, value=number)
    return number


def nests(value: Any, key: str) -> bool | None:
    """``use_reentrant`` of what checkpoints are called with; None where that is not said."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{key}: a mapping is meant, not {_shown(value)}", key=key, value=_shown(value))
    return None if found.get("use_reentrant") is None else truth(found["use_reentrant"], f"{key}.use_reentrant")


def every_step(value: Any, key: str) -> bool:
    """Whether something is done in every step; between two steps that do it, others reach as high as without."""
    return count(value, key) == 1


def whole(value: Any, key: str) -> int:
    """A whole number."""
    text = value.replace("_", "") if isinstance(value, str) else value
    if isinstance(text, bool) or not isinstance(text, int | float | str):
        text = ""
    try:
        number = float(text)
        if number != int(number):
            raise ValueError
        return int(number)
    except (ValueError, OverflowError):
        raise InputError(f"{key}: a whole number is meant, not {_shown(value)}", key=key, value=_shown(value)) from None


def share(value: Any, key: str) -> float:
    """A number from 0 and below 1."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0.0 <= number < 1.0:
        raise InputError(f"{key}: a number from 0 and below 1 is meant, not {_shown(value)}", key=key)
    return number


def text(value: Any, key: str) -> str:
    """A text."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise InputError(f"{key}: a text is meant, not {_shown(value)}", key=key, value=_shown(value))
    return str(value)


def texts(value: Any, key: str) -> tuple[str, ...]:
    """A list of texts; a text of several with commas as well."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.strip("[]").replace("'", "").split(",") if part.strip())
    if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
        return tuple(value)
    raise InputError(f"{key}: a list of texts is meant, not {_shown(value)}", key=key, value=_shown(value))


def modules(value: Any, key: str) -> tuple[str, ...]:
    """Modules that adapters are beside: a list of names, or one text that is a pattern over full names.

    >>> modules(".*self_attn.(q|v)_proj", "lora_target_modules"), modules("q_proj, v_proj", "lora_target_modules")
    (('.*self_attn.(q|v)_proj',), ('q_proj', 'v_proj'))
    """
    if isinstance(value, str) and any(c in value for c in "\\()|*+?^$"):
        return (value,)
    return texts(value, key)


def one_of(table: Mapping[str, Any]) -> Callable[[Any, str], Any]:
    """A name of a table, as what it stands for.

    Raises:
        InputError: no such name.
        UnsupportedError: one that stands for nothing that is modelled.
    """

    def read(value: Any, key: str) -> Any:
        name = text(value, key)
        if name not in table and name.lower() in table:
            name = name.lower()
        if name not in table:
            raise InputError(
                f"{key} = {_shown(value)} is none that is known", key=key, value=name, nearest=nearest(name, table),
                hint=f"one of {', '.join(table)}" if len(table) < 16 else None,
            )  # fmt: skip
        found = table[name]
        if found is None:
            raise UnsupportedError(f"{key} = {name} is not modelled yet", key=key, value=name)
        return found

    return read


DTYPES: Final = {
    "bf16": "bf16", "bfloat16": "bf16", "fp16": "fp16", "float16": "fp16", "half": "fp16", "fp32": "fp32",
    "float32": "fp32", "float": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16", "torch.float32": "fp32",
    "auto": "auto",
}  # fmt: skip


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
