"""Where the lines of a training step come from that are no activations: words, reference, terms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tonnage.arch.model import Model
from tonnage.estimate.lines import Terms
from tonnage.estimate.training import Step
from tonnage.formats import FORMATS
from tonnage.memory.weights import is_parameter
from tonnage.stacks import Stack
from tonnage.tensors import Tensor

MASTER: Final = (
    "https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.0/megatron/core/optimizer/optimizer.py "
    "(Float16OptimizerWithFloat16Params)"
)
AVERAGED: Final = "https://github.com/pytorch/pytorch/blob/v2.13.0/torch/optim/swa_utils.py (AveragedModel)"
SCALES: Final = "Transformer Engine's scales and histories of largest values, and its workspace for matrix products"
SCALED: Final = (
    "https://github.com/NVIDIA/TransformerEngine/blob/v2.9/transformer_engine/pytorch/ (fp8.py, module/base.py)"
)
PEFT: Final = "https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/"
TRL: Final = "https://github.com/huggingface/trl/blob/v1.16.0/trl/trainer/"
PPO: Final = "https://github.com/huggingface/trl/blob/v1.12.0/trl/experimental/ppo/ppo_trainer.py"
ENGINE: Final = "https://github.com/huggingface/trl/blob/v1.16.0/trl/generation/vllm_generation.py"
LEFT: Final = "{}, less what matrices that are stepped already have left of them: their projections"
BUFFERS: Final = "inverse frequencies and the like, in fp32"


def in_fp32(model: Model, form: str) -> str:
    """How many parameters stay in fp32 whatever the others are in, in words."""
    kept = sum(times * t.numel for times, ts in model.groups() for t in ts if t.dtype == "fp32" and is_parameter(t))
    return f", {kept:,} of them in fp32" if kept and form != "fp32" else ""


def origins(step: Step, stack: Stack) -> dict[str, tuple[str, str, Terms]]:
    """Words, reference and terms of the lines that are no activations."""
    P, w, n, form = step.model.parameters.total, step.form.bytes, step.tensors, step.recipe.weights
    o, fine = step.recipe.optimizer, step.recipe.tuning is not None
    frozen = "" if not fine else "partly frozen, " if step.recipe.own else "frozen, "
    amount, own = _amount(step, step.trained)
    base: Terms = (("P", "parameters", P), ("w", f"bytes of an element in {form}", w))
    grown = sum(step.stepped_form(t).nbytes(t.numel) * times for t, times in step.trained)
    whole = [n for _, _, n in _states(step) if n == grown]
    rest = step.state.requested - sum(whole)
    state = f"{len(whole)} x {amount.format('')}" if whole else o.why
    state += f" + {rest:,} B: {'counters' if whole else 'in all'}" if rest else ""
    shares = {
        s.what: (
            f"{'frozen, ' if fine else ''}{s.part}: {s.elements:,} x {s.format}, {s.tensors} tensors",
            "quant/",
            (("n", f"elements in {s.format}", s.elements),),
        )
        for s in step.recipe.shares
    }
    others: dict[str, tuple[str, str, Terms]] = {
        what: (words, TRL, ())
        for other in step.recipe.others
        for what, words in ((other.what, other.why), (f"{other.what} buffers", f"{other.what}: {BUFFERS}"))
    }
    if step.recipe.critic is not None:
        second, own_form = step.recipe.critic[0], step.recipe.critic[1].weights
        words = f"critic: {second.parameters.total:,} parameters x {FORMATS[own_form].bytes} B ({own_form})"
        others |= {"critic": (words, PPO, ()), "critic buffers": (f"critic: {BUFFERS}", PPO, ())}
    rollout = step.recipe.rollout
    if rollout is not None:
        others["engine"] = (rollout.words, ENGINE, ())
        others["generation: cache"] = (rollout.cache, stack.reference, ())
        others["completions that are scored"] = ("ids, mask and labels of the completions that are scored", TRL, ())
    policy = "policy: " if others else ""
    return {
        **shares,
        **{what: (what, stack.reference, ()) for what, _ in step.resident},
        **others,
        "parameters": (
            f"{policy}{frozen}{P:,} parameters x {w} B ({form}){in_fp32(step.model, form)}, {n} tensors",
            stack.reference,
            base,
        ),
        "adapters": (_amount(step, step.recipe.adapters)[0].format("trained parameters "), PEFT, own),
        "held": (_amount(step, step.recipe.beside)[0].format("elements of the adapters' buffers "), PEFT, ()),
        "beside": (_amount(step, step.recipe.beside)[0].format("elements that are not trained "), PEFT, ()),
        "master weights": ("master weights: " + amount.format("parameters "), MASTER, own),
        "main gradients": ("into which those of a pass are added: " + amount.format("parameters "), MASTER, own),
        "fp8 scales": (SCALES, SCALED, ()),
        "averages": (f"a copy of the whole model: {P:,} parameters x {w} B ({form}) and its buffers", AVERAGED, base),
        "other:buffers": (BUFFERS, stack.reference, ()),
        "optimizer_state": (f"{o.name}: {state}", o.source, (*own, *_states(step))),
        "the step's own": (f"{o.name}: what the step takes for a moment", o.source, own),
        "gradients": (amount.format("parameters "), stack.reference, own),
        "gradients that stay": (_amount(step, step.left())[0].format("parameters, never stepped, "), o.source, ()),
        "gradients as the step leaves them": (LEFT.format(amount.format("parameters ")), o.source, own),
    }


def _amount(step: Step, tensors: Iterable[tuple[Tensor, int]]) -> tuple[str, Terms]:
    """Elements times bytes by format, as words with a place for what they are, and as terms."""
    counts: dict[str, int] = {}
    for t, times in tensors:
        form = step.stepped_form(t).name
        counts[form] = counts.get(form, 0) + t.numel * times
    found = [(form, n, FORMATS[form].bytes) for form, n in counts.items()]
    terms: list[tuple[str, str, int]] = []
    for form, n, wide in found:
        terms += [("P", "trained parameters", n), ("w", f"bytes of an element in {form}", wide)]
    return " + ".join(f"{n:,} {{0}}x {wide} B ({form})" for form, n, wide in found), tuple(terms)


def _states(step: Step) -> Terms:
    """Bytes of each kind of state."""
    sums: dict[str, int] = {}
    for t, times in step.trained:
        for name, n in step.state_of(t, step.recipe.optimizer.resident):
            sums[name] = sums.get(name, 0) + times * n
    return tuple((name, "bytes of this state", n) for name, n in sums.items())
