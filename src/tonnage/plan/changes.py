"""A change of what is asked, and where one of several steps is enough, the steps in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tonnage.record import Record


class Change(Record):
    """Other values for some keys of a workload.

    Args:
        keys: the keys and their values.
        words: what they do.
        alters: keys that change what is trained or answered, and not only how.
    """

    keys: Mapping[str, Any]
    words: str
    alters: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The change in words, and the flags that make it.

        >>> Change({"batch": 1, "lora_targets": ("q_proj", "v_proj")}, "less").text
        'less (--batch 1 --lora-targets q_proj,v_proj)'
        """
        return f"{self.words} ({' '.join(_flag(key, value) for key, value in self.keys.items())})"


Ladder = tuple[Change, ...]
"""Changes of one kind, the smallest first: the first that is enough is the one to make."""


def merged(changes: Ladder) -> Change:
    """Several changes at once."""
    return Change(
        {key: value for change in changes for key, value in change.keys.items()},
        ", ".join(change.words for change in changes),
        tuple(dict.fromkeys(key for change in changes for key in change.alters)),
    )


def halved(n: int) -> list[int]:
    """The parts into which a number can be cut: 2, 4, ... up to it.

    >>> halved(9)
    [2, 4, 8]
    """
    return [1 << i for i in range(1, n.bit_length())]


def _flag(key: str, value: Any) -> str:
    name = f"--{key.replace('_', '-')}"
    if value is True:
        return name
    return f"{name} {','.join(value) if isinstance(value, tuple) else value}"
