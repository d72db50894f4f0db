"""The answer to ``train``: one optimizer step on one device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from tonnage.arch.forward import Mixers
from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.errors import UnsupportedError
from tonnage.estimate import wanted
from tonnage.estimate.precision import narrowed, optimized
from tonnage.estimate.precision import settled as precision_of
from tonnage.estimate.ranked import ranked, step_of
from tonnage.estimate.recipe import Recipe
from tonnage.estimate.result import Fit, Result
from tonnage.estimate.settle import (
    AS_NEWEST,
    asked_as,
    attention_told,
    default_length,
    filled,
    kernel,
    loaded_in,
    one_device,
    quantization,
    remarks,
    tokens_within,
)
from tonnage.estimate.summary import caching, no_caching_caveat, quantized_caveat, summary
from tonnage.estimate.switches import (
    averaged,
    clips,
    elements,
    emptied,
    hosts,
    in_backward,
    offloads,
    padded,
    targets,
)
from tonnage.estimate.trained import passed_by, reverses, trainable
from tonnage.estimate.verdict import fit
from tonnage.memory.optimizers import at_rank, optimizer, spelled
from tonnage.memory.overhead import cublas_workspace
from tonnage.releases import Version, shown, since
from tonnage.stacks import Stack
from tonnage.stacks import stack as stack_of
from tonnage.workload.training import OBJECTIVE_KEYS, Train

if TYPE_CHECKING:
    from tonnage.estimate.objectives import Aim
    from tonnage.estimate.tuning import Own, Tuned
    from tonnage.memory.weights import Share

DEFAULT_SEQ: Final = 2048

OFFLOADS: Final = (
    "inputs of checkpointed layers go to the host, as TRL's and torchtune's OffloadActivations copy them: those of "
    "five layers are still on the device; what stands behind the layers is answered as if it stayed"
)
HOSTS: Final = (
    "every tensor that autograd saves, weights as well, goes to pinned memory of the host and comes back for each "
    "operation that saved it, as torch.autograd.graph.save_on_cpu(pin_memory=True) copies them"
)
ALONE: Final = ("trl", "trl-chunks", "unsloth")
"""Losses of stacks that take the head's matrix by itself."""
COLLATED: Final = "copies of the labels and the attention mask that a data collator adds: 8 B a token each"
LOADED: Final = "what loading the weights leaves in the allocator's cache"
SKIPS: Final = (5, 15)
"""Release from which on the Trainer's evaluation tells Liger to make no logits. src/transformers/trainer.py."""
EVALUATED: Final = "evaluation steps and checkpoint saving"
NOT_MODELLED: Final = (
    LOADED,
    "scratch of kernels other than flash attention's backward pass and sums over rows",
    COLLATED,
    EVALUATED,
)


def answer(
    model: Model,
    w: Train,
    device: Device | None,
    *,
    in_use: int = 0,
    beside: Mapping[str, Model] | None = None,
    doubt: tuple[str, ...] = (),
) -> Result:
    """Memory of one training step in its steady state.

    Args:
        model: what is trained.
        w: the workload.
        device: where; None asks for the memory only.
        in_use: what other processes hold there. [byte]
        beside: further models that the workload names, by the key that names them.
        doubt: what was asked and is not answered; it forbids "fits".

    Raises:
        UnsupportedError: understood, and not modelled yet.
        InputError: contradictory.
    """
    degrees = one_device(w)
    stack = stack_of(w.stack)
    version, newer = stack.releases.read(w.stack_version, key="stack_version")
    trainable(model, w)
    doubt = (*model.ignored, *since(version, stack.left_out), *doubt)
    runs = wanted.runs(model, w, stack)
    model = model if runs is None else runs.model
    own: Callable[[str], Own] | None = None
    if stack.name == "transformers" and version < stack.releases.newest:
        # Imported late: most answers are of the newest release.
        from tonnage.estimate import older

        model = older.as_of(model, version)
        doubt = (*doubt, *older.told(model, w, version))
    if stack.name != "transformers":
        # Imported late: the usual stack has no defaults beside its release's.
        from tonnage.estimate.stacked import as_stack

        model, w, own, foreign = as_stack(model, w, stack, version)
        doubt = (*doubt, *foreign)
    mixing, asked = wanted.mixing(model, w, device), w.kernels
    w = w if mixing is None else w.but(kernels=mixing.kernels)
    precision, weights, autocast = precision_of(model, w, since(version, stack.precision))
    model, loaded = loaded_in(model, weights), weights
    fine = _fine(model, w, weights, autocast, stack, own(weights) if own else None)
    if fine is not None:
        weights = fine.weights
        doubt = (*doubt, stack.packs) if stack.packs and fine.shares else doubt
    seq = w.seq or default_length(model, DEFAULT_SEQ) - (w.virtual_tokens or 0)
    said_apart: list[str] = []
    if reverses(model):
        # Imported late: most layers keep what they are given.
        from tonnage.estimate import reversible

        seq, said_apart = reversible.length(model, w.seq, seq), reversible.told(model, weights)
    caveats = [*tokens_within(model, seq + (w.virtual_tokens or 0), "seq"), *([newer] if newer else []), *said_apart]
    caveats += [AS_NEWEST] if version[0] < stack.releases.newest[0] else []
    if w.attention == "flex" and stack.restated is not None:
        # Imported late: few ask for it.
        from tonnage.estimate.flexible import of_stack

        of_stack(model, w, stack, device)
    caveats += mixing.told if mixing else ()
    attention, told = kernel(model, w.attention or "sdpa", dtype=autocast or weights, device=device)
    caveats += [*told, *remarks(model)]
    adam = since(version, stack.optimizer)
    steps = spelled(w.optimizer)
    named = at_rank(optimizer(adam if steps == "adamw" else steps), w.optimizer_rank)
    named = named if named.fitted is None else named.fitted(model.weights())
    architecture = device.architecture if device is not None else ""
    built = wanted.built(model, w if w.objective in (None, "sft") else w.but(loss="full"), stack, device)
    if built is not None and built.loss is not None and fine is not None and (own is None or built.named in ALONE):
        fine.beside_loss(model)
    if built is not None and w.first_step:
        built = built.at_first()
    caveats += built.told if built else ()
    narrow, scales, said = narrowed(model, w, precision, (w.batch or 1) * seq, device)
    caveats += said
    caveats += [named.told] if named.told else []
    packed: tuple[Share, ...] = ()
    if named.packs is not None:
        # Imported late: most optimizers step weights as they lie there.
        from tonnage.estimate import int8

        narrow, packed, said = int8.settled(model, w, named, precision, weights)
        caveats, doubt = [*caveats, *said], (*doubt, int8.DOUBT)
    if w.optimizer_in_backward and named.layerwise is not None:
        named = named.layerwise()
    # GRPO takes a group of completions a pass, and KTO compares answers of a batch.
    batch = w.batch or {"grpo": w.generations or 8, "rloo": w.generations or 2, "kto": 2}.get(w.objective or "", 1)
    rows = wanted.rows(model, w, stack, version, attention, batch, seq, autocast or weights)
    texts = rows.texts
    caveats, doubt = [*caveats, *rows.told], (*doubt, *rows.doubt)
    recipe = Recipe(
        weights=weights,
        loaded=loaded,
        autocast=autocast,
        kernel=attention,
        optimizer=named,
        batch=rows.count,
        tokens=rows.tokens,
        texts=texts,
        accumulate=w.accumulate or 1,
        recompute=w.recompute not in (None, "none"),
        plan=wanted.plan(model, w, stack, version),
        offloads=offloads(w),
        hosts=hosts(model, w),
        keep_logits=any(kept.endswith("outputs") for kept in w.retain),
        keep_step=any(kept.endswith("-outputs") for kept in w.retain),
        keep_last="last-outputs" in w.retain,
        keep_gradients="grads" in w.retain,
        first_step=bool(w.first_step),
        targets=targets(model, w, seq),
        evaluates=w.eval_batch,
        evaluates_fused=stack.name == "transformers" and version >= SKIPS,
        makes_mask=(texts is not None and texts.found(rows.count))
        or padded(model, w)
        or since(version, stack.makes_mask),
        workspace=cublas_workspace(architecture) if caching(device) else 0,
        tuning=fine.tuning if fine else None,
        adapters=fine.trained if fine else (),
        beside=fine.beside if fine else (),
        own=fine.own if fine else (),
        shares=fine.shares if fine else packed,
        packing=fine.packing if fine else None,
        input_grads=wanted.input_grads(w, stack, version, adapts=fine is not None and fine.adapter is not None),
        mixer=mixing.mixers if mixing else Mixers(),
        fused=built.fused if built else None,
        narrow=narrow,
        scales=scales,
        resident=stack.resident,
        loss=built.loss if built else None,
        in_backward=in_backward(w, named),
        master=precision == "bf16-master",
        averaged=averaged(w),
        clips=clips(w, named),
        empties=emptied(w, stack, packs=fine is not None and bool(fine.packing)),
        pictures=wanted.pictures(model, w, seq, attention),
    )
    if w.eval_batch is not None:
        # Imported late: most answers are of the step alone.
        from tonnage.estimate import evaluation

        evaluation.refused(model, w)
        caveats.append(evaluation.TOLD)
    aim = _aim(model, w, recipe, beside or {}, device, _of_trl(stack, version))
    if aim is not None:
        recipe = aim.recipe
        caveats += aim.caveats
    rough: tuple[str, ...] = ()
    if w.compile:
        # Imported late: most steps are not compiled.
        from tonnage.estimate import compiling

        how = compiling.compiled(model, w, stack, recipe)
        recipe = recipe.but(compiled=how)
        caveats += compiling.told(stack, how, model, recipe)
        rough = compiling.NOT_MODELLED
    step = step_of(model, recipe)
    caveats += passed_by(step.idle)
    caveats += [OFFLOADS] if recipe.offloads else [HOSTS] if recipe.hosts else []
    caveats += [] if recipe.plan is None else [recipe.plan.told(len(model.decoder.layers))]
    caveats += [] if runs is None else [runs.told]
    loading = None
    if stack.places or recipe.packing is not None:
        # Imported late: most models are moved as a whole.
        from tonnage.estimate.loading import brought

        loading = brought(step, w, stack, version, loaded, device)
    rank = ranked(step, stack, device, loading)
    ends = [] if runs is None else [ranked(step_of(m, recipe), stack, device, loading) for m in runs.others]
    widened = () if runs is None else tuple(runs.lines(rank, ends))
    rank = rank.but(components=(*rank.components, *widened))
    verdict = None if device is None else fit(rank, device, in_use, doubt=doubt)
    told_apart = (COLLATED if aim else "", EVALUATED if w.eval_batch else "")
    left_out = tuple(n for n in NOT_MODELLED if n not in told_apart)
    long = mixing is not None and w.replay is None and mixing.long(step.passes.layers)
    if not long and _replays(w, recipe, device, verdict):
        # Imported late: an answer whose verdict is clear does without.
        from tonnage.estimate.loading import brought
        from tonnage.estimate.stream import replayed, room_of

        loading = loading or brought(step, w, stack, version, loaded, device)
        caveats += loading.told
        left_out = tuple(n for n in left_out if n != LOADED or not loading.known)
        room = None if device is None else room_of(rank, device, in_use)
        play = replayed(step, w.alloc_conf, loading, room)
        caveats += play.told
        rank = ranked(step, stack, device, loading, play)
        rank = rank.but(components=(*rank.components, *widened))
        verdict = None if device is None else fit(rank, device, in_use, doubt=doubt)
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
        **optimized(precision, weights),
        "optimizer": named.name,
        "batch": batch,
        "accumulate": recipe.accumulate,
        "seq": seq,
        "packing": w.packing or "none",
        "packed_texts": texts.count if texts else None,
        "target_seq": recipe.targets,
        "recompute": w.recompute or "none",
        "experts": w.experts,
        "compile": bool(w.compile),
        "offload": w.offload or "none",
        "loss": built.named if built else "full",
        "kernels": asked or "none" if mixing else built.kernels if built else "none",
        "fp8_recipe": (w.fp8_recipe or "tensorwise") if precision.startswith("fp8") else None,
        "adapter": fine.adapter if fine else None,
        "lora_rank": fine.rank if fine else None,
        "lora_targets": fine.targets if fine else (),
        "lora_dropout": (w.lora_dropout or 0.0) if fine and fine.adapter else None,
        "kbit_prepared": bool(w.kbit_prepared),
        **(aim.values if aim else {"objective": "sft"}),
    }
    return Result(
        model=summary(model, trainable=fine.elements if fine else elements(model)),
        workload={"task": "train", "model": values["model"], **filled(w, values)},
        defaulted=model.defaulted,
        ignored=model.ignored,
        ranks=(rank,),
        fit=verdict,
        caveats=(
            *doubt[len(model.ignored) :],
            *caveats,
            *(fine.caveats if fine else quantized_caveat(model)),
            *attention_told(step.passes.kernels, w.attention or "sdpa", device),
            *no_caching_caveat(device),
        ),
        not_modelled=(
            *left_out,
            *rough,
            *(aim.not_modelled if aim else ()),
            *([named.rough] if named.rough else []),
        ),
        extras={"attention_kernel": asked_as(attention), "incomplete": list(doubt)},
    )


def _replays(w: Train, recipe: Recipe, device: Device | None, verdict: Fit | None) -> bool:
    """Whether the step is played through the allocator: where it was asked for, or the verdict is open without."""
    if recipe.compiled is not None or recipe.optimizer.packs is not None:
        return False
    if not caching(device):
        return False
    writes = None if recipe.rollout is None else recipe.rollout.run
    if writes is not None and writes.missing:
        if w.replay or w.alloc_conf is not None:
            raise UnsupportedError(
                f"what the model writes is not played through the allocator: {writes.missing[0]}", key="replay",
                value="true", hint="leave it out",
            )  # fmt: skip
        return False
    if w.replay is None and recipe.rollout is not None and recipe.rollout.long:
        return False
    if w.replay is None and w.alloc_conf is None and not w.empty_cache:
        return verdict is None or verdict.verdict == "uncertain"
    return w.replay is not False


def _aim(
    model: Model, w: Train, recipe: Recipe, beside: Mapping[str, Model], device: Device | None, release: Version
) -> Aim | None:
    """What an objective other than the next token's makes of the step."""
    if w.objective in (None, "sft") and all(getattr(w, key) is None for key in OBJECTIVE_KEYS):
        return None
    # Imported late: most answers do without.
    from tonnage.estimate.objectives import aimed

    return aimed(model, w, recipe, beside, None if device is None else device.capacity.bytes, release)


def _of_trl(stack: Stack, version: Version) -> Version:
    """The release of TRL whose trainers run."""
    return version if stack.trainers is None else since(version, stack.trainers)


def _fine(model: Model, w: Train, weights: str, autocast: str | None, stack: Stack, own: Own | None) -> Tuned | None:
    """What adapters make of the model; None where the whole model is trained."""
    packs = w.quant not in (None, "none") or w.kbit_prepared
    part = w.train_only or w.freeze_layers is not None or w.modules_to_save or w.virtual_tokens is not None
    part = part or w.encoder_hidden is not None or w.adapter_options or any(name != "none" for name in w.freeze)
    if not (packs or part or w.adapts or w.lora_targets or w.lora_dropout):
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
    if recipe is not None and stack.packs_head:
        recipe = recipe.but(adds_default=False)
    if recipe is not None:
        # Imported late: most weights are not packed.
        from tonnage import quant

        told += quant.left(model, recipe)
    found = tuned(model, w, recipe, weights, autocast or weights, own)
    return found.but(caveats=(*told, *found.caveats))
