"""One device's share of a training step: its instants, and what it holds at the largest of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.estimate.lines import lines, reserves
from tonnage.estimate.loaded import moments
from tonnage.estimate.moments import instants, largest
from tonnage.estimate.origins import origins
from tonnage.estimate.recipe import Recipe
from tonnage.estimate.summary import caching
from tonnage.estimate.trained import reverses
from tonnage.estimate.training import Step
from tonnage.evidence import DERIVED
from tonnage.stacks import Stack
from tonnage.timeline import Component, Rank, exact, ranged

if TYPE_CHECKING:
    from tonnage.estimate.loading import Loading
    from tonnage.estimate.stream import Replay

OFFLOAD: Final = (
    "https://github.com/huggingface/trl/blob/v1.16.0/trl/models/activation_offloading.py (OffloadActivations); "
    "https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/core/CachingHostAllocator.h (PowerOf2Ceil)"
)


def ranked(
    step: Step, stack: Stack, device: Device | None, loading: Loading | None, replay: Replay | None = None
) -> Rank:
    """What the rank holds at its peak, and its instants: by the replay through the allocator where there is one."""
    static = step.static().allocated if replay is None else replay.static
    found = instants(moments(step, loading)) if replay is None else replay.instants
    peak, runner_up = largest(found)
    # The walk is made once more, up to the largest instant, to see what is alive there.
    moment = next(m for m in moments(step, loading) if m.name == peak.name)
    components = lines(moment, step.held.values(), origins(step, stack))
    if step.recipe.scales:
        # No trace has confirmed what its kernels take.
        components = [c.but(trust=DERIVED) if c.name == "activations" else c for c in components]
    if step.recipe.compiled is not None:
        from tonnage.estimate.compiling import widened

        components = widened(components, step, lambda recipe: step_of(step.model, recipe))
    if step.passes.copied:
        # Imported late: few weights are of 8 bit.
        from tonnage.estimate.eight_bit import outliers

        components.append(outliers(step.passes.copied))
    more = None if stack.spread is None else stack.spread(step.model, step.recipe.batch * step.recipe.tokens)
    if more is not None:
        components.append(ranged("other:attention", 0, 0, more[1], more[0], stack.reference, tier="allocated"))
    components += reserves(moment.level.allocated, static, caching=caching(device), device=device)
    o = step.recipe.optimizer
    offloaded: list[Component] = []
    if step.recipe.hosts or step.staged or step.recipe.offloads:
        # Imported late: most steps save on the device.
        from tonnage.estimate.pinned import pinned

        moved = list(pinned(step))
        words = f"saved activations, pinned: {len(moved)} tensors, each rounded up to a power of two"
        host = sum(1 << (n - 1).bit_length() for n in moved)
        offloaded.append(exact("activations", host, words, OFFLOAD, tier="host", trust=DERIVED))
    held = step.paged.requested
    paged = [exact("optimizer_state", held, f"{o.name}: {o.why}", o.source, tier="host")] if held else []
    rank = Rank(
        rank="pp0",
        multiplicity=1,
        static_bytes=static,
        peak=peak,
        runner_up=runner_up,
        components=(*(components if replay is None else replay.tiers(components)), *paged, *offloaded),
        instants=found,
    )
    if device is None or device.calibration is None:
        return rank
    # Imported late: few devices were measured.
    from tonnage.estimate.calibrated import calibrated

    return calibrated(rank, device)


def step_of(model: Model, recipe: Recipe) -> Step:
    """The step: of one pass, or of several."""
    if len(model.stacks) > 1:
        # Imported late: most models have one stack.
        from tonnage.estimate.paired import PairedStep

        return PairedStep(model, recipe)
    if reverses(model):
        # Imported late: most layers keep what they are given.
        from tonnage.estimate.reversible import MirroredStep

        return MirroredStep(model, recipe)
    if recipe.columns == 1 and recipe.critic is None:
        return Step(model, recipe)
    from tonnage.estimate.columns import several

    return several(model, recipe)
