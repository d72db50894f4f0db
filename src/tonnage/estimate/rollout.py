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

SCORES = "logits of all words at every token that is written"
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
        scores: the logits of every word at every token that is written, which stay until the next are there. [byte]
        joining: more of them, while they are joined. [byte]
        full: of the cache, when all is written. [byte]
        scoring: ids, masks and labels that the passes over what was written take. [byte]
        readings: those passes by name.
        first: it is made before the first pass of a step, of which no gradients are there yet.
    """

    run: Run | None = None
    casts: Level = Level()
    engine: int = 0
    sleeps: bool = False
    words: str = ""
    cache: str = ""
    scores: Level = Level()
    joining: Level = Level()
    full: Level = Level()
    scoring: Level = Level()
    readings: tuple[tuple[str, Ahead], ...] = ()
    first: bool = False


def phases(step: Step, rollout: Rollout) -> Iterator[Moment]:
    """The instants before the update; what they take is gone after each."""
    engine = Level(rollout.engine, rollout.engine)
    # What is made before the first pass of a step finds no gradients of earlier ones.
    fresh = rollout.first and "gradients before" in step.held and not step.recipe.keep_gradients
    if fresh:
        step.drop("gradients before")
    if not step.recipe.first_step:
        step.take("scores", "logits", SCORES, rollout.scores)
    if rollout.sleeps:
        step.take("engine", "other:engine", "engine", engine)
    if rollout.run is not None:
        yield from _written(step, rollout.run, rollout)
        if rollout.scores.allocated:
            step.take("new scores", "logits", f"new {SCORES}", rollout.scores)
            step.take("joining", "logits", f"new {SCORES}, joined", rollout.joining)
            step.take("full cache", "kv_cache", "generation: cache", rollout.full)
            yield Moment("generation: scores", step.now)
            step.drop("joining")
            step.drop("full cache")
            step.drop("new scores")
            if step.recipe.first_step:
                step.take("scores", "logits", SCORES, rollout.scores)
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


def _written(step: Step, run: Run, rollout: Rollout) -> Iterator[Moment]:
    """The largest instant of a prefill and of decoding, above what is resident in training."""
    step.take("generation casts", "activations", "autocast's copies of weights", rollout.casts)
    # Those of sequences that were written before are there while the last are begun.
    earlier = rollout.scores - rollout.joining
    for phase, there in (("prefill", earlier), ("decode", rollout.scores)):
        found = [m for m in run.moments() if m.name.startswith(phase)]
        if not found:
            continue
        best = max(found, key=lambda m: m.level.allocated).name
        moment = next(m for m in run.moments() if m.name == best)
        step.take("new scores", "logits", f"new {SCORES}", there)
        taken = ["new scores"]
        for key, held in run.held.items():
            if held.count and not key.startswith(OWN):
                own = f"generation {key}"
                step.take(own, held.name, f"generation: {held.what}", held.unit.times(held.count), held.storages)
                taken.append(own)
        yield Moment(f"generation: {best}", step.now + (moment.level - run.now), moment.span)
        for own in taken:
            step.drop_all(own)
    step.drop("generation casts")
