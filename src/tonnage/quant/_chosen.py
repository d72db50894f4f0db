"""Which modules a list of targets means, as compressed-tensors reads it: names, expressions, then the class.

https://github.com/vllm-project/compressed-tensors/blob/0.20.0/src/compressed_tensors/utils/match.py, ``match_targets``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TypeVar

from tonnage.errors import UnsupportedError
from tonnage.quant._matching import expression
from tonnage.quant._stored import Matrix, names_of
from tonnage.record import Record

T = TypeVar("T")
CLASS = "Linear"
_compiled = lru_cache(maxsize=None)(expression)


def named(target: str, name: str) -> bool:
    """Whether a target means a module by its name.

    >>> named("re:.*down_proj", "model.layers.0.mlp.down_proj"), named("down_proj", "model.layers.0.mlp.down_proj")
    (True, False)
    """
    if target.startswith("re:"):
        return _compiled(target[3:]).match(name) is not None
    return target == name


def first(targets: Iterable[str], name: str) -> str | None:
    """The target that counts for a linear module: an exact name, an expression, its class."""
    known = tuple(targets)
    for target in sorted(known, key=lambda t: ("re:" in t, t)):
        if named(target, name):
            return target
    return CLASS if CLASS in known else None


def assigned(table: Mapping[str, T], m: Matrix) -> T | None:
    """What a table from targets gives for a matrix.

    Raises:
        UnsupportedError: the experts of a layer, or their gates and ups, are not alike.
    """
    found = {first(table, name) for name in names_of(m)}
    values = [None if target is None else table[target] for target in found]
    if any(repr(value) != repr(values[0]) for value in values):
        raise UnsupportedError(
            f"groups store parts of {m.module} differently: not modelled", key="quantization_config.config_groups"
        )
    return values[0]


class Chosen(Record):
    """Modules that some targets mean and others leave out.

    Args:
        targets: names, expressions behind ``re:``, or the class.
        ignored: the same.
    """

    targets: tuple[str, ...]
    ignored: tuple[str, ...] = ()

    def has(self, m: Matrix) -> bool:
        """Whether a matrix is one of them; of stacked experts, the first and the last."""
        return all(first(self.targets, name) is not None and first(self.ignored, name) is None for name in names_of(m))
