"""What comes before the update of a policy: it writes completions, and these are scored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from tonnage.estimate.moments import Moment
from tonnage.estimate.outputs import KEPT
from tonnage.memory.accounts import blocks
from tonnage.record import Record
from tonnage.timeline import Level

if TYPE_CHECKING:
    from tonnage.estimate.serving import Run
    from tonnage.estimate.training import Step
    from tonnage.memory.ahead import Ahead

LONGEST: Final = 40_000
"""Layers by tokens: one to two seconds of the allocator's."""
OWN: Final = ("weights", "buffers", "workspace")
"""Of a run that serves: what the step has already."""


class Rollout(Record):
    """The phases before the update.

    Args:
        run: writes completions with the model's own code; None where an engine does.
        engine: what the engine beside takes. [byte]
        sleeps: it gives that back after writing.
        words: where that comes from.
        cache: what is cached, in words.
        turns: how often as many sequences are written as are at once.
        table: the logits of every word at one token of these sequences, where they stay until the next rollout's are
            there. [byte]
        written: tokens of a sequence that are written.
        full: of the cache, when all is written. [byte]
        empties: the allocator's cache is given back around the passes that score, and after the update.
        scoring: ids, masks and labels that the passes over what was written take. [byte]
        readings: those passes by name.
        first: it is made before the first pass of a step, of which no gradients are there yet.
    """

    run: Run | None = None
    engine: int = 0
    sleeps: bool = False
    words: str = ""
    cache: str = ""
    turns: int = 1
    table: int = 0
    written: int = 0
    full: Level = Level()
    empties: bool = False
    scoring: Level = Level()
    readings: tuple[tuple[str, Ahead], ...] = ()
    first: bool = False

    @property
    def long(self) -> bool:
        """Whether so many tokens go through so many layers that it is played on demand alone."""
        if self.run is None:
            return False
        s = self.run.session
        return self.turns * (s.context - s.prompt) * len(self.run.model.decoder.layers) > LONGEST

    @property
    def joined(self) -> Level:
        """The logits of all tokens that are written at once, as one tensor."""
        n = self.table * self.written
        return Level(n, blocks(n))

    @property
    def scores(self) -> Level:
        """Those of the whole rollout, as one tensor."""
        n = self.turns * self.table * self.written
        return Level(n, blocks(n))


def phases(step: Step, rollout: Rollout) -> Iterator[Moment]:
    """The instants before the update; what they take is gone after each."""
    engine = Level(rollout.engine, rollout.engine)
    # What is made before the first pass of a step finds no gradients of earlier ones.
    fresh = rollout.first and "gradients before" in step.held and not step.recipe.keep_gradients
    if fresh:
        step.drop("gradients before")
    if rollout.sleeps:
        step.take("engine", "other:engine", "engine", engine)
    if rollout.run is not None:
        yield from _written(step, rollout.run, rollout)
        if rollout.table:
            yield from _joined(step, rollout)
    elif rollout.engine:
        yield Moment("generation", step.now)
    if rollout.sleeps:
        step.drop("engine")
    step.take("scoring", "inputs", "completions that are scored", rollout.scoring)
    for name, reading in rollout.readings:
        yield from step.reading(name, reading)
    step.drop("scoring")
    if fresh:
        step.take("gradients before", "gradients", "of earlier passes", step.grown)


def _joined(step: Step, rollout: Rollout) -> Iterator[Moment]:
    """Logits are joined: those of every token that was written last, then those of all sequences."""
    table = Level(rollout.table, blocks(rollout.table))
    step.take("joined", "logits", f"new {KEPT}", rollout.joined.times(rollout.turns))
    step.take("joining", "logits", f"new {KEPT}, while they are joined", table.times(rollout.written))
    step.take("full cache", "kv_cache", "generation: cache", rollout.full)
    yield Moment("generation: scores", step.now)
    for key in ("joining", "full cache"):
        step.drop(key)
    step.take("joining", "logits", f"new {KEPT}, while they are joined", rollout.scores)
    yield Moment("generation: joined", step.now)
    step.drop("joining")
    step.drop("joined")
    if step.recipe.first_step:
        step.take("scores", "logits", KEPT, rollout.scores)


def _written(step: Step, run: Run, rollout: Rollout) -> Iterator[Moment]:
    """The largest instant of a prefill and of decoding, above what is resident in training."""
    earlier, table = rollout.joined.times(rollout.turns - 1), Level(rollout.table, blocks(rollout.table))
    # Sequences that were written before have theirs joined; of the last token there are none while it is read.
    for phase, there in (("prefill", earlier), ("decode", earlier + table.times(rollout.written - 1))):
        found = [m for m in run.moments() if m.name.startswith(phase)]
        if not found:
            continue
        best = max(found, key=lambda m: m.level.allocated).name
        moment = next(m for m in run.moments() if m.name == best)
        step.take("new scores", "logits", f"new {KEPT}", there)
        taken = ["new scores"]
        for key, held in run.held.items():
            if held.count and not key.startswith(OWN):
                own = f"generation {key}"
                step.take(own, held.name, f"generation: {held.what}", held.unit.times(held.count), held.storages)
                taken.append(own)
        yield Moment(f"generation: {best}", step.now + (moment.level - run.now), moment.span)
        for own in taken:
            step.drop_all(own)
