"""What spares memory in a step, settled: fused kernels, the loss, recomputation."""

from __future__ import annotations

from typing import Final

from tonnage.arch.chunked import Chunked
from tonnage.arch.fused import Fused
from tonnage.arch.losses import FusedLinear, InPlace
from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate import liger
from tonnage.memory.recompute import Recompute, settled
from tonnage.record import Record
from tonnage.stacks import Stack
from tonnage.workload.training import Train

LOSSES: Final = ("full", "fused", "liger")
TOLD: Final = {
    "liger": "the loss is Liger's cross entropy, which writes its gradient over the logits in fp32",
    "fused": "the loss is Liger's fused linear cross entropy: logits in chunks, gradients in the forward pass",
}


class Implementations(Record):
    """What computes a step's blocks and its loss.

    Args:
        fused: kernels that stand for several operations; None where the model's own code runs.
        loss: what computes head and loss together; None for transformers' own loss of all logits.
        kernels: as a result repeats it.
        named: the loss, as a result repeats it.
        told: what has to be said.
    """

    fused: Fused | None
    loss: Chunked | FusedLinear | InPlace | None
    kernels: str
    named: str
    told: tuple[str, ...]

    def at_first(self) -> Implementations:
        """The same in the first step, before which there was no pass."""
        return self.but(loss=self.loss.but(before=False)) if isinstance(self.loss, Chunked) else self


def implementations(model: Model, w: Train, stack: Stack, device: Device | None) -> Implementations:
    """Settle ``kernels`` and ``loss``.

    ``loss = fused`` without ``kernels`` replaces the loss alone, and ``loss = full`` with them leaves it, as the
    Trainer's ``liger_kernel_config`` does.

    Raises:
        InputError: a name that is none.
        UnsupportedError: understood, and not modelled.
    """
    asked, loss = w.kernels or "none", w.loss
    own = stack.own_losses.get(loss or stack.losses[0])
    if own is not None and asked == "none":
        return Implementations(
            None, own, "none", loss or stack.losses[0], (stack.told_of_loss,) if stack.told_of_loss else ()
        )
    if loss not in (None, *LOSSES):
        raise UnsupportedError(
            f"loss = {loss} is not modelled yet", key="loss", value=loss, hint=f"one of {', '.join(LOSSES)}"
        )
    if model.classes is not None and (asked != "none" or loss not in (None, "full")):
        raise UnsupportedError(
            "Liger's kernels are for language models, not for classifiers", key="kernels", value=asked,
            hint="--head causal trains the language model",
        )  # fmt: skip
    if asked == "none" and loss in (None, "full"):
        return Implementations(None, None, "none", "full", ())
    release = liger.version("liger" if asked == "none" else asked)
    found = liger.replaced(model.model_type, release, liger.multiprocessors(device))
    if found is None:
        if loss not in (None, "full"):
            raise UnsupportedError(
                f"liger-kernel 0.{liger.shown(release)} does not know {model.model_type}: it replaces no loss",
                key="loss", value=loss, hint="--loss full",
            )  # fmt: skip
        told = f"liger-kernel 0.{liger.shown(release)} does not know {model.model_type}, and replaces nothing"
        return Implementations(None, None, asked, "full", (told,))
    fused, patch = found
    kind = patch if loss is None else {"full": None, "fused": FusedLinear(release=release), "liger": InPlace()}[loss]
    if isinstance(kind, FusedLinear) and isinstance(patch, InPlace):
        raise UnsupportedError(
            f"liger-kernel has no fused loss for {model.model_type}", key="loss", value="fused", hint="--loss liger"
        )
    if not model.causal or model.classes is not None:
        raise InputError(f"Liger's losses are for causal models, not {model.model_type}", key="loss", value=str(loss))
    named = "full" if kind is None else "liger" if isinstance(kind, InPlace) else "fused"
    words = [] if asked == "none" else [_blocks(fused, release)]
    words += [TOLD[named]] if named in TOLD else []
    return Implementations(None if asked == "none" else fused, kind, asked, named, tuple(words))


def plan(w: Train, stack: Stack) -> Recompute | None:
    """Which layers are computed again, and what their checkpoints keep.

    Raises:
        InputError: no such way.
        UnsupportedError: the stack has it not.
    """
    found = settled(w.recompute)
    if str(w.recompute).partition("-")[0] not in stack.recomputes:
        raise UnsupportedError(
            f"recompute = {w.recompute}: {stack.name} has {', '.join(stack.recomputes)}", key="recompute",
            value=w.recompute,
        )  # fmt: skip
    return found


def _blocks(fused: Fused, release: tuple[int, int]) -> str:
    parts = [
        *(["RMS norms"] if fused.norms else []),
        *(["rotary embedding"] if fused.rope else []),
        *(["gated feed-forward blocks"] if fused.gated else []),
    ]
    return f"Liger's kernels (0.{liger.shown(release)}, those in Triton) replace {', '.join(parts)}"
