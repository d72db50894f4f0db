"""Training stacks: versioned records of what a stack does when nothing is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Literal

from tonnage.arch.model import Model
from tonnage.record import Record
from tonnage.registry import chosen
from tonnage.releases import Releases, Since, Version

if TYPE_CHECKING:
    from tonnage.arch.loss import Loss
    from tonnage.arch.tuning.adapters import Tuning
    from tonnage.arch.tuning.tuners import Method
    from tonnage.memory.recompute import Recompute

NOT_YET: Final = ("megatron", "deepspeed", "nemo")


class Stack(Record):
    """One stack's defaults.

    Args:
        name: as the command line takes it.
        releases: which are modelled.
        precision: when nothing is said; empty for the checkpoint's own format.
        optimizer: the implementation that ``adamw`` means.
        steps: the optimizer when nothing is said, where that is not ``adamw``.
        makes_mask: a mask is handed to ``sdpa`` although none was given.
        shards: what ``sharding`` means on several devices.
        recomputes: values of ``recompute`` that the stack has.
        reference: the code.
        adapted: precision of fine-tuning with adapters when nothing is said; empty for the checkpoint's own format.
        recompute: when nothing is said.
        losses: values of ``loss`` that the stack has, the first when nothing is said.
        loss: of supervised fine-tuning without Liger's kernels when nothing is said; empty for the first of ``losses``.
        kernels: whether it can run Liger's.
        adapters: format of adapters that are made over 16-bit weights; empty for that of the weights.
        packed_adapters: the same beside packed matrices, where it is another.
        prepares: what is cast to fp32 beside packed matrices: all that is not packed, or norms alone; beside matrices
            of 4 bit under autocast to bf16 embeddings and the head then end in bf16.
        restated: the model as the stack's own code runs it, with the rank of adapters or None; None where it runs
            transformers' code.
        own_losses: of these, those that the stack computes by code of its own.
        told_of_loss: what has to be said of them.
        lora: adapters as the stack's own code runs them, from names of modules below the layer, rank, dropout, format,
            the targets that were asked for, and the model; None where peft makes them.
        input_grads: with checkpoints and adapters the embedding's output needs a gradient
            (``enable_input_require_grads``).
        hooks: with checkpoints it does so whatever is trained.
        packs: what has to be said of packed matrices, where the stack's own are not modelled; forbids "fits".
        keeps_inputs: its bitsandbytes is so old that products with 4-bit matrices keep what they are given.
        embeds: beside packed matrices the embedding gets a gradient, which nothing steps or lets go of.
        keeps: what the loop holds when nothing is said, as ``retain`` has it.
        modules: names of modules that are the stack's own, with what they are called in a model that is read.
        packs_head: the head is packed with the other matrices.
        targets: what LoRA adapts when nothing is said; none for peft's own choice by the type of the model.
        freezes: parts of a model that sees or hears that it does not train when nothing is said.
        places: it loads weights straight onto the device (``device_map``), packed or not; else the packed alone are.
        compiles: what its switch for ``torch.compile`` compiles: the ``model`` with its loss as one graph, or its
            ``layers`` and the loss as a graph each; empty where that is not modelled.
        left_out: what of the stack is not modelled, though it changes memory; forbids "fits".
        unstated: what is said of a model whose code it does not restate, where it restates others'; forbids "fits".
        pursues: what of its objectives beyond the next token is answered otherwise than it does them; forbids "fits".
        trainers: release of TRL whose trainers of other objectives it runs; None for its own, which is TRL.
        reentrant: its checkpoints of whole layers run a backward pass of their own when nothing is said; TRL's trainers
            of other objectives have others since 0.28.
        resident: what its code keeps on the device beside the model's tensors, in words and bytes, from what is done to
            matrices, bytes of a layer's input, and how the layers are computed again; None for nothing.
        spread: what more may be allocated at the peak where its attention runs in another way, in words and bytes, from
            the model and the tokens of a pass; None for nothing.
        empties: by objective, behind which pass its trainer gives the allocator's cache back.
        bounds: its batches of one row tell where texts begin (``cu_seq_lens_q``), and which one a token is of.
        masks: its rows of several texts come with a mask of numbers, unless flash-attn runs.
        copies: what is said of ``modules_to_save``, where it keeps them otherwise than peft; forbids "fits".
    """

    name: str
    releases: Releases
    precision: Since[str]
    optimizer: Since[str]
    makes_mask: Since[bool]
    shards: str
    recomputes: tuple[str, ...]
    reference: str
    adapted: Since[str] = (((0, 0), ""),)
    recompute: Since[str] = (((0, 0), "none"),)
    losses: tuple[str, ...] = ("full", "fused", "liger")
    loss: Since[str] = (((0, 0), ""),)
    kernels: bool = True
    adapters: str = "fp32"
    packed_adapters: Since[str] = (((0, 0), ""),)
    prepares: Since[Literal["", "all", "norms"]] = (((0, 0), ""),)
    restated: Callable[[Model, Version, int | None], Model] | None = None
    own_losses: Mapping[str, Loss] = {}
    told_of_loss: str = ""
    lora: Callable[[frozenset[str], int, float, str, tuple[str, ...], Model], Method] | None = None
    input_grads: bool = True
    hooks: Since[bool] = (((0, 0), False),)
    packs: str = ""
    keeps_inputs: bool = False
    embeds: Since[bool] = (((0, 0), False),)
    keeps: tuple[str, ...] = ()
    modules: Mapping[str, tuple[str, ...]] = {}
    packs_head: bool = False
    targets: tuple[str, ...] = ()
    freezes: tuple[str, ...] = ()
    places: bool = False
    compiles: str = ""
    left_out: Since[tuple[str, ...]] = (((0, 0), ()),)
    unstated: str = "{stack}'s own code of {model} is answered as transformers' operations"
    steps: str = ""
    copies: str = ""
    bounds: Since[bool] = (((0, 0), False),)
    masks: bool = False
    pursues: Since[tuple[str, ...]] = (((0, 0), ()),)
    trainers: Since[Version] | None = (((0, 0), (1, 16)),)
    reentrant: Since[bool] = (((0, 0), False),)
    spread: Callable[[Model, int], tuple[str, int] | None] | None = None
    empties: Mapping[str, str] = {}
    resident: Callable[[Model, Tuning | None, int, Recompute | None], tuple[tuple[str, int], ...]] | None = None


def stack(name: str | None) -> Stack:
    """The stack of that name; None is transformers' Trainer.

    Raises:
        UnsupportedError: known, and not modelled.
        InputError: there is none.
    """
    return chosen(
        "tonnage.stacks", name or "transformers", "STACK", Stack, key="stack", what="stack", unmodelled=NOT_YET
    )
