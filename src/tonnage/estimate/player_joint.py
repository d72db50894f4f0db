"""A step of two passes, each of which is played by a player of its own."""

from __future__ import annotations

from tonnage.allocator.caching import Allocator
from tonnage.estimate.actor_critic import ActorCritic
from tonnage.estimate.cached import Cached
from tonnage.estimate.columns import Columns
from tonnage.estimate.loading import Loading
from tonnage.estimate.player import Player
from tonnage.estimate.training import Step
from tonnage.timeline import Instant


class JointPlayer(Player):
    """Lends its threads to another player, and takes what that one leaves."""

    def lend(self, other: Player) -> None:
        """The other one runs now."""
        other.threads, other.due = self.threads, self.due

    def back(self, other: Player, name: str) -> None:
        """It has run: its instants are told by this name, none where that is empty."""
        self.threads, self.due = other.threads, other.due
        self.instants += [Instant(f"{name}: {i.name}", i.bytes) for i in other.instants if name]
        self.grads += other.grads
        other.instants, other.grads = [], []


def joint(step: Step, allocator: Allocator, loading: Loading | None) -> Player:
    """What plays a step of more than one pass."""
    # Imported late: one of them plays.
    if isinstance(step, ActorCritic):
        from tonnage.estimate.player_critic import CriticPlayer

        return CriticPlayer(step, allocator, loading)
    from tonnage.estimate.player_columns import CachedPlayer, ColumnsPlayer

    if isinstance(step, Cached):
        return CachedPlayer(step, allocator, loading)
    assert isinstance(step, Columns)
    return ColumnsPlayer(step, allocator, loading)
