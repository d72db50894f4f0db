"""Bytes of a weights file at an offset, and which files a model's weights are."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Protocol

from tonnage.errors import InputError, SourceError


class Opened(Protocol):
    """A file that is read at offsets, wherever it lies."""

    path: str
    name: str
    size: int

    def read(self, at: int, length: int) -> bytes:
        """``length`` bytes from offset ``at``; both lie in the file."""
        ...

    def wrong(self, what: str, at: int | None = None) -> InputError:
        """The error for what the file holds."""
        ...


class Local:
    """A file of this machine.

    Args:
        file: open for reading.
        path: as the user named it.
        size: of the file. [byte]
    """

    def __init__(self, file: BinaryIO, path: str, size: int) -> None:
        self._file = file
        self.path = path
        self.name = os.path.basename(path)
        self.size = size

    def read(self, at: int, length: int) -> bytes:
        """``length`` bytes from offset ``at``."""
        try:
            self._file.seek(at)
            data = self._file.read(length)
        except OSError as e:
            raise unreadable(self.path, e) from None
        if len(data) != length:
            raise self.wrong(f"truncated: {length:,} bytes expected, {len(data):,} found", at)
        return data

    def wrong(self, what: str, at: int | None = None) -> InputError:
        """The error for what the file holds."""
        return wrong(self.path, what, at)


def wrong(path: str, what: str, at: int | None = None) -> InputError:
    """The error for what a file holds, with the offset."""
    return InputError(what if at is None else f"{what} at byte {at:,}", key="model", file=path)


def unreadable(path: str, error: OSError) -> SourceError:
    """The error for a file that cannot be read."""
    return SourceError(f"cannot read {path}: {error.strerror or error}", key="model", value=path, file=path)


@contextmanager
def opened(path: str) -> Iterator[Local]:
    """A file of this machine, open for reading.

    Raises:
        SourceError: it is not there, no regular file, or not readable.
    """
    try:
        # A pipe or a device would block or never end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise SourceError(f"{path} is no regular file", key="model", value=path, file=path)
        file = open(path, "rb")  # noqa: SIM115
    except OSError as e:
        raise unreadable(path, e) from None
    except ValueError:
        raise SourceError("the path holds a null byte", key="model", value=repr(path)) from None
    with file:
        yield Local(file, path, os.fstat(file.fileno()).st_size)
