"""The smallest change that would make a workload fit, estimated again; where none is enough alone, several at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.errors import TonnageError
from tonnage.estimate.result import Result, Suggestion
from tonnage.plan import serving, training
from tonnage.plan.changes import Change, Ladder, merged
from tonnage.workload.serving import Serve
from tonnage.workload.training import Train

NO_CHANGE: Final = "no change of those that are modelled makes it fit, nor do several at once"

Estimate = Callable[[Change], Result | None]
"""The answer to the changed workload; None where it is refused."""


def suggested(
    result: Result,
    model: Model,
    w: Train | Serve,
    device: Device,
    in_use: int,
    beside: Mapping[str, Model] | None = None,
) -> Result:
    """The result with a suggestion, or with a caveat that there is none.

    Changes that alter nothing of what is trained or answered come first, one by one and then together; of single ones
    that which leaves least to spare is the smallest. Of those that alter something the first that is enough is taken:
    they are tried in the order of how much they alter.
    """
    assert result.fit is not None

    known: dict[str, Result | None] = {}

    def estimate(change: Change) -> Result | None:
        if change.text not in known:
            try:
                known[change.text] = _answer(model, w, change, device, in_use, beside)
            except TonnageError:
                known[change.text] = None
        return known[change.text]

    if isinstance(w, Train):
        eager = result.extras.get("attention_kernel") == "eager"
        found = _searched(training.kept(result.workload, eager), training.altered(result.workload), estimate)
    else:
        found = _searched(*serving.ladders(result), estimate)
    if found is None:
        return result.but(caveats=(*result.caveats, NO_CHANGE))
    return result.but(fit=result.fit.but(suggestion=found))


def _answer(
    model: Model, w: Train | Serve, change: Change, device: Device, in_use: int, beside: Mapping[str, Model] | None
) -> Result:
    changed = w.but(**change.keys)
    if isinstance(changed, Train):
        from tonnage.estimate.train import answer as train

        # A change that surely fits needs no replay of the allocator.
        return train(model, changed.but(replay=False), device, in_use=in_use, beside=beside)
    from tonnage.estimate.serve import answer as serve

    return serve(model, changed, device, in_use=in_use, capacity=False)


def _searched(kept: list[Ladder], altered: list[Ladder], estimate: Estimate) -> Suggestion | None:
    """One change that alters nothing, or several such; else one that does, alone or beside the others."""
    single = [_told(found, estimate) for ladder in kept if (found := _first([(c,) for c in ladder], estimate))]
    if single:
        return max(single, key=lambda found: found.device_bytes)
    most = tuple([ladder[-1] for ladder in kept if ladder and estimate(ladder[-1]) is not None])
    wishes = [[most]] if len(most) > 1 else []
    wishes += [[(*beside, change) for change in ladder] for beside in ((), most) for ladder in altered]
    found = next((found for several in wishes if (found := _first(several, estimate))), None)
    return None if found is None else _told(_reduced(found, estimate), estimate)


def _first(wishes: list[Ladder], estimate: Estimate) -> Ladder | None:
    """The first wish, of changes made together, that is enough; none is where the last is answered and is not."""
    last = estimate(merged(wishes[-1])) if wishes else None
    if last is not None and not _fits(last):
        return None
    return next((wish for wish in wishes if _fits(estimate(merged(wish)))), None)


def _reduced(left: Ladder, estimate: Estimate) -> Ladder:
    """Changes that are enough together, without those that they can do without."""
    for change in left:
        without = tuple([one for one in left if one is not change])
        if without and _fits(estimate(merged(without))):
            left = without
    return left


def _told(made: Ladder, estimate: Estimate) -> Suggestion:
    """The changes, and what the answer takes with them."""
    change = merged(made)
    again = estimate(change)
    assert again is not None
    assert again.fit is not None
    return Suggestion(
        change=change.keys, alters=change.alters, verdict=again.fit.verdict, device_bytes=again.fullest.tier("device"),
        text=change.text,
    )  # fmt: skip


def _fits(result: Result | None) -> bool:
    return result is not None and result.fit is not None and result.fit.verdict == "fits"
