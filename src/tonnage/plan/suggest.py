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

    def estimate(change: Change) -> Result | None:
        try:
            return _answer(model, w, change, device, in_use, beside)
        except TonnageError:
            return None

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
    single = [found for ladder in kept if (found := _first(ladder, estimate)) is not None]
    if single:
        return max(single, key=lambda found: found.device_bytes)
    most = tuple([ladder[-1] for ladder in kept if ladder and estimate(ladder[-1]) is not None])
    if len(most) > 1 and (found := _reduced(most, estimate)) is not None:
        return found
    for beside in ((), most):
        for ladder in altered:
            wishes = [(*beside, change) for change in ladder]
            found = _first(tuple([merged(wish) for wish in wishes]), estimate)
            if found is not None:
                return _reduced(next(wish for wish in wishes if merged(wish).text == found.text), estimate)
    return None


def _reduced(left: Ladder, estimate: Estimate) -> Suggestion | None:
    """Changes that are enough together, without those that they can do without."""
    found = _first((merged(left),), estimate)
    for change in left if found is not None else ():
        without = tuple([one for one in left if one is not change])
        fewer = _first((merged(without),), estimate) if without else None
        left, found = (left, found) if fewer is None else (without, fewer)
    return found


def _first(ladder: Ladder, estimate: Estimate) -> Suggestion | None:
    """The first change that is enough; none is where the last is answered and is not."""
    last = estimate(ladder[-1]) if len(ladder) > 1 else None
    if last is not None and not _fits(last):
        return None
    for change in ladder:
        again = estimate(change)
        if _fits(again):
            assert again is not None
            assert again.fit is not None
            return Suggestion(
                change=change.keys, alters=change.alters, verdict=again.fit.verdict,
                device_bytes=again.fullest.tier("device"), text=change.text,
            )  # fmt: skip
    return None


def _fits(result: Result | None) -> bool:
    return result is not None and result.fit is not None and result.fit.verdict == "fits"
