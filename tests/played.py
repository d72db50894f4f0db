"""An allocator without a cache, and two steps played to it."""

from __future__ import annotations

from tonnage.allocator.device import Device
from tonnage.estimate.player import Player
from tonnage.estimate.training import Step


class Piece(list[int]):
    """A block, and what was asked for."""

    requested: int


class Plain:
    """An allocator that hands out blocks of 512 B from an endless memory."""

    def __init__(self) -> None:
        self.allocated = self.peak_allocated = self.reserved = self.peak_reserved = 0
        self.live: set[int] = set()
        self.device = Device()

    def malloc(self, size: int, stream: int = 0) -> Piece:
        block = Piece([-(-size // 512) * 512])
        block.requested = size
        self.live.add(id(block))
        self.allocated += block[0]
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def empty_cache(self) -> None:
        """There is none."""

    def free(self, block: Piece) -> None:
        self.live.remove(id(block))
        self.allocated -= block[0]


def play(step: Step) -> tuple[Player, Plain]:
    plain = Plain()
    player = Player(step, plain)  # type: ignore[arg-type]
    player.load()
    player.step(first=True)
    player.instants.clear()
    player.step(first=False)
    return player, plain
