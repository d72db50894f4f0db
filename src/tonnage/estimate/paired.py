"""A training step of an encoder and a decoder."""

from __future__ import annotations

from typing import cast

from tonnage.arch.model import Model
from tonnage.errors import UnsupportedError
from tonnage.estimate.adapter import ADAPTERS, Adapter, Asked
from tonnage.estimate.one_tape import TapedStep
from tonnage.estimate.recipe import Recipe
from tonnage.estimate.switches import refuse
from tonnage.memory.paired import Paired
from tonnage.memory.passes import Pass
from tonnage.workload.training import Train


def refused(model: Model, w: Train) -> None:
    """Refuse what a step of two stacks is not modelled with."""
    said = {
        "loss": w.loss not in (None, "full"),
        "kernels": w.kernels not in (None, "none"),
        "offload": w.offload not in (None, "none"),
        "recompute": w.recompute in ("selective", "reentrant"),
        "objective": w.objective not in (None, "sft"),
        "precision": str(w.precision).startswith("fp8"),
        "modules_to_save": bool(w.modules_to_save),
        "stack": w.stack not in (None, "transformers"),
        "train_only": bool(w.train_only),
        "freeze_layers": w.freeze_layers is not None,
    }
    refuse(w, said, f"{{key}} = {{value}}: not modelled for encoder-decoder models ({model.model_type})")


def adapts(model: Model, kind: Adapter) -> None:
    """Refuse what is trained beside two stacks in another way than beside their matrices.

    Raises:
        UnsupportedError: keys and values in a cache, norms, or a term of the loss (AdaLoRA's).
    """
    asked = Asked(frozenset(), ADAPTERS, options=kind.options)
    if kind.name in ("prompt", "p-tuning"):
        return
    if kind.method is None or kind.method(asked).early:
        raise UnsupportedError(
            f"adapter = {kind.name}: not modelled for encoder-decoder models ({model.model_type})", key="adapter",
            value=kind.name, hint="--adapter lora",
        )  # fmt: skip


def _fixed(model: Model) -> dict[str, int]:
    """Elements of tables of positions that are parameters and are not trained."""
    tables = (table for stack in model.stacks for table in stack.stem.tables if table.frozen)
    return {f"{table.name}.weight": table.rows * table.width for table in tables}


def trained(model: Model) -> int:
    """How many parameters are."""
    return model.parameters.total - sum(_fixed(model).values())


class PairedStep(TapedStep):
    """One step; the whole of its pass is on one tape."""

    def __init__(self, model: Model, recipe: Recipe) -> None:
        super().__init__(model, recipe)
        fixed = _fixed(model)
        self.idle = [(t, times) for t, times in self.idle if t.name not in fixed]

    def passed(self, model: Model, *, accumulated: bool) -> Pass:
        """The pass; ``accumulated`` where gradients are there already."""
        r = self.recipe
        found = Paired(
            model, batch=r.batch, tokens=r.tokens, targets=r.targets or r.tokens, kernel=r.kernel, weights=r.weights,
            loaded=r.loaded, autocast=r.autocast, recompute=r.way(), accumulated=accumulated, keep_logits=r.keep_logits,
            makes_mask=r.makes_mask, stepping=self.stepping(), drops=r.drops, tuning=r.tuning,
            input_grads=r.input_grads,
        )  # fmt: skip
        # What a step asks of either is the same.
        return cast(Pass, found)
