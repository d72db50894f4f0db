"""A training step through the caching allocator: what it would have allocated and reserved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tonnage.allocator.caching import Allocator
from tonnage.allocator.settings import parse
from tonnage.estimate.lines import ALLOCATOR
from tonnage.estimate.loaded import LOAD
from tonnage.estimate.player import Player
from tonnage.estimate.training import Step
from tonnage.evidence import DERIVED
from tonnage.record import Record
from tonnage.timeline import Component, Instant, exact, ranged

if TYPE_CHECKING:
    from tonnage.estimate.loading import Loading

RESERVED: Final = (-0.05, 0.05)
"""Share by which measured peaks of reserved memory may lie below and above the replay.

41 runs of LoRA and QLoRA on a T4 (fitcheck-llm 0.3.1): accuracy/cases/reserved.jsonl, 4.3 % below to 2.8 % above.
"""
BASIS: Final = (
    "the load of the weights and the step's allocations replayed through a model of the caching allocator; 41 measured "
    "runs lay within 5 %"
)


class Replay(Record):
    """What the allocator held in the last step that was played.

    Args:
        static: between the steps. [byte]
        instants: the most that was allocated at each, and before them while the weights came.
        reserved: at most, from the device. [byte]
    """

    static: int
    instants: tuple[Instant, ...]
    reserved: int

    def tiers(self, components: list[Component]) -> list[Component]:
        """The lines of the peak, with what was played in place of what was assumed."""
        allocated = max(i.bytes for i in self.instants)
        kept = [c for c in components if c.name not in ("rounding", "fragmentation")]
        rounding = allocated - sum(c.bytes for c in kept if c.tier in ("requested", "allocated"))
        words = "blocks of 512 B, and remainders up to 1 MiB that are not split off"
        lines = [exact("rounding", rounding, words, ALLOCATOR, tier="allocated", trust=DERIVED)]
        fragments = self.reserved - allocated
        low, high = (round(share * self.reserved) for share in RESERVED)
        around = (max(fragments + low, 0), fragments, fragments + high)
        lines.append(ranged("fragmentation", *around, BASIS, ALLOCATOR, tier="reserved", trust=DERIVED))
        at = next((i for i, c in enumerate(kept) if c.tier == "device"), len(kept))
        return [*kept[:at], *lines, *kept[at:]]


def _player(step: Step, allocator: Allocator, loading: Loading | None) -> Player:
    if step.recipe.critic is not None or step.recipe.columns > 1:
        # Imported late: most steps are of one pass.
        from tonnage.estimate.player_joint import joint

        return joint(step, allocator, loading)
    if not step.taped:
        return Player(step, allocator, loading)
    # Imported late: most passes are told layer by layer.
    from tonnage.estimate.one_tape import TapedPlayer

    return TapedPlayer(step, allocator, loading)


def replayed(step: Step, conf: str | None = None, loading: Loading | None = None) -> Replay:
    """Play a run through an allocator: two steps, since the state of the optimizer is there from the second on.

    Args:
        step: what is run.
        conf: settings of the allocator, as ``PYTORCH_ALLOC_CONF`` has them.
        loading: how the weights came onto the device; None where one was allocated after the other.

    Raises:
        InputError: the settings are none of torch's.

    Leaves out: other work before and between the steps.
    """
    allocator = Allocator(parse(conf) if conf else None)
    player = _player(step, allocator, loading)
    player.begin()
    player.load()
    player.end(LOAD)
    loaded, brought = player.instants.pop(), allocator.peak_reserved
    if not step.recipe.first_step:
        player.step(first=True)
        player.instants.clear()
    static = allocator.allocated
    allocator.peak_reserved = allocator.reserved
    player.step(first=step.recipe.first_step)
    reserved = allocator.peak_reserved
    if loaded.bytes > max(i.bytes for i in player.instants):
        reserved = max(reserved, brought)
    return Replay(static=static, instants=(loaded, *player.instants), reserved=reserved)
