"""Releases of what serves and trains: which are modelled, and what changed with which."""

from __future__ import annotations

from typing import TypeVar

from tonnage.errors import InputError, UnsupportedError
from tonnage.record import Record

Version = tuple[int, int]
T = TypeVar("T")
Since = tuple[tuple[Version, T], ...]
"""What holds from which release on, newest first."""


class Releases(Record):
    """The releases that a record models.

    Args:
        name: of the software.
        newest: the one that is modelled as it stands.
        oldest: the first whose differences are known.
        last: the last minor release of every older major one.
    """

    name: str
    newest: Version
    oldest: Version
    last: dict[int, int]

    def read(self, text: str | None, *, key: str) -> tuple[Version, str | None]:
        """The release that a version text means, and a caveat where it is newer than what is known.

        Raises:
            InputError: no version.
            UnsupportedError: older than what is modelled.
        """
        if text is None:
            return self.newest, None
        parts = text.removeprefix("v").split(".")
        whole_parts = all(part.isdigit() for part in parts[:2]) and all(part[:1].isalnum() for part in parts[2:])
        if not 1 <= len(parts) <= 5 or not whole_parts:
            raise InputError(
                f"not a version: {text!r}", key=key, value=text, hint=f"write for example {shown(self.newest)}"
            )
        major = int(parts[0])
        whole = {self.newest[0]: self.newest[1], **self.last}
        minor = int(parts[1]) if len(parts) > 1 else whole.get(major, 0)
        if (major, minor) < self.oldest:
            raise UnsupportedError(
                f"{key} = {text}: {self.name} before {shown(self.oldest)} is not modelled", key=key, value=text,
                hint=f"modelled: {shown(self.oldest)} to {shown(self.newest)}",
            )  # fmt: skip
        newer = (major, minor) > self.newest
        caveat = f"{self.name} {text} is newer than {shown(self.newest)}, as which it is answered" if newer else None
        return (major, minor), caveat


def shown(version: Version) -> str:
    """A version as people write it.

    >>> shown((5, 23))
    '5.23'
    """
    return ".".join(map(str, version))


def since(version: Version, changes: Since[T]) -> T:
    """What holds at a release.

    >>> since((4, 57), (((5, 0), "new"), ((0, 0), "old")))
    'old'
    """
    return next(value for start, value in changes if version >= start)
