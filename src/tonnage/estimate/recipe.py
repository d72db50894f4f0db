"""A training workload with nothing left open: what a step is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tonnage.arch.forward import AttentionKernel, Mixers
from tonnage.memory.optimizers import Optimizer
from tonnage.record import Record
from tonnage.tensors import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from tonnage.arch.float8 import Narrow
    from tonnage.arch.fused import Fused
    from tonnage.arch.loss import Loss
    from tonnage.arch.model import Model
    from tonnage.arch.sight.pictures import Pictures
    from tonnage.arch.texts import Texts
    from tonnage.arch.tuning.adapters import Tuning
    from tonnage.estimate.beside import Beside
    from tonnage.estimate.rollout import Rollout
    from tonnage.memory.compiled import Compiled
    from tonnage.memory.recompute import Recompute
    from tonnage.memory.weights import Share
    from tonnage.quant import Recipe as Packing

COPIED: Final = 5
"""Layers before the one that runs whose inputs are still being copied to the host (``max_fwd_stash_size``).

https://github.com/huggingface/trl/blob/v1.16.0/trl/models/activation_offloading.py
"""


class Recipe(Record):
    """A training workload with nothing left open.

    Args:
        weights: format of the weights, their gradients and optimizer states.
        loaded: format that they were loaded in, and that buffers keep; None where that is the same.
        autocast: format that autocast computes in, or None.
        kernel: what computes attention.
        optimizer: its state and its step.
        batch, tokens, accumulate: sequences a pass, tokens a sequence, passes a step.
        targets: tokens of a sequence that a decoder writes, of a model that has an encoder too.
        hosts: everything that is saved goes to the host until it is asked for.
        evaluates: sequences of an evaluation step behind it; None for none.
        evaluates_fused: that step goes through the fused loss as well, and makes no table of logits.
        recompute: layers are checkpointed: all, or as ``plan`` says.
        plan: which layers are, and what of them is kept all the same.
        offloads: what a checkpointed layer was given goes to the host until its backward pass.
        keep_logits: the caller holds the model's output through the backward pass.
        keep_step: and through the optimizer's step.
        keep_last: and through the next forward pass, until that one's output takes its name.
        keep_gradients: the last step's gradients stay, and the next ones are added into them.
        first_step: the optimizer has no state yet.
        makes_mask: attention is handed a mask although the batch has none.
        workspace: of one thread that multiplies matrices. [byte]
        tuning: matrices that are packed or have adapters; None where the whole model is trained.
        adapters: the trained tensors beside the model with how often each stands.
        beside: what else lies beside it, and is not trained.
        own: the model's own tensors that are trained, where others of them are not.
        shares: the model's weights by part and format, where they are packed.
        packing: how they are packed.
        input_grads: the embedding's output needs a gradient though its table is frozen.
        mixer: what computes recurrent mixers; None where their pass is not modelled.
        fused: kernels that stand for several operations of the model's code.
        narrow: matrices of the layers that are multiplied in fp8.
        scales: what lies beside these: bytes of a tensor, how often.
        resident: what the stack's code keeps on the device beside the model's tensors, as the stack has it.
        loss: what computes head and loss together; None for transformers' own loss of all logits.
        in_backward: the optimizer steps a parameter as soon as its gradient is there, which then dies.
        master: fp32 copies of the weights are stepped, by fp32 gradients into which those of a pass are added.
        clips: gradients are scaled down by their norm before the step.
        averaged: a copy of the whole model holds moving averages.
        drops: dropout is on.
        others: models that lie beside the one that is trained, and run when its pass pauses.
        rollout: the model writes what it is trained on.
        columns: of texts, whose vectors the loss compares.
        cached: examples of a step whose batch runs in mini-batches; None where it runs as one.
        critic: a second model that is trained beside, and its part of the step.
        compiled: how layers and loss are compiled; None where the model's own code runs.
        empties: where the allocator's cache is given back: at the "start" of a pass, behind the "forward" one, or the
            "backward" one.
        texts: of rows that hold several; None where a row is one.
        pictures: what a batch holds of them; None where it is text alone.
    """

    weights: str
    autocast: str | None
    kernel: AttentionKernel
    optimizer: Optimizer
    batch: int
    tokens: int
    accumulate: int
    recompute: bool
    keep_logits: bool
    keep_gradients: bool
    first_step: bool
    workspace: int
    loaded: str | None = None
    makes_mask: bool = False
    tuning: Tuning | None = None
    adapters: tuple[tuple[Tensor, int], ...] = ()
    beside: tuple[tuple[Tensor, int], ...] = ()
    own: tuple[tuple[Tensor, int], ...] = ()
    shares: tuple[Share, ...] = ()
    packing: Packing | None = None
    input_grads: bool = False
    mixer: Mixers | None = Mixers()
    fused: Fused | None = None
    narrow: Narrow | None = None
    scales: tuple[tuple[int, int], ...] = ()
    resident: Callable[[Model, Tuning | None, int, Recompute | None], tuple[tuple[str, int], ...]] | None = None
    loss: Loss | None = None
    plan: Recompute | None = None
    offloads: bool = False
    in_backward: bool = False
    master: bool = False
    keep_step: bool = False
    keep_last: bool = False
    clips: bool = False
    averaged: bool = False
    drops: bool = True
    others: tuple[Beside, ...] = ()
    rollout: Rollout | None = None
    columns: int = 1
    cached: int | None = None
    targets: int | None = None
    evaluates: int | None = None
    evaluates_fused: bool = False
    hosts: bool = False
    critic: tuple[Model, Recipe] | None = None
    compiled: Compiled | None = None
    empties: frozenset[str] = frozenset()
    texts: Texts | None = None
    pictures: Pictures | None = None

    def way(self) -> Recompute | None:
        """How activations are computed again; None where they are not."""
        if not self.recompute or self.plan is not None:
            return self.plan
        # Imported late: most steps compute nothing again.
        from tonnage.memory.recompute import Recompute

        return Recompute()
