"""The answer to ``train``: one optimizer step on one device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.errors import UnsupportedError
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
    refuse,
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
from tonnage.tensors import size
from tonnage.timeline import Rank, exact
from tonnage.workload.training import Train

if TYPE_CHECKING:
    from tonnage.estimate.stream import Replay
    from tonnage.estimate.tuning import Tuned

DEFAULT_SEQ: Final = 2048

PRESETS: Final = {
    # precision: format of weights, gradients and states; format that autocast computes in
    "fp32": ("fp32", None),
    "tf32": ("fp32", None),
    "bf16": ("bf16", None),
    "fp16": ("fp16", None),
    "bf16-mixed": ("fp32", "bf16"),
    "fp16-mixed": ("fp32", "fp16"),
    "bf16-autocast": ("bf16", "bf16"),
    "fp16-autocast": ("fp16", "fp16"),
}

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
    refuse(w, "loss", "only the full loss is modelled so far", unless=(None, "full"), hint="--loss full")
    if (w.recompute or "none") not in stack.recomputes:
        raise UnsupportedError(
            f"recompute = {w.recompute}: {stack.name} has {', '.join(stack.recomputes)}",
            key="recompute",
            value=w.recompute,
        )
    _trainable(model)
    precision, weights, autocast = _precision(model, w, since(version, stack.precision))
    fine = _fine(model, w, weights, autocast)
    if fine is not None:
        weights = fine.weights
    seq = w.seq or default_length(model, DEFAULT_SEQ)
    caveats = [*tokens_within(model, seq, "seq"), *([newer] if newer else [])]
    caveats += [AS_NEWEST] if version[0] < stack.releases.newest[0] else []
    attention, told = kernel(model, w.attention or "sdpa", dtype=autocast or weights, device=device)
    caveats += told
    adam = since(version, stack.optimizer)
    named = optimizer(adam if (w.optimizer or "adamw") == "adamw" else str(w.optimizer))
    architecture = device.architecture if device is not None else ""
    recipe = Recipe(
        weights=weights,
        autocast=autocast,
        kernel=attention,
        optimizer=named,
        batch=w.batch or 1,
        tokens=seq,
        accumulate=w.accumulate or 1,
        recompute=w.recompute == "full",
        keep_logits="outputs" in w.retain,
        keep_gradients="grads" in w.retain,
        first_step=w.first_step,
        makes_mask=since(version, stack.makes_mask),
        workspace=cublas_workspace(architecture) if caching(device) else 0,
        tuning=fine.tuning if fine else None,
        adapters=fine.trained if fine else (),
        shares=fine.shares if fine else (),
        packing=fine.packing if fine else None,
        input_grads=fine is not None and w.recompute == "full",
    )
    step = Step(model, recipe)
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
        "grad_dtype": weights,
        "state_dtype": weights,
        "master": False,
        "optimizer": named.name,
        "batch": recipe.batch,
        "accumulate": recipe.accumulate,
        "seq": seq,
        "recompute": w.recompute or "none",
        "loss": "full",
        "lora_targets": fine.targets if fine else (),
        "lora_dropout": (w.lora_dropout or 0.0) if fine else None,
        "kbit_prepared": bool(w.kbit_prepared),
    }
    return Result(
        model=summary(model, trainable=None if fine is None else sum(t.numel * n for t, n in fine.trained)),
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
    paged = (
        [exact("optimizer_state", step.state.requested, f"{o.name}: {o.why}", o.source, tier="host")] if o.paged else []
    )
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


def _fine(model: Model, w: Train, weights: str, autocast: str | None) -> Tuned | None:
    """What adapters make of the model; None where the whole model is trained."""
    if w.lora_rank is None and w.quant in (None, "none") and not (w.lora_targets or w.lora_dropout or w.kbit_prepared):
        return None
    # Imported late: most answers need no quantization scheme.
    from tonnage.estimate.tuning import check, tuned

    check(w)
    recipe, told = quantization(model, w.quant)
    found = tuned(model, w, recipe, weights, autocast or weights)
    return found.but(caveats=(*told, *found.caveats))


def _states(step: Step) -> Terms:
    """Bytes of each kind of state."""
    sums: dict[str, int] = {}
    for t, times in step.trained:
        for name, axes, form in step.recipe.optimizer.state(t):
            size_of = (step.form_of(t) if form is None else FORMATS[form]).nbytes(size(axes))
            sums[name] = sums.get(name, 0) + times * size_of
    return tuple((name, "bytes of this state", n) for name, n in sums.items())


def _trainable(model: Model) -> None:
    if len(model.stacks) > 1:
        raise UnsupportedError(
            f"training memory of encoder-decoder models ({model.model_type}) is not modelled yet", key="model",
            value=model.model_type, hint="tonnage params and tonnage serve answer for it",
        )  # fmt: skip
    if model.classes is not None:
        raise UnsupportedError(
            "training a classifier's head is not modelled yet",
            key="head",
            value="classify",
            hint="--head causal trains the language model",
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
    if w.lora_rank is not None and autocast is not None:
        # What is frozen keeps the checkpoint's format: only what is trained is made in fp32.
        weights = stored
    wanted = {
        "dtype": weights,
        "weights_dtype": weights,
        "compute_dtype": autocast or weights,
        "grad_dtype": weights,
        "state_dtype": weights,
        "master": False,
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
    trained = sum(t.numel * times for t, times in step.trained)
    kept = {t.dtype or form for t, _ in step.trained}.pop()
    wide = FORMATS[kept].bytes
    base: Terms = (("P", "parameters", P), ("w", f"bytes of an element in {form}", w))
    own: Terms = (("P", "trained parameters", trained), ("w", f"bytes of an element in {kept}", wide))
    whole = [n for _, _, n in _states(step) if n == trained * wide]
    rest = step.state.requested - sum(whole)
    state = f"{len(whole)} x {trained:,} x {wide} B ({kept})" if whole else o.why
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
            f"{'frozen, ' if fine else ''}{P:,} parameters x {w} B ({form}), {n} tensors",
            stack.reference,
            base,
        ),
        "adapters": (f"{trained:,} trained parameters x {wide} B ({kept})", PEFT, own),
        "other:buffers": ("inverse frequencies and the like, in fp32", stack.reference, ()),
        "optimizer_state": (f"{o.name}: {state}", o.source, (*own, *_states(step))),
        "the step's own": (f"{o.name}: what the step takes for a moment", o.source, own),
        "gradients": (f"{trained:,} parameters x {wide} B ({kept})", stack.reference, own),
    }
