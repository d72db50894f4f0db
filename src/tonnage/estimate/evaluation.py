"""What follows a step now and then: an evaluation step, and the checkpoint that is saved.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/trainer.py (``evaluation_loop``,
``prediction_step``: without autograd, for the loss alone; ``_save_checkpoint``);
https://github.com/huggingface/safetensors/blob/v0.8.0/bindings/python/py_src/safetensors/torch.py (``save_file``:
tensors go to the host one by one)

Leaves out: logits that a metric collects (``compute_metrics``), which grow with the evaluated texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.loss import of_model
from tonnage.arch.model import Model
from tonnage.arch.objectives.losses import FusedLinear
from tonnage.arch.tape import Value
from tonnage.errors import UnsupportedError
from tonnage.estimate.moments import Moment
from tonnage.estimate.switches import refuse
from tonnage.memory.ahead import Ahead, Ends
from tonnage.memory.passes import level
from tonnage.workload.training import Train

if TYPE_CHECKING:
    from tonnage.estimate.recipe import Recipe
    from tonnage.estimate.training import Step

TOLD = (
    "the evaluation step is the Trainer's without metrics: the loss alone; what saving a checkpoint takes lies on the "
    "host, where every tensor goes by itself"
)


def refused(model: Model, w: Train) -> None:
    """Refuse what an evaluation step is not modelled with."""
    liger = (w.kernels or "").lower().startswith("liger")
    said = {
        "stack": w.stack not in (None, "transformers"),
        "loss": w.loss not in (None, "full"),
        "objective": w.objective not in (None, "sft"),
        "kernels": not liger and w.kernels not in (None, "none"),
        # What its loss casts where nothing is recorded is not known.
        "precision": liger and (w.precision or "").endswith("-mixed"),
        "virtual_tokens": w.virtual_tokens is not None,
    }
    refuse(w, said, "an evaluation step is not modelled with {key} = {value}", of="eval_batch")
    if len(model.stacks) > 1 or model.classes is not None:
        raise UnsupportedError(
            "an evaluation step is modelled for language models of one stack", key="eval_batch", value=w.eval_batch,
            hint="leave out eval_batch",
        )  # fmt: skip


def read(step: Step) -> Ahead:
    """The pass over texts that are evaluated."""
    r, model = step.recipe, step.model
    return Ahead(
        model, _ends(model, r), batch=r.evaluates or 1, tokens=r.tokens, kernel=r.kernel, weights=r.weights,
        autocast=r.autocast, casts=True, tuning=r.tuning, fused=r.fused, makes_mask=r.makes_mask,
    )  # fmt: skip


def evaluated(step: Step) -> Iterator[Moment]:
    """The instants behind the optimizer's step: gradients are gone unless the loop holds them."""
    r = step.recipe
    if not r.keep_gradients and not r.master:
        for key in [key for key, held in step.held.items() if held.name == "gradients"]:
            step.drop_all(key)
    reading = read(step)
    step.drop_all("inputs")
    step.take("texts", "inputs", "token ids that are evaluated", level(reading.given), reading.given)
    yield from (m.but(name="evaluation step") for m in step.reading("evaluation", reading))
    step.drop_all("texts")
    yield Moment("checkpoint save", step.now)


def _ends(model: Model, r: Recipe) -> Ends:
    def fused(f: Forward, head: Head, x: Value, labels: Value) -> list[Value]:
        assert r.loss is not None
        return [r.loss.forward(f, head, x, labels)]

    def whole(f: Forward, head: Head, x: Value, labels: Value) -> list[Value]:
        # The model's code names the last hidden states, and the output that the caller is handed the logits.
        logits = head.forward(f, x)
        return [logits, of_model(head, logits, labels, causal=model.causal)]

    return fused if r.evaluates_fused and isinstance(r.loss, FusedLinear) else whole
