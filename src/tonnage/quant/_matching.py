"""Names and expressions in the configs of schemes, and the modules that they stand for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from tonnage.errors import ConfigError

_REPEATED: Final = re.compile(r"(?<!\\)\)[*+{]")
_PLAIN: Final = re.compile(r"[\w.\-/]*\Z")


def expression(pattern: str) -> re.Pattern[str]:
    """A regular expression out of a config: short, and without groups that repeat, so that it ends in bounded time."""
    if len(pattern) > 500 or _REPEATED.search(pattern) or pattern.count("*") + pattern.count("+") > 6:
        raise ConfigError(
            f"the expression {pattern[:60]!r} may take unbounded time and is refused", key="quantization_config"
        )
    try:
        return re.compile(pattern)
    except re.error as e:
        raise ConfigError(
            f"{pattern[:60]!r} is no regular expression: {e}", key="quantization_config", value=pattern
        ) from None


def as_modules(names: list[str]) -> Callable[[str], bool]:
    """A name stands for a module and all below it, for an expression of such a name, and for the end of a name.

    https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/quantizers/quantizers_utils.py,
    ``should_convert_module``.
    """
    plain = {n.rstrip(".") for n in names if _PLAIN.match(n)}
    ends: dict[int, set[str]] = {}
    for n in names:
        ends.setdefault(len(n), set()).add(n)
    patterns = [expression(rf"(?:{n})(?:(?<=\.)|(?=\.|$))") for n in names if not _PLAIN.match(n)]

    def matches(module: str) -> bool:
        at = module.find(".")
        while at >= 0:
            if module[:at] in plain:
                return True
            at = module.find(".", at + 1)
        if module in plain or any(module[-n:] in found for n, found in ends.items() if n):
            return True
        return any(p.match(module) for p in patterns)

    return matches


def as_listed(names: list[str]) -> Callable[[str], bool]:
    """A full name, or an expression behind ``re:`` that matches from the start.

    https://github.com/vllm-project/compressed-tensors/blob/0.20.0/src/compressed_tensors/utils/match.py.
    """
    plain = {n for n in names if not n.startswith("re:")}
    patterns = [expression(n[3:]) for n in names if n.startswith("re:")]
    return lambda module: module in plain or any(p.match(module) for p in patterns)
