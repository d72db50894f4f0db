"""The answer to ``train``: one optimizer step on one device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.lines import Terms, lines, reserves
from tonnage.estimate.moments import instants, largest
from tonnage.estimate.result import Fit, Result
from tonnage.estimate.settle import (
    AS_NEWEST,
    KNOWN_STACKS,
    attention_told,
    checkpoint_format,
    chosen,
    default_length,
    filled,
    kernel,
    one_device,
    quantization,
    tokens_within,
)
from tonnage.estimate.summary import caching, no_caching_caveat, quantized_caveat, summary
from tonnage.estimate.training import Recipe, Step
from tonnage.estimate.verdict import fit
from tonnage.formats import FORMATS
from tonnage.memory.optimizers import optimizer
from tonnage.memory.overhead import cublas_workspace
from tonnage.releases import shown, since
from tonnage.stacks import Stack
from tonnage.tensors import Tensor
from tonnage.timeline import Rank, exact
from tonnage.workload.training import Train

if TYPE_CHECKING:
    from tonnage.estimate.savers import Implementations
    from tonnage.estimate.stream import Replay
    from tonnage.estimate.tuning import Tuned
    from tonnage.memory.recompute import Recompute

DEFAULT_SEQ: Final = 2048

PRESETS: Final = {
    # precision: format of weights, gradients and states; format that autocast computes in
    "fp32": ("fp32", None),
    "tf32": ("fp32", None),
    "bf16": ("bf16", None),
    "bf16-master": ("bf16", None),
    "fp16": ("fp16", None),
    "bf16-mixed": ("fp32", "bf16"),
    "fp16-mixed": ("fp32", "fp16"),
    "bf16-autocast": ("bf16", "bf16"),
    "fp16-autocast": ("fp16", "fp16"),
}

MASTER: Final = (
    "https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.0/megatron/core/optimizer/optimizer.py "
    "(Float16OptimizerWithFloat16Params)"
)
AVERAGED: Final = "https://github.com/pytorch/pytorch/blob/v2.13.0/torch/optim/swa_utils.py (AveragedModel)"
PEFT: Final = "https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/lora/"

NOT_MODELLED: Final = (
    "what loading the weights leaves in the allocator's cache",
    "scratch of kernels other than flash attention's backward pass",
    "copies of the labels and the attention mask that a data collator adds: 8 B a token each",
    "evaluation steps and checkpoint saving",
)


def answer(model: Model, w: Train, device: Device | None, *, in_use: int = 0) -> Result:
    """Memory of one training step in its steady state.

    Args:
        model: what is trained.
        w: the workload.
        device: where; None asks for the memory only.
        in_use: what other processes hold there. [byte]

    Raises:
        UnsupportedError: understood, and not modelled yet.
        InputError: contradictory.
    """
    degrees = one_device(w)
    stack: Stack = chosen("tonnage.stacks", "STACK", Stack, w.stack or "transformers", key="stack", known=KNOWN_STACKS)
    version, newer = stack.releases.read(w.stack_version, key="stack_version")
    _trainable(model)
    precision, weights, autocast = _precision(model, w, since(version, stack.precision))
    fine = _fine(model, w, weights, autocast)
    if fine is not None:
        weights = fine.weights
    seq = w.seq or default_length(model, DEFAULT_SEQ) - (w.virtual_tokens or 0)
    caveats = [*tokens_within(model, seq + (w.virtual_tokens or 0), "seq"), *([newer] if newer else [])]
    caveats += [AS_NEWEST] if version[0] < stack.releases.newest[0] else []
    attention, told = kernel(model, w.attention or "sdpa", dtype=autocast or weights, device=device)
    caveats += told
    adam = since(version, stack.optimizer)
    named = optimizer(adam if (w.optimizer or "adamw") == "adamw" else str(w.optimizer))
    architecture = device.architecture if device is not None else ""
    built = _built(model, w, stack, device)
    caveats += built.told if built else ()
    recipe = Recipe(
        weights=weights,
        autocast=autocast,
        kernel=attention,
        optimizer=named,
        batch=w.batch or 1,
        tokens=seq,
        accumulate=w.accumulate or 1,
        recompute=w.recompute not in (None, "none"),
        plan=_plan(w, stack),
        keep_logits="outputs" in w.retain,
        keep_gradients="grads" in w.retain,
        first_step=w.first_step,
        makes_mask=since(version, stack.makes_mask),
        workspace=cublas_workspace(architecture) if caching(device) else 0,
        tuning=fine.tuning if fine else None,
        adapters=fine.trained if fine else (),
        beside=fine.beside if fine else (),
        own=fine.own if fine else (),
        shares=fine.shares if fine else (),
        packing=fine.packing if fine else None,
        input_grads=fine is not None and fine.adapter is not None and w.recompute not in (None, "none"),
        fused=built.fused if built else None,
        loss=built.loss if built else None,
        in_backward=_in_backward(w),
        master=precision == "bf16-master",
        averaged=_averaged(w),
    )
    step = Step(model, recipe)
    caveats += _passed_by(step)
    caveats += [] if recipe.plan is None else [recipe.plan.told(len(model.decoder.layers))]
    rank = _rank(step, stack, device)
    verdict = None if device is None else fit(rank, device, in_use, doubt=model.ignored)
    if _replays(w, device, verdict):
        # Imported late: an answer whose verdict is clear does without.
        from tonnage.estimate.stream import replayed

        rank = _rank(step, stack, device, replayed(step, w.alloc_conf))
        verdict = None if device is None else fit(rank, device, in_use, doubt=model.ignored)
    values: dict[str, Any] = {
        **degrees,
        "model": model.name or model.model_type,
        "dtype": weights,
        "quant": w.quant or ("checkpoint" if fine and fine.shares else "none"),
        "attention": w.attention or ("eager" if attention == "eager" else "sdpa"),
        "stack": stack.name,
        "stack_version": w.stack_version or shown(version),
        "precision": precision,
        "weights_dtype": weights,
        "compute_dtype": autocast or weights,
        **_optimized(precision, weights),
        "optimizer": named.name,
        "batch": recipe.batch,
        "accumulate": recipe.accumulate,
        "seq": seq,
        "recompute": w.recompute or "none",
        "loss": built.named if built else "full",
        "kernels": built.kernels if built else "none",
        "adapter": fine.adapter if fine else None,
        "lora_rank": fine.rank if fine else None,
        "lora_targets": fine.targets if fine else (),
        "lora_dropout": (w.lora_dropout or 0.0) if fine and fine.adapter else None,
        "kbit_prepared": bool(w.kbit_prepared),
    }
    return Result(
        model=summary(model, trainable=fine.elements if fine else None),
        workload={"task": "train", "model": values["model"], **filled(w, values)},
        defaulted=model.defaulted,
        ignored=model.ignored,
        ranks=(rank,),
        fit=verdict,
        caveats=(
            *caveats,
            *(fine.caveats if fine else quantized_caveat(model)),
            *attention_told(step.passes.kernels, w.attention or "sdpa", device),
            *no_caching_caveat(device),
        ),
        not_modelled=(*NOT_MODELLED, *([named.rough] if named.rough else [])),
        extras={"attention_kernel": attention, "incomplete": list(model.ignored)},
    )


def _rank(step: Step, stack: Stack, device: Device | None, replay: Replay | None = None) -> Rank:
    """What the rank holds at its peak, and its instants: by the replay through the allocator where there is one."""
    static = step.static().allocated if replay is None else replay.static
    found = instants(step.moments()) if replay is None else replay.instants
    peak, runner_up = largest(found)
    # The walk is made once more, up to the largest instant, to see what is alive there.
    moment = next(m for m in step.moments() if m.name == peak.name)
    components = lines(moment, step.held.values(), _why(step, stack))
    components += reserves(moment.level.allocated, static, caching=caching(device))
    o = step.recipe.optimizer
    held = step.paged.requested
    paged = [exact("optimizer_state", held, f"{o.name}: {o.why}", o.source, tier="host")] if held else []
    return Rank(
        rank="pp0",
        multiplicity=1,
        static_bytes=static,
        peak=peak,
        runner_up=runner_up,
        components=(*(components if replay is None else replay.tiers(components)), *paged),
        instants=found,
    )


def _replays(w: Train, device: Device | None, verdict: Fit | None) -> bool:
    """Whether the step is played through the allocator: where it was asked for, or the verdict is open without."""
    if not caching(device):
        return False
    if w.replay is None and w.alloc_conf is None:
        return verdict is None or verdict.verdict == "uncertain"
    return w.replay is not False


def _optimized(precision: str, weights: str) -> dict[str, Any]:
    """What the optimizer steps: copies in fp32, or the weights themselves."""
    master = precision == "bf16-master"
    return {"grad_dtype": "fp32" if master else weights, "state_dtype": "fp32" if master else weights, "master": master}


def _averaged(w: Train) -> bool:
    """Whether a copy of the model holds moving averages of its weights."""
    if w.ema and w.lora_rank is not None:
        raise UnsupportedError(
            "moving averages beside adapters are not modelled", key="ema", value="true", hint="leave out ema"
        )
    return bool(w.ema)


def _in_backward(w: Train) -> bool:
    """Whether the optimizer steps in the backward pass; what it cannot be combined with is named."""
    if not w.optimizer_in_backward:
        return False
    against = {
        "accumulate": (w.accumulate or 1) > 1, "retain": "grads" in w.retain, "first_step": w.first_step,
        "precision": w.precision == "bf16-master",
    }  # fmt: skip
    for key, said in against.items():
        if said:
            raise InputError(
                f"optimizer_in_backward lets go of every gradient at once, which {key} = {getattr(w, key)} contradicts",
                key="optimizer_in_backward", value="true", hint=f"leave out {key}",
            )  # fmt: skip
    return True


def _plan(w: Train, stack: Stack) -> Recompute | None:
    """Which layers are computed again, where it is not all or none."""
    if w.recompute in (None, "none", "full"):
        return None
    # Imported late: most answers do without.
    from tonnage.memory.recompute import settled

    found = settled(w.recompute)
    if str(w.recompute).partition("-")[0] not in stack.recomputes:
        raise UnsupportedError(
            f"recompute = {w.recompute}: {stack.name} has {', '.join(stack.recomputes)}", key="recompute",
            value=w.recompute,
        )  # fmt: skip
    return found


def _built(model: Model, w: Train, stack: Stack, device: Device | None) -> Implementations | None:
    """What computes blocks and loss; None where all is the model's own code."""
    if w.kernels in (None, "none") and w.loss in (None, "full"):
        return None
    # Imported late: most answers do without.
    from tonnage.estimate.savers import implementations

    return implementations(model, w, stack, device)


def _fine(model: Model, w: Train, weights: str, autocast: str | None) -> Tuned | None:
    """What adapters make of the model; None where the whole model is trained."""
    packs = w.quant not in (None, "none") or w.kbit_prepared
    part = w.train_only or w.freeze_layers is not None or w.modules_to_save or w.virtual_tokens is not None
    adapts = w.adapter is not None or w.lora_rank is not None or w.lora_targets or w.lora_dropout
    if not (packs or part or adapts):
        return None
    # Imported late: most answers need no quantization scheme.
    from tonnage.estimate.tuning import check, tuned

    check(w)
    recipe, told = quantization(model, w.quant)
    if model.classes is not None:
        raise UnsupportedError(
            "training a part of a classifier is not modelled yet", key="head", value="classify",
            hint="without adapters and frozen layers the whole classifier is trained",
        )  # fmt: skip
    found = tuned(model, w, recipe, weights, autocast or weights)
    return found.but(caveats=(*told, *found.caveats))


def _passed_by(step: Step) -> list[str]:
    """What is said of parameters that a step on token ids leaves without a gradient."""
    if not step.idle:
        return []
    n = sum(t.numel * times for t, times in step.idle)
    roles = dict.fromkeys(t.role for t, _ in step.idle)
    said = ", ".join(role.replace("_", " ") for role in roles)
    more = "; images and sound would add activations of their own" if {"vision", "audio"} & set(roles) else ""
    return [
        f"a step on token ids alone: no gradient reaches {n:,} parameters ({said}), so that the optimizer keeps no "
        f"state for them{more}"
    ]


def _states(step: Step) -> Terms:
    """Bytes of each kind of state."""
    sums: dict[str, int] = {}
    for t, times in step.trained:
        for name, n in step.state_of(t, step.recipe.optimizer.resident):
            sums[name] = sums.get(name, 0) + times * n
    return tuple((name, "bytes of this state", n) for name, n in sums.items())


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


def _trainable(model: Model) -> None:
    if len(model.stacks) > 1:
        raise UnsupportedError(
            f"training memory of encoder-decoder models ({model.model_type}) is not modelled yet", key="model",
            value=model.model_type, hint="tonnage params and tonnage serve answer for it",
        )  # fmt: skip
    if model.classes is not None and model.head is not None and (not model.head.pooled or model.classes == 1):
        why = "with one label, a regression," if model.head.pooled else f"of {model.model_type}"
        raise UnsupportedError(
            f"training a classifier {why} is not modelled yet",
            key="head",
            value="classify",
            hint="--head causal or --head masked trains the language model",
        )
    if model.head is None:
        raise UnsupportedError(
            f"{model.class_name or model.model_type} has no head, so there is no loss to train on", key="model",
            value=model.model_type, hint="--head causal or --head masked adds one",
        )  # fmt: skip


def _precision(model: Model, w: Train, default: str) -> tuple[str, str, str | None]:
    """The preset, the format of the weights and what autocast computes in."""
    stored = checkpoint_format(model, w.dtype)
    precision = w.precision or (default if w.lora_rank is None else None) or stored
    if precision not in PRESETS:
        raise UnsupportedError(
            f"precision = {precision} is not modelled yet",
            key="precision",
            value=precision,
            hint=f"one of {', '.join(PRESETS)}",
        )
    weights, autocast = PRESETS[precision]
    if w.lora_rank is not None and precision == "bf16-master":
        raise UnsupportedError(
            "master weights of adapters are not modelled: peft makes them in fp32", key="precision", value=precision,
            hint="--precision bf16",
        )  # fmt: skip
    if w.lora_rank is not None and autocast is not None:
        # What is frozen keeps the checkpoint's format: only what is trained is made in fp32.
        weights = stored
    wanted = {
        "dtype": weights,
        "weights_dtype": weights,
        "compute_dtype": autocast or weights,
        **_optimized(precision, weights),
    }
    for key, value in wanted.items():
        said = getattr(w, key)
        if said is None or said == value:
            continue
        if (key != "master" and said in FORMATS) or key == "master":
            raise UnsupportedError(
                f"{key} = {said} is not modelled with precision = {precision}, which has {value}", key=key, value=said,
                hint=f"presets: {', '.join(PRESETS)}",
            )  # fmt: skip
        checkpoint_format(model, str(said))
    return precision, weights, autocast


def _why(step: Step, stack: Stack) -> dict[str, tuple[str, str, Terms]]:
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
            f"frozen, {s.part}: {s.elements:,} x {s.format}, {s.tensors} tensors",
            "quant/",
            (("n", f"elements in {s.format}", s.elements),),
        )
        for s in step.recipe.shares
    }
    return {
        **shares,
        "parameters": (
            f"{frozen}{P:,} parameters x {w} B ({form}), {n} tensors",
            stack.reference,
            base,
        ),
        "adapters": (_amount(step, step.recipe.adapters)[0].format("trained parameters "), PEFT, own),
        "beside": (_amount(step, step.recipe.beside)[0].format("elements that are not trained "), PEFT, ()),
        "master weights": ("master weights: " + amount.format("parameters "), MASTER, own),
        "main gradients": ("into which those of a pass are added: " + amount.format("parameters "), MASTER, own),
        "averages": (f"a copy of the whole model: {P:,} parameters x {w} B ({form}) and its buffers", AVERAGED, base),
        "other:buffers": ("inverse frequencies and the like, in fp32", stack.reference, ()),
        "optimizer_state": (f"{o.name}: {state}", o.source, (*own, *_states(step))),
        "the step's own": (f"{o.name}: what the step takes for a moment", o.source, own),
        "gradients": (amount.format("parameters "), stack.reference, own),
    }
