"""Flat JSON of a hostile size: strings and one level of values are taken from the bytes one at a time.

A header of 100 MB must not become a gigabyte of lists before it is refused, so nothing here builds more than one entry.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

from tonnage.errors import InputError

LONGEST: Final = 2**16
"""Longest name or value that is decoded; longer ones are passed over or refused. [byte]"""

_SPACE: Final = re.compile(rb"[ \t\r\n]*")
# Possessive, so that six million escapes leave nothing to go back to.
_INSIDE: Final = re.compile(rb'[^"\\\x00-\x1f]*+(?:\\[^\x00-\x1f][^"\\\x00-\x1f]*+)*+')
_SCALAR: Final = re.compile(rb"[-+.0-9eE]{1,64}|true|false|null")
_BRACKETS: Final = re.compile(rb'["{}\[\]]')


class Scanner:
    """Where reading stands in the bytes of a JSON object.

    Args:
        data: the JSON.
        file: for messages.
        base: offset of the JSON in the file. [byte]
    """

    def __init__(self, data: bytes, file: str, base: int = 0) -> None:
        self.data = data
        self.file = file
        self.base = base
        self.at = 0

    def fail(self, what: str, at: int | None = None) -> NoReturn:
        """Say what is wrong, with its offset in the file."""
        raise InputError(f"{what} at byte {self.base + (self.at if at is None else at):,}", key="model", file=self.file)

    def space(self) -> None:
        """Pass over white space."""
        found = _SPACE.match(self.data, self.at)
        assert found is not None
        self.at = found.end()

    def peek(self) -> bytes:
        """The next byte that is no white space; empty at the end."""
        self.space()
        return self.data[self.at : self.at + 1]

    def expect(self, byte: bytes) -> None:
        """Pass over one byte that must come next."""
        found = self.peek()
        if found != byte:
            told = f"{found.decode('latin-1')!r}" if found else "the end"
            self.fail(f"not JSON: {byte.decode()!r} expected, {told} found")
        self.at += 1

    def _end_of_string(self) -> int:
        """Offset of the quote that closes the string which starts here."""
        found = _INSIDE.match(self.data, self.at + 1)
        assert found is not None
        at = found.end()
        byte = self.data[at : at + 1]
        if byte != b'"':
            self.fail("not JSON: a control character in a string" if byte else "not JSON: a string without end", at)
        return at

    def string(self, what: str) -> str:
        """A string that is kept."""
        if self.peek() != b'"':
            self.fail(f"not JSON: {what} must be a text")
        start, end = self.at, self._end_of_string()
        if end - start > LONGEST:
            self.fail(f"{what} has {end - start - 1:,} bytes, more than {LONGEST:,}")
        self.at = end + 1
        return self.decoded(start, end + 1)

    def decoded(self, start: int, end: int) -> str:
        """The text of a string with its quotes."""
        raw = self.data[start:end]
        try:
            text: str = json.loads(raw) if b"\\" in raw else raw[1:-1].decode()
            text.encode()
        except UnicodeError:
            self.fail("not UTF-8: a text", start)
        except ValueError:
            self.fail("not JSON: a text with a wrong escape", start)
        return text

    def pass_string(self) -> int:
        """Pass over a string without building it; its length. [byte]"""
        if self.peek() != b'"':
            self.fail("a text is expected")
        start = self.at
        self.at = self._end_of_string() + 1
        return self.at - start - 2

    def value(self, what: str) -> Any:
        """A small object or list, decoded whole."""
        start, depth = self.at, 0
        if self.peek() not in (b"{", b"["):
            self.fail(f"{what} must be an object")
        while True:
            found = _BRACKETS.search(self.data, self.at, min(len(self.data), start + LONGEST))
            if found is None:
                self.fail(f"{what} does not end within {LONGEST:,} bytes", start)
            self.at = found.start()
            byte = found.group()
            if byte == b'"':
                self.at = self._end_of_string()
            depth += (byte in b"{[") - (byte in b"}]")
            self.at += 1
            if depth == 0:
                break
        try:
            return json.loads(self.data[start : self.at])
        except UnicodeDecodeError:
            self.fail(f"not UTF-8: {what}", start)
        except (ValueError, RecursionError) as e:
            self.fail(f"not JSON: {what}: {getattr(e, 'msg', type(e).__name__)}", start)

    def scalar(self) -> None:
        """Pass over a number, true, false or null."""
        self.space()
        found = _SCALAR.match(self.data, self.at)
        if found is None:
            self.fail("not JSON: a value is expected")
        self.at = found.end()

    def more(self) -> bool:
        """Pass over the comma between entries; False at the closing brace."""
        byte = self.peek()
        if byte == b"}":
            self.at += 1
            return False
        self.expect(b",")
        return True

    def opened(self) -> bool:
        """Pass over the opening brace; False where the object is empty."""
        self.expect(b"{")
        if self.peek() == b"}":
            self.at += 1
            return False
        return True

    def finished(self) -> None:
        """Nothing but white space may follow."""
        if self.peek():
            self.fail("not JSON: something follows the object")
