"""ExecuTorch's memory planner: which tensors of a program share bytes of one arena.

Read in pytorch/executorch 1.5.1, exir/memory_planning.py (``greedy``, ``pick_shared_obj``): tensors from the largest to
the smallest, each into the first object that is free while it lives, else behind what lives beside it in the first
object with room for that, else into an object of its own. The arena is the sum of the objects.

Tensors of one size are taken in the order of a Python set of objects, that is of their addresses in the exporting
process, which no config tells: ``arenas`` tries several orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

ALIGNMENT: Final = 16
"""What a tensor's bytes are rounded up to (``exir.tensor.ALIGNMENT``). [byte]"""


ORDERS: Final = 5
"""Orders of tensors of one size that are tried."""
_MIX: Final = 2654435761
_SPAN: Final = 1 << 32


class Life(NamedTuple):
    """A tensor of the program.

    Args:
        bytes: what it takes. [byte]
        born, dies: first and last step of the program that has it, both included.
    """

    bytes: int
    born: int
    dies: int


def aligned(size: int) -> int:
    """Bytes of a tensor in the arena. [byte]

    >>> aligned(4), aligned(508)
    (16, 512)
    """
    return -(-size // ALIGNMENT) * ALIGNMENT


def arena(lives: Sequence[Life], turn: int = 0) -> int:
    """Size of the arena. [byte]

    Args:
        lives: the program's tensors in the order of their birth.
        turn: which order of tensors of one size: 0 latest first, others scatter them.

    >>> arena([Life(64, 0, 2), Life(64, 2, 4), Life(32, 3, 5), Life(32, 4, 5)])
    160
    """
    steps = 1 + max((life.dies for life in lives), default=0)
    sizes: list[int] = []
    taken: list[list[int]] = []  # of each object, how far it is taken at each step
    for at in sorted(range(len(lives)), key=lambda i: (lives[i].bytes, _scattered(i, turn)), reverse=True):
        life = lives[at]
        size, alive = aligned(life.bytes), slice(life.born, life.dies + 1)
        tops = [max(each[alive]) for each in taken]
        found = tops.index(0) if 0 in tops else None
        if found is None:
            found = next((i for i, top in enumerate(tops) if top + size <= sizes[i]), None)
        if found is None:
            found = len(sizes)
            sizes.append(size)
            taken.append([0] * steps)
            tops.append(0)
        taken[found][alive] = [tops[found] + size] * (life.dies + 1 - life.born)
    return sum(sizes)


def arenas(lives: Sequence[Life]) -> tuple[int, int, int]:
    """Least, first and most that the arena takes over several orders of tensors of one size. [byte]"""
    found = [arena(lives, turn) for turn in range(ORDERS)]
    return min(found), found[0], max(found)


def _scattered(at: int, turn: int) -> int:
    if not turn:
        return at
    mixed = (at + 1) * (_MIX + 2 * turn) % _SPAN
    return (mixed ^ mixed >> 15) * _MIX % _SPAN
