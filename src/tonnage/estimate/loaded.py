"""The first instant of all: the load of what is there before the first step, at its highest.

A model that is moved to the device grows tensor by tensor, so that its end is its highest. One that is brought onto the
device by ``from_pretrained`` (``estimate/loading.py``) may have been higher: a first block of the model's size, and
tensors in 16 bit until they are packed.

Leaves out: what is on the host meanwhile (``tonnage params --loading``), and copies that adapters are cast from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from tonnage.estimate.moments import Moment
from tonnage.memory.passes import blocks
from tonnage.timeline import Level

if TYPE_CHECKING:
    from tonnage.estimate.loading import Loading
    from tonnage.estimate.training import Step

LOAD: Final = "load"
LATER: Final = ("state", "workspace")
"""Of what lies there between steps, what the first step brings."""


def moments(step: Step, loading: Loading | None) -> Iterator[Moment]:
    """Every instant in order: the load, and the step's.

    Args:
        step: that follows.
        loading: how the weights come onto the device; None where the model is moved as a whole.
    """
    step.static()
    for key in LATER:
        step.drop_all(key)
    if loading is not None and loading.placed:
        _brought(step, loading)
    yield Moment(LOAD, step.now)
    yield from step.moments()


def _brought(step: Step, loading: Loading) -> None:
    """Stand at the highest moment of the load, where that is not its end."""
    # Imported late: most models are moved as a whole.
    from tonnage.estimate.loading import events, items, tied
    from tonnage.timeline import Free

    sums: dict[str, Level] = {}
    there: dict[int, tuple[str, Level]] = {}
    now, best, alive = 0, 0, sums
    for event in events(items(step, loading), loading, tied(step.model, loading.form)):
        if isinstance(event, Free):
            op, size = there.pop(event.id)
            sums[op] -= size
            now -= size.allocated
            continue
        size = Level(event.size, blocks(event.size))
        there[event.id] = event.op, size
        sums[event.op] = sums.get(event.op, Level()) + size
        now += size.allocated
        if now > best:
            best, alive = now, dict(sums)
    if best > step.now.allocated:
        step.clear()
        for op, size in alive.items():
            step.take(op or LOAD, "other:loading" if op else "weights", op or "loaded so far", size)
