"""What spares memory in a step, settled: fused kernels, the loss, recomputation."""

from __future__ import annotations

from typing import Final

from tonnage.arch import again
from tonnage.arch.fused import Fused
from tonnage.arch.loss import Loss
from tonnage.arch.model import Model
from tonnage.arch.objectives.chunked import Chunked
from tonnage.arch.objectives.cut import Cut
from tonnage.arch.objectives.last import OfLast
from tonnage.arch.objectives.losses import InPlace
from tonnage.arch.objectives.repeated import Repeated
from tonnage.arch.objectives.tiled import Tiled
from tonnage.arch.objectives.vocab_parallel import ByTransformerEngine, VocabParallel
from tonnage.devices import Device
from tonnage.errors import InputError, UnsupportedError, nearest
from tonnage.estimate import liger
from tonnage.estimate.switches import refuse
from tonnage.memory.recompute import OUTPUT_DISCARDED, Recompute, settled
from tonnage.record import Record
from tonnage.stacks import Stack
from tonnage.workload.training import Train

LOSSES: Final = ("full", "fused", "liger")
PARTS: Final = ("chunked", "cut", "cut-fp32", "trl", "trl-chunks", "vocab-parallel", "vocab-parallel-te")
"""Losses that are no kernels of Liger's."""
NAMES: Final = (*LOSSES, *PARTS)
COMPILED: Final = "vocab-parallel-fused"
TOLD: Final = {
    "liger": "the loss is Liger's cross entropy, which writes its gradient over the logits in fp32",
    "fused": "the loss is Liger's fused linear cross entropy: logits in chunks, gradients in the forward pass",
    "chunked": "the loss is torchtune's CEWithChunkedOutputLoss: chunks are cast to fp32 one by one, and the "
    "log-softmax of all is kept",
    "cut": "the loss is Apple's cut cross entropy: no logits in memory; every label counts but each sequence's first",
    "trl": "the loss is that of TRL's SFTTrainer since 1.15: tiles of logits, each made again in the backward pass",
    "trl-chunks": "the loss is that of TRL's SFTTrainer from 1.7 to 1.14: chunks of 256 labels, each computed again",
    "vocab-parallel": "the loss is Megatron-Core's vocab_parallel_cross_entropy, unfused, in a group of one: the "
    "softmax is kept in fp32 and becomes the gradient in its place; the batch holds labels and a mask of the loss",
    "vocab-parallel-te": "the loss is Transformer Engine's (2.18) as Megatron-Core fuses it, in a group of one: its "
    "gradient is written in fp32 beside the logits; the batch holds labels and a mask of the loss",
}


def chunked(model: Model, said: str) -> Loss:
    """The loss of a name: ``chunked``, ``chunked-16``, ``cut``, ``cut-fp32``.

    Raises:
        InputError: no such loss.
        UnsupportedError: the head is of a kind that its code does not take.
    """
    name, _, rest = said.partition("-")
    number = int(rest) if name == "chunked" and rest.isdecimal() else 8 if said == "chunked" else 0
    found: Loss | None = Chunked(chunks=number, wide=True) if number else None
    if said == COMPILED:
        raise UnsupportedError(
            f"loss = {said}: what torch.compile makes of Megatron's native fusion is not modelled", key="loss",
            value=said, hint="--loss vocab-parallel, its unfused form, or vocab-parallel-te",
        )  # fmt: skip
    others: dict[str, Loss] = {
        "cut": Cut(), "cut-fp32": Cut(wide=True), "trl": Tiled(), "trl-chunks": Repeated(),
        "vocab-parallel": VocabParallel(), "vocab-parallel-te": ByTransformerEngine(),
    }  # fmt: skip
    found = others.get(said, found)
    if found is None:
        raise InputError(
            f"unknown loss {said!r}", key="loss", value=said, nearest=nearest(said, NAMES),
            hint=f"one of {', '.join(NAMES)}; chunked-16 for 16 chunks",
        )  # fmt: skip
    head = model.head
    if not model.causal or model.classes is not None or head is None:
        raise InputError(f"loss = {said} is for causal models, not {model.model_type}", key="loss", value=said)
    if not isinstance(found, (Chunked, VocabParallel)) and odd(model, said):
        raise UnsupportedError(
            f"loss = {said} is not modelled for the head of {model.model_type}", key="loss", value=said,
            hint="--loss chunked or full",
        )  # fmt: skip
    return found


def odd(model: Model, said: str) -> bool:
    """Whether the head is of a kind that a loss which takes its matrix by itself is not modelled for."""
    head = model.head
    if head is None:
        return True
    biased = head.bias and said != "trl-chunks"
    return bool(biased or head.scaled or head.divided or head.wide or head.project is not None)


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
    loss: Loss | None
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
    own = stack.own_losses.get(w.loss or stack.losses[0])
    if own is not None and w.kernels in (None, "none"):
        told_of = (stack.told_of_loss,) if stack.told_of_loss else ()
        own = own.on(None if device is None else device.capacity.bytes, "" if device is None else device.architecture)
        return Implementations(None, own, "none", w.loss or stack.losses[0], told_of)
    asked, said = w.kernels or "none", w.loss.lower() if w.loss is not None else None
    parts = chunked(model, said) if said is not None and said not in LOSSES else None
    loss = said if parts is None else "full"
    if model.classes is not None and (asked != "none" or loss not in (None, "full")):
        raise UnsupportedError(
            "Liger's kernels are for language models, not for classifiers", key="kernels", value=asked,
            hint="--head causal trains the language model",
        )  # fmt: skip
    if asked == "none" and loss in (None, "full"):
        told = () if said is None or parts is None else (_told(said),)
        return Implementations(None, parts, "none", said or "full", told)
    means = liger.asked("liger" if asked == "none" else asked)
    release = means.release
    found = liger.replaced(model.model_type, release, liger.multiprocessors(device), means.parts)
    if found is None:
        if loss not in (None, "full"):
            raise UnsupportedError(
                f"liger-kernel 0.{liger.shown(release)} does not know {model.model_type}: it replaces no loss",
                key="loss", value=loss, hint="--loss full",
            )  # fmt: skip
        told = (f"liger-kernel 0.{liger.shown(release)} does not know {model.model_type}, and replaces nothing",)
        return Implementations(None, parts, asked, said or "full", told)
    fused, patch = found
    kind = patch if loss is None else {"full": parts, "fused": patch, "liger": InPlace()}[loss]
    if loss == "fused" and isinstance(patch, InPlace):
        raise UnsupportedError(
            f"liger-kernel has no fused loss for {model.model_type}", key="loss", value="fused", hint="--loss liger"
        )
    if not model.causal or model.classes is not None:
        raise InputError(f"Liger's losses are for causal models, not {model.model_type}", key="loss", value=str(loss))
    named = said or ("liger" if isinstance(kind, InPlace) else "fused")
    words = [] if asked == "none" else [_blocks(fused, release)]
    words += [_told(named)] if named != "full" else []
    return Implementations(None if asked == "none" else fused, kind, asked, named, tuple(words))


def of_last(model: Model, w: Train, stack: Stack) -> Implementations:
    """Settle ``logits_to_keep``.

    Raises:
        InputError: the model makes all logits, or there is no table of them.
        UnsupportedError: together with what is not modelled.
    """
    n = w.logits_to_keep or 0
    said = {
        "loss": w.loss not in (None, "full"), "kernels": w.kernels not in (None, "none"),
        "objective": w.objective not in (None, "sft"), "stack": bool(stack.own_losses),
        "virtual_tokens": w.virtual_tokens is not None, "target_seq": len(model.stacks) > 1,
    }  # fmt: skip
    if not model.causal or model.classes is not None or model.head is None:
        raise InputError(
            f"logits_to_keep is of causal models, not of {model.model_type}", key="logits_to_keep", value=n,
            hint="leave it out",
        )  # fmt: skip
    refuse(w, said, "logits_to_keep is not modelled with {key} = {value}", of="logits_to_keep")
    if w.seq is not None and n > w.seq:
        raise InputError(
            f"logits_to_keep = {n:,} is more than the {w.seq:,} tokens of a sequence", key="logits_to_keep", value=n,
            hint=f"at most --logits-to-keep {w.seq}",
        )  # fmt: skip
    told = f"logits of the last {n:,} tokens of each sequence alone, and the loss of their labels"
    return Implementations(None, OfLast(tokens=n), "none", "full", (told,))


def plan(model: Model, w: Train, stack: Stack, *, nests: bool) -> Recompute | None:
    """Which layers are computed again, and what their checkpoints keep; whole ones ``nest`` a backward pass.

    Raises:
        InputError: no such way, or no such part of the model's layers.
        UnsupportedError: the stack has it not, or it is not modelled with something else.
    """
    found = settled(w.recompute)
    found = found.but(reentrant=True) if found is not None and nests else found
    whole = w.recompute in ("reentrant", "non-reentrant")
    way = "modules" if found is not None and found.modules else "full" if whole else str(w.recompute).partition("-")[0]
    if way not in stack.recomputes:
        raise UnsupportedError(
            f"recompute = {w.recompute}: {stack.name} has {', '.join(stack.recomputes)}", key="recompute",
            value=w.recompute,
        )  # fmt: skip
    for name in sorted(found.modules) if found is not None else ():
        there = {part for stack in model.stacks for layer, _ in stack.distinct() for part in again.parts(layer)}
        if name not in there:
            raise InputError(
                f"recompute = {name}: no layer of {model.model_type} has such a part", key="recompute",
                value=w.recompute, hint=f"of {', '.join(sorted(there))}" if there else "--recompute full",
            )  # fmt: skip
        if name in OUTPUT_DISCARDED:
            _discards(w, name)
    return found


def _discards(w: Train, name: str) -> None:
    """What an output that is let go of is not modelled with."""
    said = {
        "precision": str(w.precision).endswith(("-mixed", "-autocast")) or str(w.precision).startswith("fp8"),
        "kernels": w.kernels not in (None, "none"), "quant": w.quant not in (None, "none"),
        "lora_rank": w.lora_rank is not None, "adapter": w.adapter is not None, "train_only": bool(w.train_only),
        "freeze_layers": w.freeze_layers is not None, "virtual_tokens": w.virtual_tokens is not None,
        "modules_to_save": bool(w.modules_to_save),
    }  # fmt: skip
    words = f"recompute = {name}, whose output is let go of, is not modelled with {{key}} = {{value}}"
    refuse(w, said, words, of="recompute")


def _told(said: str) -> str:
    return TOLD[said if said in TOLD else said.partition("-")[0]]


def _blocks(fused: Fused, release: tuple[int, int]) -> str:
    parts = [
        *(["RMS norms"] if fused.norms else []),
        *(["rotary embedding"] if fused.rope else []),
        *(["gated feed-forward blocks"] if fused.gated else []),
        *(["routed experts, whose matrices get gradients even where they are frozen"] if fused.experts else []),
    ]
    return f"Liger's kernels (0.{liger.shown(release)}, those in Triton) replace {', '.join(parts)}"
