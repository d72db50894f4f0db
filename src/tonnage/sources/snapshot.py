"""A memory snapshot of PyTorch (``torch.cuda.memory._dump_snapshot``): a pickle of plain values, nothing of it run."""

from __future__ import annotations

from typing import Any, Final

from tonnage.errors import UnsupportedError
from tonnage.sources._pickle import Interpreter

MOST: Final = 100_000_000
"""Opcodes: an event takes some 30."""


class Plain(Interpreter):
    """Reads a pickle that holds numbers, texts, lists, tuples and mappings; every name is refused.

    >>> import pickle
    >>> Plain(pickle.dumps({"segments": [(1, 2.5, "a", None, True)]}), "file").run()
    {'segments': [(1, 2.5, 'a', None, True)]}
    """

    key = "recording"
    most = MOST

    def refuse(self, name: str) -> UnsupportedError:
        """A name, which no snapshot holds."""
        return UnsupportedError(
            f"the pickle names {name[:120]!r}, which is in no memory snapshot: nothing of it is run",
            key=self.key, value=name[:120], file=self.file,
            hint="write the file with torch.cuda.memory._dump_snapshot",
        )  # fmt: skip

    def named(self, name: str) -> Any:
        """No name is known."""
        raise self.refuse(name)

    def called(self, function: Any, arguments: Any) -> Any:
        """Nothing can be called: there is no name."""
        raise self.fail("a call")

    def persistent(self, told: Any) -> Any:
        """Nothing lies outside the pickle."""
        raise self.fail("a reference to something outside")
