"""Fine-tuning settled: what is trained, how the frozen model lies on the device, what runs in which format."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tonnage import quant
from tonnage.arch.model import Model
from tonnage.arch.tuning.adapters import FourBit, Packed, Tuning, packed
from tonnage.arch.tuning.tuners import LoRA
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate import trainable
from tonnage.estimate.adapter import ADAPTERS, Adapter, Asked
from tonnage.estimate.composites import forbidden, hit
from tonnage.estimate.methods import adapter, settings
from tonnage.estimate.named import layers_of, norms, saved, trained_part, trained_rows
from tonnage.estimate.switches import refuse
from tonnage.formats import FORMATS
from tonnage.memory import stacked_adapters
from tonnage.memory.adapters import Standing, adapters, local_names, targeted, trained_own
from tonnage.memory.weights import Share, stored
from tonnage.quant import Recipe
from tonnage.record import Record
from tonnage.tensors import Tensor
from tonnage.workload.training import Train

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tonnage.arch.tuning.tuners import Method
    from tonnage.quant import Entry
    from tonnage.quant._stored import Matrix

KEYS: Final = (
    "lora_targets", "lora_dropout", "modules_to_save", "virtual_tokens", "encoder_hidden", "adapter_options",
)  # fmt: skip
"""What says more about an adapter."""


TIED: Final = "the head shares the embedding's matrix: peft adapts it and warns that the adapter cannot be merged"


class Tuned(Record):
    """What fine-tuning makes of a model.

    Args:
        tuning: what stands for its matrices in a pass.
        trained: the tensors that are trained beside the model with how often each stands.
        beside: what else lies beside it.
        own: the model's own tensors that are trained.
        shares: its weights by part and format; empty where they are not packed.
        packing: how they are packed; None where they are not.
        weights: format of the weights that are not packed.
        adapter: name of the method; None where a part of the model itself is trained.
        rank: of the adapters; None where they have none.
        targets: module names that are adapted, as they were matched.
        caveats: what has to be said.
    """

    tuning: Tuning
    weights: str
    trained: Standing = ()
    beside: Standing = ()
    own: Standing = ()
    shares: tuple[Share, ...] = ()
    packing: Recipe | None = None
    adapter: str | None = None
    rank: int | None = None
    targets: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()

    @property
    def elements(self) -> int:
        """Trained parameters."""
        return sum(t.numel * times for t, times in (*self.trained, *self.own))

    def beside_loss(self, model: Model) -> None:
        """Refuse adapters of a head whose matrix the loss takes by itself.

        Raises:
            UnsupportedError: it has some.
        """
        if model.head is not None and self.tuning.adapts(model.head.name):
            raise UnsupportedError(
                f"adapters of {model.head.name} with a loss that takes its matrix by itself are not modelled",
                key="lora_targets", value=model.head.name, hint="--loss full and no --kernels",
            )  # fmt: skip


class Own(Record):
    """Adapters of a stack that is not peft.

    Args:
        dtype: their format.
        make: a method from names of modules below the layer, rank, dropout and format; None for peft's.
        keeps: products with packed matrices keep what they are given.
        embeds: beside packed matrices the embedding gets a gradient, which nothing steps or lets go of.
    """

    dtype: str = ADAPTERS
    keeps: bool = False
    embeds: bool = False
    make: Callable[[frozenset[str], int, float, str], Method] | None = None


def tuned(model: Model, w: Train, recipe: Recipe | None, weights: str, compute: str, own: Own | None = None) -> Tuned:
    """Settle a workload in which a part is trained.

    Args:
        model: that is fine-tuned.
        w: the workload.
        recipe: how the frozen weights are packed; None where they are not.
        weights: format of weights that are not packed.
        compute: format that products with packed weights are computed in.
        own: adapters that are not peft's; None where they are.

    Raises:
        InputError: a target matches nothing, or keys contradict each other.
        UnsupportedError: packed by a method whose backward pass is not modelled, or an unknown adapter.
    """
    if w.train_only or w.freeze_layers is not None or (w.freeze and not w.adapts):
        part = trained_part(model, w)
        standing = tuple((t, 1) for t in part)
        return Tuned(Tuning(own=trained_own(model, part, copied=False)), weights, own=standing)
    kind = adapter(w)
    if len(model.stacks) > 1:
        # Imported late: most models have one stack.
        from tonnage.estimate.paired import adapts

        adapts(model, kind)
    if own is not None and kind.whole:
        raise UnsupportedError(
            f"adapter = {kind.name} with modules of a stack of its own is not modelled", key="adapter", value=kind.name,
            hint="--stack transformers, or --adapter lora",
        )  # fmt: skip
    loaded, caveats = weights, []
    matrices: Packed | None = None
    shares: tuple[Share, ...] = ()
    if recipe is not None:
        # The first product casts its bias for good.
        recipe = recipe.but(loaded_bias=compute)
        if recipe.trains == trainable.BYTES:
            # Imported late: few weights are of 8 bit.
            from tonnage.estimate.eight_bit import biases

            recipe = recipe.but(loaded_bias=biases(model, w, recipe, weights, compute))
        matrices, shares, weights = _packed(model, w, recipe, weights, compute)
        caveats.append(f"{recipe.title}: the frozen weights")
        caveats += [trainable.OUTLIERS] if recipe.trains == trainable.BYTES else []
        if not kind.packs or (recipe.trains == trainable.BYTES and kind.name not in ("lora", "rslora")):
            trainable.stands_beside(kind.name)
        if kind.name == "ia3" and not w.kbit_prepared and not (w.precision or "").endswith(("autocast", "mixed")):
            raise UnsupportedError(
                "ia3 beside packed weights makes some of the keys, values and queries fp32 and leaves others in 16 "
                "bit, which attention refuses", key="adapter", value="ia3", hint="--kbit-prepared or --precision "
                "bf16-autocast",
            )  # fmt: skip
    elif w.kbit_prepared:
        # Nothing is packed that it would leave as it is.
        loaded = weights = "fp32"
    found = quant.entries(model, by_layer=False)
    method, targets, trained, beside = _method(model, w, kind, found, loaded, own or Own(), packs=recipe is not None)
    copies = norms(model, w) if kind.norms else saved(model, w)
    virtual = kind.virtual(w, model) if kind.virtual is not None else None
    rows = trained_rows(model, w, kind)
    bottleneck = (
        kind.bottleneck(settings(kind, w.adapter_options), model, weights) if kind.bottleneck is not None else None
    )
    prompted = kind.prompted(settings(kind, w.adapter_options), model) if kind.prompted is not None else None
    table = _table(model) if own is not None and own.embeds and matrices is not None else ()
    if own is not None and own.keeps and isinstance(matrices, FourBit):
        matrices = matrices.but(keeps=True)
    if model.head is not None and model.head.alias_of is not None and model.head.name in targets:
        caveats.append(TIED)
    return Tuned(
        tuning=Tuning(
            packed=matrices,
            method=method,
            own=trained_own(model, copies or table, copied=bool(copies)) if copies or table else None,
            virtual=virtual,
            rows=rows,
            prompted=prompted,
            bottleneck=bottleneck,
        ),
        weights=weights,
        trained=(
            *trained,
            *_alone(copies),
            *_alone(virtual.weights() if virtual is not None else ()),
            *_alone(rows.weights() if rows is not None else ()),
            *(
                bottleneck.weights(f"{model.decoder.path}.0", len(model.decoder.layers))
                if bottleneck is not None
                else ()
            ),
            *(prompted.weights(f"{model.decoder.path}.0.self_attn") if prompted is not None else ()),
        ),
        beside=(
            *beside,
            *_alone(rows.kept() if rows is not None else ()),
            *((Tensor(f"{t.name}.grad", t.axes, t.role, t.dims, dtype=weights), 1) for t in table),
        ),
        shares=shares,
        packing=recipe,
        adapter=kind.name,
        rank=(w.lora_rank or kind.rank) or None,
        targets=tuple(dict.fromkeys(name.rpartition(".")[2] for name in targets)),
        caveats=(*caveats, *([kind.told] if kind.told else [])),
    )


def _table(model: Model) -> tuple[Tensor, ...]:
    """The embedding."""
    return tuple(t for t in model.decoder.stem.weights() if t.role == "embedding")[:1]


def _alone(tensors: tuple[Tensor, ...]) -> Standing:
    """Tensors that stand once each, and in a storage of their own."""
    return tuple((Tensor(t.name, t.axes, t.role, t.dims, t.layer, None, t.dtype), 1) for t in tensors)


def _method(
    model: Model, w: Train, kind: Adapter, found: list[Entry], loaded: str, own: Own, *, packs: bool
) -> tuple[Method | None, tuple[str, ...], Standing, Standing]:
    """What is trained beside matrices, the modules that it is beside, and its tensors."""
    if kind.method is None:
        return None, (), (), ()
    stacks, gone = _stacks(model, w, kind, found)
    targets = targeted(model, found, w.lora_targets, kind.defaults, gone, heads=own.make is not None)
    out = forbidden(model, w)
    left = [(n, m) for n, m in targets if not hit(m.module, out)]
    if targets and not left:
        raise InputError(
            f"lora_targets: all that they name is frozen ({', '.join(w.freeze)})", key="lora_targets",
            value=", ".join(w.lora_targets), hint="--freeze none",
        )  # fmt: skip
    targets = left
    names = local_names(model, [m.module for _, m in targets])
    rank = w.lora_rank or kind.rank or 0
    inputs = layers_of(model, kind.inputs, [m for _, m in targets])
    form = own.dtype
    if packs and w.objective not in (None, "sft") and kind.name == "lora" and w.stack != "llama-factory":
        # TRL's trainers cast adapters beside packed weights.
        form = "bf16"
    if own.make is not None and kind.name == "lora":
        method = own.make(names, rank, w.lora_dropout or 0.0, form)
    else:
        asked = Asked(names, form, rank, w.lora_dropout or 0.0, loaded, inputs, settings(kind, w.adapter_options))
        _possible(kind, asked, [m for _, m in targets])
        method = kind.method(asked)
    trained, beside = adapters(model, targets, method, form)
    if stacks and isinstance(method, LoRA):
        local = {next(iter(local_names(model, [m.module]))): n for _, m, n in stacks}
        method = method.but(stacked=local, modules=method.modules | local.keys())
        trained = (*trained, *stacked_adapters.tensors(stacks, rank, form))
        targets = [*targets, *((times, m) for times, m, _ in stacks)]
    if kind.shared is not None:
        asked = Asked(names, form, rank, w.lora_dropout or 0.0, loaded, inputs, settings(kind, w.adapter_options))
        once = _alone(kind.shared(asked, [m for _, m in targets]))
        trained = (*trained, *((t, n) for t, n in once if t.role != "buffer"))
        beside = (*beside, *((t, n) for t, n in once if t.role == "buffer"))
    if hasattr(method, "bank"):
        _shared_alone(kind, w, [m for _, m in targets])
    return method, tuple(m.module for _, m in targets), trained, beside


def _shared_alone(kind: Adapter, w: Train, found: Sequence[Matrix]) -> None:
    """Refuse what else adds to a gradient that all layers share, or takes it early.

    Raises:
        UnsupportedError: several passes a step, an optimizer in the backward pass, an adapted head.
    """
    no = {
        "accumulate": (w.accumulate or 1) > 1, "retain": "grads" in w.retain,
        "optimizer": "lomo" in (w.optimizer or ""),
        "optimizer_in_backward": bool(w.optimizer_in_backward), "lora_targets": any(m.role == "head" for m in found),
    }  # fmt: skip
    words = f"adapter = {kind.name}, whose gradient all layers share, with {{key}} = {{value}} is not modelled"
    refuse(w, no, words, hint="without {key}, or --adapter lora")


def _possible(kind: Adapter, asked: Asked, found: Sequence[Matrix]) -> None:
    """Refuse a method beside a matrix that the library refuses.

    Raises:
        InputError: its sides do not divide, it is stored input first, or the like.
        UnsupportedError: the library takes it, and it is not modelled.
    """
    for m in found:
        why = kind.transposed if m.transposed else ""
        if not why and kind.refuses is not None:
            why = kind.refuses(asked, m.rows, m.columns)
        if why:
            raise (UnsupportedError if "not modelled" in why else InputError)(
                f"adapter = {kind.name} beside {m.module} ({m.rows} x {m.columns}): {why}",
                key="lora_targets" if m.transposed and kind.transposed else "adapter_options", value=m.module,
                hint="another setting or adapter, or --lora-targets without it",
            )  # fmt: skip


def _stacks(
    model: Model, w: Train, kind: Adapter, found: list[Entry]
) -> tuple[stacked_adapters.Stacks, frozenset[str]]:
    """Stacked experts and routers that get adapters, and names that mean these.

    Raises:
        InputError: with dropout, which peft refuses beside a parameter.
        UnsupportedError: packed experts.
    """
    if kind.name not in ("lora", "rslora") or not w.lora_targets:
        return [], frozenset()
    stacks = stacked_adapters.stacked(model, found, w.lora_targets)
    if stacks and w.lora_dropout:
        raise InputError(
            f"lora_dropout = {w.lora_dropout} beside stacked experts: peft refuses it", key="lora_dropout",
            value=str(w.lora_dropout), hint="no dropout, or --lora-targets attention",
        )  # fmt: skip
    if stacks and w.quant not in (None, "none"):
        raise UnsupportedError(
            "adapters of stacked experts beside packed weights are not modelled", key="lora_targets",
            value=", ".join(w.lora_targets), hint="--lora-targets attention",
        )  # fmt: skip
    return stacks, stacked_adapters.names(model)


def _packed(
    model: Model, w: Train, recipe: Recipe, weights: str, compute: str
) -> tuple[Packed, tuple[Share, ...], str]:
    """The packed matrices, all weights by part, and the format of those that stay as they are."""
    trainable.check(recipe, w.quant)
    # prepare_model_for_kbit_training casts every 16-bit weight that is not packed.
    left = "fp32" if w.kbit_prepared else weights
    return *frozen(model, recipe, left, compute, weights), left


def frozen(model: Model, recipe: Recipe, weights: str, compute: str, loaded: str) -> tuple[Packed, tuple[Share, ...]]:
    """Packed matrices that products are made with, and all weights by part.

    Args:
        model: whose.
        recipe: how they are packed, with products that are modelled.
        weights: format of weights that are not packed.
        compute: format that products with packed weights are computed in.
        loaded: format of all weights before any was packed.
    """
    assert recipe.trains is not None
    shares = stored(model, FORMATS[weights], recipe)
    names = quant.packed_modules(model, recipe)
    return packed(recipe.trains, local_names(model, names), compute, loaded, recipe.nested), shares


def check(w: Train) -> None:
    """Refuse keys of adapters where there are none.

    Raises:
        InputError: ``lora_targets`` and the like without an adapter; parts of the model with one.
        UnsupportedError: packed weights without adapters.
    """
    part = next((key for key in ("train_only", "freeze_layers") if getattr(w, key) not in (None, ())), None)
    if w.adapts:
        if part is not None:
            raise InputError(
                f"{part} beside an adapter, which freezes the whole model", key=part, value=str(getattr(w, part)),
                hint="--modules-to-save lm_head trains a copy of a module as well",
            )  # fmt: skip
        return
    for key in KEYS:
        if getattr(w, key) not in (None, ()):
            virtual = {
                "virtual_tokens": "--adapter prompt", "encoder_hidden": "--adapter p-tuning",
                "adapter_options": "--adapter oft",
            }  # fmt: skip
            none, hint = ("adapter", virtual[key]) if key in virtual else ("lora_rank", "--lora-rank 16")
            raise InputError(f"{key} is said, and no {none}", key=key, value=str(getattr(w, key)), hint=hint)
    if w.kbit_prepared or w.quant not in (None, "none"):
        key = "quant" if w.quant not in (None, "none") else "kbit_prepared"
        raise UnsupportedError(
            f"{key} = {getattr(w, key)}: packed weights are not trained themselves", key=key,
            value=str(getattr(w, key)), hint="--lora-rank 16 trains adapters beside them",
        )  # fmt: skip
