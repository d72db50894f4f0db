"""A step that trains an actor and its critic, played to an allocator.

Reference: https://github.com/huggingface/trl/blob/v1.12.0/trl/experimental/ppo/ppo_trainer.py (``train``: what its
names hold, and where it empties the cache)
"""

from __future__ import annotations

from typing import cast

from tonnage.allocator.blocks import Block
from tonnage.allocator.caching import Allocator
from tonnage.arch.tape import Storage
from tonnage.estimate.actor_critic import CRITIC, ActorCritic
from tonnage.estimate.loading import Loading
from tonnage.estimate.player import Player
from tonnage.estimate.player_joint import JointPlayer
from tonnage.estimate.playing import Joints, Own, Shared
from tonnage.estimate.resident import resident

Left = tuple[list[tuple[Own, Joints]], list[Shared]]


class _Critic(Player):
    """The critic's own passes, whose gradient is there as long as what it is of."""

    hands = True
    given: Block

    def begun(self, seed: Storage) -> Block:
        """What the actor's loss has left."""
        return self.given


class CriticPlayer(JointPlayer):
    """Plays the step of an actor, and within it the critic's."""

    hands = True

    def __init__(self, step: ActorCritic, allocator: Allocator, loading: Loading | None = None) -> None:
        super().__init__(step, allocator, loading)
        self.critic = _Critic(step.critic, allocator)
        self.waiting: Left = [], []
        # What the pass before handed out, and its shares of words.
        self.before: list[Shared] = []
        self.shares: list[Block] = []

    def load(self) -> None:
        """What the actor's step has, and the critic."""
        super().load()
        for n in resident(self.critic.run):
            if n:
                self.take(n)

    def forward(self) -> Left:
        """Through the critic, then the actor, whose names of the pass before are there until both are through."""
        self.before, self.handed = self.handed, []
        self.lend(self.critic)
        self.critic.fresh = self.fresh
        self.waiting = self.critic.forward()
        seed = self.critic.stages[-1].seed
        assert seed is not None
        self.critic.given = self.take(seed.nbytes)
        self.back(self.critic, CRITIC)
        return super().forward()

    def pause(self, start: int, own: Own, joints: Joints, casts: list[Block]) -> int:
        """Both have returned: what the critic handed out is gone, and names of the pass before."""
        start = super().pause(start, own, joints, casts)
        self.end("head")
        for held in (*self.critic.handed, *self.before):
            self.drop(held)
        self.free(self.outputs)
        self.critic.handed, self.before, self.outputs = [], [], []
        self.begin()
        return start

    def backward(self, left: list[tuple[Own, Joints]], streams: list[Shared]) -> None:
        """Through the actor, then the critic; then what is told of the pass."""
        super().backward(left, streams)
        self.lend(self.critic)
        self.critic.backward(*self.waiting)
        self.back(self.critic, CRITIC)
        if self.fresh:
            self.tell()

    def let_go(self) -> None:
        """The caller names the output through the step."""

    def empty(self, where: str) -> None:
        """The trainer's own points are elsewhere."""

    def tell(self) -> None:
        """Shares of words, and their products with logits; then the losses' names go."""
        n = cast(ActorCritic, self.run).table().requested
        self.begin()
        made = [self.take(n) for _ in range(2)]
        self.end("statistics")
        self.free([*self.shares, *made[1:], *self.loss, *self.critic.loss])
        self.shares, self.loss, self.critic.loss = made[:1], [], []

    def optimize(self, *, first: bool) -> None:
        """The step of both, behind which all names go and the cache is given back."""
        outputs, self.outputs = self.outputs, []
        super().optimize(first=first)
        self.tell()
        self.free([*self.shares, *outputs])
        for held in self.handed:
            self.drop(held)
        self.shares, self.handed = [], []
        self.allocator.empty_cache()
