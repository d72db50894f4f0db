"""A training step through the caching allocator: what it would have allocated and reserved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tonnage.allocator.caching import Allocator, OutOfMemory
from tonnage.allocator.device import Device as Memory
from tonnage.allocator.settings import parse
from tonnage.estimate.lines import ALLOCATOR
from tonnage.estimate.loaded import LOAD
from tonnage.estimate.player import Player
from tonnage.estimate.training import Step
from tonnage.evidence import DERIVED
from tonnage.record import Record
from tonnage.timeline import Component, Instant, Rank, exact, ranged

if TYPE_CHECKING:
    from tonnage.devices import Device
    from tonnage.estimate.loading import Loading

RESERVED: Final = (-0.05, 0.05)
"""Share by which measured peaks of reserved memory may lie below and above the replay.

41 runs of LoRA and QLoRA on a T4 (fitcheck-llm 0.3.1): accuracy/cases/reserved.jsonl, 4.3 % below to 2.8 % above.
"""
BASIS: Final = (
    "the load of the weights and the step's allocations replayed through a model of the caching allocator; 41 measured "
    "runs lay within 5 %"
)


class Room(NamedTuple):
    """What the allocator may have of a device: at least, likely and at most. [byte]"""

    low: int
    likely: int
    high: int


def room_of(rank: Rank, device: Device, in_use: int) -> Room:
    """What a device leaves to the allocator, beside what others hold (``in_use``) and what is not the allocator's."""
    beside = [c for c in rank.components if c.tier == "device"]
    low, likely, high = (
        sum(getattr(c, bound) for c in beside) + in_use for bound in ("high_bytes", "bytes", "low_bytes")
    )
    return Room(device.capacity.low - low, device.capacity.bytes - likely, device.capacity.high - high)


class Replay(Record):
    """What the allocator held in the last step that was played.

    Args:
        static: between the steps. [byte]
        instants: the most that was allocated at each, and before them while the weights came.
        reserved: at most, from the device. [byte]
        most: the same of the whole run. [byte]
        bounds: least and most of that, where the device's memory sets them; None for shares of it. [byte]
        retries: how often in that step memory was short, and what was cached went back to the device.
    """

    static: int
    instants: tuple[Instant, ...]
    reserved: int
    most: int
    bounds: tuple[int, int] | None = None
    retries: int = 0

    @property
    def told(self) -> tuple[str, ...]:
        """What of it a person should know."""
        if not self.retries:
            return ()
        times = "once" if self.retries == 1 else f"{self.retries:,} times"
        return (
            f"{times} a step the device has no more, and the allocator gives back what it has cached, which takes "
            "time: --alloc-conf expandable_segments:True, or less in a pass, keeps it from that",
        )

    def tiers(self, components: list[Component]) -> list[Component]:
        """The lines of the peak, with what was played in place of what was assumed."""
        allocated = max(i.bytes for i in self.instants)
        kept = [c for c in components if c.name not in ("rounding", "fragmentation")]
        rounding = allocated - sum(c.bytes for c in kept if c.tier in ("requested", "allocated"))
        words = "blocks of 512 B, and remainders up to 1 MiB that are not split off"
        lines = [exact("rounding", rounding, words, ALLOCATOR, tier="allocated", trust=DERIVED)]
        fragments = self.reserved - allocated
        low, high = self.bounds or (self.reserved + round(share * self.reserved) for share in RESERVED)
        around = (max(low - allocated, 0), fragments, high - allocated)
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


def replayed(step: Step, conf: str | None = None, loading: Loading | None = None, room: Room | None = None) -> Replay:
    """Play a run through an allocator: two steps, since the state of the optimizer is there from the second on.

    An allocator that is short of memory gives back what it has cached before it fails. So where more might be reserved
    than there is, the run is played again within that.

    Args:
        step: what is run.
        conf: settings of the allocator, as ``PYTORCH_ALLOC_CONF`` has them.
        loading: how the weights came onto the device; None where one was allocated after the other.
        room: of the device; None where none is named.

    Raises:
        InputError: the settings are none of torch's.

    Leaves out: other work before and between the steps.
    """
    settings = parse(conf) if conf else None
    free = _run(step, Allocator(settings, Memory()), loading)
    if room is None or free.reserved * (1 + RESERVED[1]) <= room.low:
        return free

    def within(capacity: int) -> Replay | None:
        """The run on a device of that capacity; None where its memory is not enough."""
        if free.most <= capacity:
            return free
        try:
            return _run(step, Allocator(settings, Memory(capacity)), loading)
        except OutOfMemory:
            return None

    # Allocations that are as much larger as those of measured runs might be want as much more of the device.
    if (likely := within(room.likely)) is not None:
        sure = within(round(room.low / (1 + RESERVED[1]))) is not None
        low = round(likely.reserved * (1 + RESERVED[0]))
        most = room.low if sure else max(round(likely.reserved * (1 + RESERVED[1])), room.high + 1)
        return likely.but(bounds=(low, max(most, likely.reserved)))
    if within(round(room.high / (1 + RESERVED[0]))) is None:
        return free
    return free.but(bounds=(room.high, round(free.reserved * (1 + RESERVED[1]))))


def _run(step: Step, allocator: Allocator, loading: Loading | None) -> Replay:
    player = _player(step, allocator, loading)
    player.begin()
    player.load()
    player.end(LOAD)
    loaded, brought = player.instants.pop(), allocator.peak_reserved
    if not step.recipe.first_step:
        player.step(first=True)
        player.instants.clear()
    static, earlier = allocator.allocated, allocator.peak_reserved
    allocator.peak_reserved, retries = allocator.reserved, allocator.retries
    player.step(first=step.recipe.first_step)
    reserved = allocator.peak_reserved
    if loaded.bytes > max(i.bytes for i in player.instants):
        reserved = max(reserved, brought)
    return Replay(
        static=static, instants=(loaded, *player.instants), reserved=reserved,
        most=max(earlier, allocator.peak_reserved), retries=allocator.retries - retries,
    )  # fmt: skip
