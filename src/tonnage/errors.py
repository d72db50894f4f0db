"""Every error a caller can act on.

TonnageError
├── InputError             the caller's flag, file or config is wrong     exit 2
│   └── ConfigError        one or several keys of a model's config
├── UnsupportedError       understood, and refused rather than guessed    exit 3
└── SourceError            a file or the network failed                   exit 4

"Does not fit" is a result, not an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final


class TonnageError(Exception):
    """One line for a person, and the same as data for a program.

    Args:
        message: what is wrong, in one sentence without a full stop.
        key: the flag, workload key or config key at fault.
        value: the value that was given for it.
        file: where it was read.
        hint: what to do about it.
        nearest: known names close to the one that was given.
    """

    category: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 2

    def __init__(
        self,
        message: str,
        *,
        key: str | None = None,
        value: object = None,
        file: str | None = None,
        hint: str | None = None,
        nearest: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.key = key
        self.value = value
        self.file = file
        self.hint = hint
        self.nearest = tuple(nearest)

    def __str__(self) -> str:
        text = self.message
        if self.file is not None and self.file not in text:
            text += f" (in {self.file})"
        if self.hint:
            text += f"; {self.hint}"
        if self.nearest:
            text += f"; did you mean {', '.join(self.nearest)}?"
        return _clean(text)

    def as_dict(self) -> dict[str, object]:
        """The error object of the JSON contract."""
        value = self.value
        # JSON has no word for a float that is not finite, and numbers beyond 2^53 are lost on its readers.
        plain = (
            value is None or isinstance(value, str | bool) or (isinstance(value, int | float) and abs(value) < 2**53)
        )
        if not plain:
            value = repr(value)[:200]
        return {
            "category": self.category,
            "key": self.key,
            "value": value,
            "file": self.file,
            "message": _clean(self.message),
            "hint": self.hint,
            "nearest": list(self.nearest),
        }


class InputError(TonnageError):
    """The caller's flag, file or config is wrong."""

    category = "input"
    exit_code = 2


class ConfigError(InputError):
    """Keys of a model's config are missing, mistyped, contradictory or not understood."""

    category = "config"


class UnsupportedError(TonnageError):
    """Understood, and refused rather than guessed."""

    category = "unsupported"
    exit_code = 3


class SourceError(TonnageError):
    """A file or the network failed."""

    category = "source"
    exit_code = 4


KINDS: Final = {kind.category: kind for kind in (InputError, ConfigError, UnsupportedError, SourceError)}


def raised(told: Mapping[str, Any]) -> TonnageError:
    """The error that ``as_dict`` wrote down.

    >>> raised(InputError("no such model", key="model", hint="look").as_dict())
    InputError('no such model')
    """
    kind = KINDS.get(str(told.get("category")), InputError)
    return kind(
        str(told["message"]), key=told.get("key"), value=told.get("value"), file=told.get("file"),
        hint=told.get("hint"), nearest=told.get("nearest") or (),
    )  # fmt: skip


def _clean(text: str) -> str:
    """One line without control characters, which a terminal would obey; a word beyond reason is cut.

    >>> _clean("no such\\x1b[31m model")
    'no such?[31m model'
    """
    words = (word if len(word) <= 300 else word[:297] + "..." for word in text.split())
    return "".join(c if c.isprintable() else "?" for c in " ".join(words))


def nearest(text: str, names: Iterable[str], *, most: int = 3) -> tuple[str, ...]:
    """Known names that look like ``text``, closest first.

    >>> nearest("lama-3.1-8b", ["llama-3.1-8b", "gpt2"])
    ('llama-3.1-8b',)
    """
    # Imported late: only an error pays for it.
    from difflib import get_close_matches

    pool = list(dict.fromkeys(names))
    close = get_close_matches(text.lower(), pool, n=most, cutoff=0.6)
    if not close:
        close = [n for n in pool if text.lower() in n.lower()][:most]
    return tuple(close)
