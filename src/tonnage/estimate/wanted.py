"""What of a training step is settled only where it is asked for, each by code that is imported then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tonnage.arch.forward import AttentionKernel
from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.errors import InputError
from tonnage.estimate.switches import nested
from tonnage.estimate.trained import limited
from tonnage.record import Record
from tonnage.releases import Version, since
from tonnage.stacks import Stack
from tonnage.workload.training import Train

if TYPE_CHECKING:
    from tonnage.arch.sight.pictures import Pictures
    from tonnage.arch.texts import Texts
    from tonnage.estimate.expert_runs import Runs
    from tonnage.estimate.mixers import Mixing
    from tonnage.estimate.savers import Implementations
    from tonnage.memory.recompute import Recompute


class Rows(Record):
    """What a pass is handed.

    Args:
        count: of rows.
        tokens: of each.
        texts: in them; None where each row is one, or answered as one.
        told: what has to be said.
        doubt: what forbids "fits".
    """

    count: int
    tokens: int
    texts: Texts | None = None
    told: tuple[str, ...] = ()
    doubt: tuple[str, ...] = ()


def rows(
    model: Model,
    w: Train,
    stack: Stack,
    version: Version,
    kernel: AttentionKernel,
    batch: int,
    seq: int,
    compute: str,
) -> Rows:
    """The rows of a pass, of one text each or of several; ``compute`` is the format that attention computes in.

    Raises:
        UnsupportedError: packed rows are not modelled so.
        InputError: texts of packed rows without such rows, or too few.
    """
    if w.packing not in (None, "none"):
        # Imported late: most rows are one text.
        from tonnage.estimate.packing import settled

        return settled(model, w, stack, version, kernel, batch, seq, compute)
    if w.packed_texts is not None:
        raise InputError(
            "packed_texts without packing", key="packed_texts", value=w.packed_texts, hint="--packing flat"
        )
    return Rows(count=batch, tokens=seq)


def pictures(model: Model, w: Train, seq: int, kernel: AttentionKernel) -> Pictures | None:
    """What a batch holds of them; None where it is text alone."""
    if w.images is None and w.image_size is None:
        return None
    # Imported late: most batches are of text.
    from tonnage.estimate.pictured import pictures

    return pictures(model, w, seq, kernel)


def runs(model: Model, w: Train, stack: Stack) -> Runs | None:
    """How experts run; None where it is by grouped products, or there are none."""
    limits = limited(model)
    if w.experts is None and w.expert_imbalance is None and not limits:
        return None
    # Imported late: most answers do without.
    if limits:
        from tonnage.estimate import capacity

        return capacity.settled(model, w)
    from tonnage.estimate.expert_runs import settled

    return settled(model, w, stack)


def input_grads(w: Train, stack: Stack, version: Version, *, adapts: bool) -> bool:
    """Whether the embedding's output needs a gradient though its table may be frozen."""
    checkpoints = w.recompute not in (None, "none")
    return checkpoints and stack.input_grads and (adapts or since(version, stack.hooks))


def plan(model: Model, w: Train, stack: Stack, version: Version) -> Recompute | None:
    """Which layers are computed again, where it is not all or none, and how, where not as recipes have it."""
    if w.recompute in (None, "none"):
        return None
    # Encoders and decoders are answered without: ``older`` tells so.
    nests = w.recompute in ("full", "unsloth") and nested(w, stack, version) and len(model.stacks) == 1
    if w.recompute == "full" and not nests:
        return None
    # Imported late: most answers do without.
    from tonnage.estimate.savers import plan

    return plan(model, w, stack, nests=nests)


def mixing(model: Model, w: Train, device: Device | None) -> Mixing | None:
    """What computes recurrent mixers; None where there are none and none are asked for."""
    if w.kernels in (None, "none") and not any(t.role == "mixer" for _, g in model.groups() for t in g):
        return None
    # Imported late: most models have no mixers.
    from tonnage.estimate.mixers import settled

    return settled(model, w, device)


def built(model: Model, w: Train, stack: Stack, device: Device | None) -> Implementations | None:
    """What computes blocks and loss; None where all is the model's own code."""
    if w.logits_to_keep is None and w.kernels in (None, "none") and w.loss in (None, "full") and not stack.own_losses:
        return None
    # Imported late: most answers do without.
    from tonnage.estimate.savers import implementations, of_last

    return implementations(model, w, stack, device) if w.logits_to_keep is None else of_last(model, w, stack)
