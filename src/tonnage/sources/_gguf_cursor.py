"""Reading a GGUF header front to back: every length is held against what the file has left before anything is built."""

from __future__ import annotations

from struct import Struct
from typing import Any, Final

from tonnage.errors import InputError
from tonnage.sources._files import Opened

LARGEST: Final = 50_000_000
"""Of a whole header. [byte]"""
LONGEST_TEXT: Final = 10_000_000
CHUNK: Final = 2**20
_COUNT: Final = Struct("<Q")


class Cursor:
    """Where reading stands; chunks are added to what has been read, never read again.

    Args:
        file: open.
    """

    def __init__(self, file: Opened) -> None:
        self.file = file
        self.at = 0
        self.data = bytearray()

    def fail(self, what: str, at: int | None = None) -> InputError:
        """What is wrong, with its offset."""
        return self.file.wrong(what, self.at if at is None else at)

    def need(self, length: int, what: str) -> None:
        """Have ``length`` bytes from here in hand."""
        end = self.at + length
        if end <= len(self.data):
            return
        if end > self.file.size:
            raise self.fail(f"truncated: {what} takes {length:,} bytes, the file ends at {self.file.size:,},")
        if end > LARGEST:
            raise self.fail(f"{what} takes {length:,} bytes: a header beyond {LARGEST:,}")
        start = len(self.data)
        self.data += self.file.read(start, min(max(CHUNK, end - start), self.file.size - start))

    def take(self, form: Struct, what: str) -> Any:
        """One number."""
        self.need(form.size, what)
        value = form.unpack_from(self.data, self.at)[0]
        self.at += form.size
        return value

    def length(self, most: int, what: str, smallest: int = 1) -> int:
        """A count, of things that take at least ``smallest`` bytes each."""
        start = self.at
        value: int = self.take(_COUNT, f"the count of {what}")
        if value > most:
            raise self.fail(f"{value:,} {what}: more than {most:,}", start)
        if value * smallest > self.file.size - self.at:
            raise self.fail(f"truncated: {value:,} {what} in the {self.file.size - self.at:,} bytes that follow", start)
        return value

    def text(self, what: str, most: int = LONGEST_TEXT) -> str:
        """A text, kept."""
        start = self.at
        length = self.length(most, f"bytes of {what}")
        self.need(length, what)
        raw = bytes(self.data[self.at : self.at + length])
        self.at += length
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self.fail(f"not UTF-8: {what}", start) from None

    def pass_texts(self, count: int, what: str) -> None:
        """Pass over texts without building them."""
        at, data, number = self.at, self.data, int.from_bytes
        end = len(data)
        for _ in range(count):
            after = at + 8
            if after <= end:
                after += number(data[at : at + 8], "little")
            if after > end:
                # Into the next chunk: slowly, with every check.
                self.at = at
                length = self.length(LONGEST_TEXT, f"bytes of a text in {what}")
                self.need(length, f"a text in {what}")
                after, end = self.at + length, len(data)
            at = after
        self.at = at
