"""Ways of fine-tuning by the name that users say: what each trains, and what it takes when nothing more is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from tonnage.arch.adalora import AdaLoRA
from tonnage.arch.tuners import IA3, DoRA, LoRA, Method, VeRA
from tonnage.arch.virtual import Virtual
from tonnage.errors import InputError, UnsupportedError, nearest
from tonnage.memory import adapter_targets as targets
from tonnage.memory.adapters import local_names, own_weights
from tonnage.record import Record
from tonnage.tensors import Tensor

if TYPE_CHECKING:
    from tonnage.arch.ends import Stem
    from tonnage.arch.model import Model
    from tonnage.quant import Entry
    from tonnage.quant._stored import Matrix
    from tonnage.workload.training import Train

ADAPTERS: Final = "fp32"
"""peft casts adapters that it makes over 16-bit weights (``autocast_adapter_dtype``)."""

Make = Callable[[frozenset[str], int, float, str, frozenset[str], str], Method]
"""A method from modules, rank, dropout, the format that frozen matrices were loaded in, modules of scaled inputs, and
its own format."""


class Adapter(Record):
    """A way of fine-tuning beside a frozen model.

    Args:
        name: as users say it.
        method: what is trained beside matrices; None for nothing.
        rank: when none is said; None where it has to be said; 0 where there is none.
        drops: takes a dropout of its input.
        defaults: target modules by type of model.
        inputs: of these, modules whose input it changes.
        shared: tensors that stand once for all targets.
        virtual: trained tokens before a sequence; None for none.
        norms: it trains copies of norms.
    """

    name: str
    method: Make | None = None
    rank: int | None = None
    drops: bool = True
    defaults: Mapping[str, tuple[str, ...]] = targets.LORA
    inputs: Mapping[str, tuple[str, ...]] = {}
    shared: Callable[[int, Sequence[Matrix]], tuple[Tensor, ...]] | None = None
    virtual: Callable[[Train, Stem], Virtual] | None = None
    norms: bool = False


def _projections(rank: int, found: Sequence[Matrix]) -> tuple[Tensor, ...]:
    """VeRA's two matrices, as large as the largest target each way."""
    ins, outs = max(m.columns for m in found), max(m.rows for m in found)
    first = Tensor("base_model.vera_A", (("R", rank), ("X", ins)), "buffer", dtype=ADAPTERS)
    return first, Tensor("base_model.vera_B", (("X", outs), ("R", rank)), "buffer", dtype=ADAPTERS)


def _tokens(w: Train, stem: Stem) -> Virtual:
    if w.virtual_tokens is None:
        raise InputError("adapter = prompt needs a number of tokens", key="virtual_tokens", hint="--virtual-tokens 20")
    return Virtual(w.virtual_tokens, stem.width or stem.D, ADAPTERS)


def _encoded(w: Train, stem: Stem) -> Virtual:
    if w.virtual_tokens is None or w.encoder_hidden is None:
        key = "virtual_tokens" if w.virtual_tokens is None else "encoder_hidden"
        raise InputError(f"adapter = p-tuning needs {key}", key=key, hint="--virtual-tokens 20 --encoder-hidden 128")
    return Virtual(w.virtual_tokens, stem.width or stem.D, ADAPTERS, w.encoder_hidden)


_LORA: Final = Adapter("lora", lambda names, r, p, _, __, form: LoRA(names, r, p, form))

METHODS: Final[dict[str, Adapter]] = {
    "lora": _LORA,
    "rslora": _LORA.but(name="rslora"),
    "lora-fa": Adapter("lora-fa", lambda names, r, p, _, __, form: LoRA(names, r, p, form, half=True)),
    "dora": Adapter("dora", lambda names, r, p, loaded, __, form: DoRA(names, r, p, form, loaded)),
    "vera": Adapter(
        "vera",
        lambda names, r, p, _, __, form: VeRA(names, r, p, form),
        rank=256,
        defaults={**targets.LORA, "phi": ("q_proj", "v_proj")},
        shared=_projections,
    ),
    "ia3": Adapter(
        "ia3",
        lambda names, _, __, ___, inputs, form: IA3(names, inputs, form),
        rank=0,
        drops=False,
        defaults={kind: both for kind, (both, _) in targets.IA3.items()},
        inputs={kind: inputs for kind, (_, inputs) in targets.IA3.items()},
    ),
    "adalora": Adapter(
        "adalora",
        lambda names, r, p, _, __, form: AdaLoRA(names, r, p, form),
        rank=12,
        defaults=targets.ADALORA,
    ),
    "prompt": Adapter("prompt", rank=0, drops=False, virtual=_tokens),
    "p-tuning": Adapter("p-tuning", rank=0, drops=False, virtual=_encoded),
    "layernorm": Adapter("layernorm", rank=0, drops=False, norms=True),
}

REFUSED: Final = {
    **dict.fromkeys(("boft", "oft"), "its rotation is built by kernels and solvers that are not modelled"),
    **dict.fromkeys(("prefix", "prefix-tuning", "prefix_tuning"), "its keys and values are not modelled yet"),
    "osf": "the decomposition of its matrices is not modelled",
}
ALIASES: Final = {
    "qlora": "lora", "lorafa": "lora-fa", "prompt-tuning": "prompt", "ln": "layernorm", "ln-tuning": "layernorm",
    "p_tuning": "p-tuning", "ptuning": "p-tuning",
    "ln_tuning": "layernorm", "prompt_tuning": "prompt", "lora_fa": "lora-fa",
}  # fmt: skip


def adapter(w: Train) -> Adapter:
    """The method of a workload.

    Raises:
        InputError: an unknown name, or a key that it has no use for.
        UnsupportedError: a method that is known and not modelled.
    """
    said = (w.adapter or "lora").lower()
    if said in REFUSED:
        raise UnsupportedError(
            f"adapter = {said}: {REFUSED[said]}", key="adapter", value=said, hint=f"one of {', '.join(METHODS)}"
        )
    found = METHODS.get(ALIASES.get(said, said))
    if found is None:
        raise InputError(
            f"unknown adapter {said!r}", key="adapter", value=said, nearest=nearest(said, tuple(METHODS)),
            hint=f"one of {', '.join(METHODS)}",
        )  # fmt: skip
    if found.rank is None and w.lora_rank is None:
        raise InputError(f"adapter = {said} needs a rank", key="lora_rank", hint="--lora-rank 16")
    useless = {
        "lora_rank": found.rank == 0 and w.lora_rank is not None,
        "lora_dropout": not found.drops and bool(w.lora_dropout),
        "lora_targets": found.virtual is not None and bool(w.lora_targets),
        "virtual_tokens": found.virtual is None and w.virtual_tokens is not None,
        "encoder_hidden": found.name != "p-tuning" and w.encoder_hidden is not None,
        "modules_to_save": (found.norms or found.virtual is not None) and bool(w.modules_to_save),
    }
    for key, is_useless in useless.items():
        if is_useless:
            raise InputError(f"adapter = {said} has no {key}", key=key, value=str(getattr(w, key)))
    return found


def layers_of(
    model: Model, found: Sequence[Entry], inputs: Mapping[str, tuple[str, ...]], among: Sequence[Matrix]
) -> frozenset[str]:
    """Names below the layer of those matrices whose input is changed."""
    names = inputs.get(model.model_type, ())
    return local_names(model, [m.module for m in among if any(_called(m.module, name) for name in names)])


def _called(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")


def _module(t: Tensor) -> str:
    return t.name.rpartition(".")[0]


def _matched(model: Model, names: Sequence[str], key: str, roles: tuple[str, ...] | None) -> tuple[Tensor, ...]:
    """Parameters of modules of these names.

    Raises:
        InputError: a name that no module has.
    """
    known = list(own_weights(model, lambda t: roles is None or t.role in roles))
    for name in names:
        if not any(_called(_module(t), name) for t in known):
            leaves = tuple(dict.fromkeys(_module(t).rpartition(".")[2] for t in known))
            raise InputError(
                f"{key}: no module of {model.name or model.model_type} is called {name!r}", key=key, value=name,
                nearest=nearest(name, leaves), hint=f"its modules: {', '.join(leaves)}",
            )  # fmt: skip
    return tuple(t for t in known if any(_called(_module(t), name) for name in names))


def saved(model: Model, w: Train) -> tuple[Tensor, ...]:
    """Modules that are trained as copies beside an adapter (``modules_to_save``)."""
    return _matched(model, w.modules_to_save, "modules_to_save", None) if w.modules_to_save else ()


def norms(model: Model, w: Train) -> tuple[Tensor, ...]:
    """Norms that are trained as copies."""
    names = w.lora_targets or targets.NORMS.get(model.model_type, ())
    if not names:
        raise InputError(
            f"no norms are known for {model.model_type}", key="lora_targets", hint="--lora-targets input_layernorm,norm"
        )
    return _matched(model, names, "lora_targets", ("norm",))


def trained_part(model: Model, w: Train) -> tuple[Tensor, ...]:
    """The model's own tensors that stay trained, a tied head as its table.

    Raises:
        InputError: a name or a layer that the model has not; nothing is left.
    """
    everything = list(own_weights(model, lambda t: True))
    wanted = _named(model, w.train_only, everything) if w.train_only else everything
    frozen = frozen_layers(w.freeze_layers, len(model.decoder.layers)) if w.freeze_layers is not None else set()
    by_name = {t.name: t for t in everything}
    left = [by_name[t.alias_of or t.name] for t in wanted if t.layer is None or t.layer not in frozen]
    if not left:
        raise InputError("nothing is left to train", key="freeze_layers", value=str(w.freeze_layers))
    return tuple(dict.fromkeys(left))


def _named(model: Model, names: Sequence[str], known: Sequence[Tensor]) -> list[Tensor]:
    """Tensors under whose full name one of these stands: ``lm_head``, ``layers.31``, ``self_attn``."""
    for name in names:
        if not any(f".{name}." in f".{t.name}." for t in known):
            leaves = tuple(dict.fromkeys(part for t in known for part in t.name.split(".") if not part.isdigit()))
            raise InputError(
                f"train_only: nothing in {model.name or model.model_type} is called {name!r}", key="train_only",
                value=name, nearest=nearest(name, leaves), hint=f"parts of its names: {', '.join(leaves)}",
            )  # fmt: skip
    return [t for t in known if any(f".{name}." in f".{t.name}." for name in names)]


def frozen_layers(said: str, layers: int) -> set[int]:
    """Layers by number: ``0-15``, ``0,3,7-9``.

    >>> sorted(frozen_layers("0-2,5", 8))
    [0, 1, 2, 5]
    """
    found: set[int] = set()
    for part in said.replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InputError(
                f"freeze_layers = {said!r} is no list of layers", key="freeze_layers", value=said,
                hint="for example 0-15 or 0,1,2",
            )  # fmt: skip
        end = int(last) if dash else int(first)
        if end >= layers or int(first) > end:
            raise InputError(
                f"freeze_layers = {said!r}: the layers are 0 to {layers - 1}", key="freeze_layers", value=said
            )
        found.update(range(int(first), end + 1))
    return found
