"""A line that says how far reading has come, where someone looks at a terminal and waits."""

from __future__ import annotations

import sys
from time import monotonic
from types import TracebackType
from typing import Final

AFTER: Final = 0.4
"""What is done sooner needs no line. [s]"""
EVERY: Final = 0.1
"""Between two drawings. [s]"""
WIDTH: Final = 24


class Waiting:
    """Draws one line on standard error, and takes it away at the end.

    >>> line(57, 163)
    'headers  57/163 [########................]'
    """

    def __init__(self) -> None:
        self._since = self._drawn = monotonic()
        self._shown = False

    def __enter__(self) -> Waiting:
        return self

    def __call__(self, done: int, total: int) -> None:
        """So many of so many files are read."""
        now = monotonic()
        if total < 2 or now - self._since < AFTER or (now - self._drawn < EVERY and done < total):
            return
        self._drawn, self._shown = now, True
        sys.stderr.write(f"\r{line(done, total)}")
        sys.stderr.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            # Blanks, since not every terminal knows how to clear a line.
            sys.stderr.write(f"\r{' ' * (len(line(0, 9999)) + 8)}\r")
            sys.stderr.flush()
            self._shown = False


def line(done: int, total: int) -> str:
    """How far it is."""
    filled = WIDTH * done // total
    return f"headers {done:>{len(str(total))}}/{total} [{'#' * filled}{'.' * (WIDTH - filled)}]"
