"""What comes before the update of a policy: it writes completions, and these are scored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tonnage.estimate.moments import Moment
from tonnage.record import Record
from tonnage.timeline import Level

if TYPE_CHECKING:
    from tonnage.estimate.serving import Run
    from tonnage.estimate.training import Step
    from tonnage.memory.ahead import Ahead

OWN = ("weights", "buffers", "workspace")
"""Of a run that serves: what the step has already."""


class Rollout(Record):
    """The phases before the update.

    Args:
        run: writes completions with the model's own code; None where an engine does.
        casts: autocast's copies of the weights while it does. [byte]
        engine: what the engine beside takes. [byte]
        sleeps: it gives that back after writing.
        words: where that comes from.
        cache: what is cached, in words.
        scoring: ids, masks and labels that the passes over what was written take. [byte]
        readings: those passes by name.
    """

    run: Run | None = None
    casts: Level = Level()
    engine: int = 0
    sleeps: bool = False
    words: str = ""
    cache: str = ""
    scoring: Level = Level()
    readings: tuple[tuple[str, Ahead], ...] = ()


def phases(step: Step, rollout: Rollout) -> Iterator[Moment]:
    """The instants before the update; what they take is gone after each."""
    engine = Level(rollout.engine, rollout.engine)
    if rollout.sleeps:
        step.take("engine", "other:engine", "engine", engine)
    if rollout.run is not None:
        yield from _written(step, rollout.run, rollout.casts)
    elif rollout.engine:
        yield Moment("generation", step.now)
    if rollout.sleeps:
        step.drop("engine")
    step.take("scoring", "inputs", "completions that are scored", rollout.scoring)
    for name, reading in rollout.readings:
        yield from step.reading(name, reading)
    step.drop("scoring")


def _written(step: Step, run: Run, casts: Level) -> Iterator[Moment]:
    """The largest instant of a prefill and of decoding, above what is resident in training."""
    step.take("generation casts", "activations", "autocast's copies of weights", casts)
    for phase in ("prefill", "decode"):
        found = [m for m in run.moments() if m.name.startswith(phase)]
        if not found:
            continue
        best = max(found, key=lambda m: m.level.allocated).name
        moment = next(m for m in run.moments() if m.name == best)
        taken = []
        for key, held in run.held.items():
            if held.count and not key.startswith(OWN):
                own = f"generation {key}"
                step.take(own, held.name, f"generation: {held.what}", held.unit.times(held.count), held.storages)
                taken.append(own)
        yield Moment(f"generation: {best}", step.now + (moment.level - run.now), moment.span)
        for own in taken:
            step.drop_all(own)
    step.drop("generation casts")
