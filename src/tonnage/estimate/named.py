"""Which of a model's own modules a fine-tuning workload names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tonnage.errors import InputError, UnsupportedError, nearest
from tonnage.estimate.adapter import ADAPTERS, Adapter
from tonnage.estimate.composites import forbidden, hit
from tonnage.memory import adapter_targets as targets
from tonnage.memory.adapters import local_names, own_weights
from tonnage.tensors import Tensor

if TYPE_CHECKING:
    from tonnage.arch.model import Model
    from tonnage.arch.tuning.rows import Rows
    from tonnage.quant._stored import Matrix
    from tonnage.workload.training import Train


def layers_of(model: Model, inputs: Mapping[str, tuple[str, ...]], among: Sequence[Matrix]) -> frozenset[str]:
    """Names below the layer of those matrices whose input is changed."""
    names = inputs.get(model.whole_type or model.model_type, ())
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
    names = w.lora_targets or targets.NORMS.get(model.whole_type or model.model_type, ())
    if not names:
        raise InputError(
            f"no norms are known for {model.model_type}", key="lora_targets", hint="--lora-targets input_layernorm,norm"
        )
    return _matched(model, names, "lora_targets", ("norm",))


def trained_rows(model: Model, w: Train, kind: Adapter) -> Rows | None:
    """Rows of the embedding that are trained, as many as a list in peft's config would have.

    Raises:
        InputError: more than the vocabulary has; none where nothing else is trained; the embedding is trained whole.
        UnsupportedError: several stacks share the embedding.
    """
    from tonnage.estimate.methods import settings

    name = "token_indices" if kind.rows else "trainable_token_indices"
    count = int(settings(kind, w.adapter_options).get(name, 0))
    if not count and not kind.rows:
        return None
    stem, head = model.decoder.stem, model.head
    vocabulary = stem.rows or stem.V
    if not 0 < count <= vocabulary:
        raise InputError(
            f"{name} = {count}: how many of the embedding's {vocabulary:,} rows are trained", key="adapter_options",
            value=str(count), hint=f"--adapter-options {name}=100",
        )  # fmt: skip
    table = stem.name.rpartition(".")[2]
    if table in w.modules_to_save:
        raise InputError(
            f"{name} and modules_to_save = {table}: peft trains rows of the embedding or all of it, not both",
            key="modules_to_save", value=table, hint=f"without {name}",
        )  # fmt: skip
    if stem.alias_of is not None or len(model.stacks) > 1:
        raise UnsupportedError(
            "trained rows of an embedding that several stacks share are not modelled", key="adapter_options",
            value=str(count), hint=f"without {name}",
        )  # fmt: skip
    from tonnage.arch.tuning.rows import Rows

    tied = head is not None and head.alias_of == f"{stem.name}.weight"
    return Rows(stem.name, int(count), stem.width or stem.D, ADAPTERS, tied)


def trained_part(model: Model, w: Train) -> tuple[Tensor, ...]:
    """The model's own tensors that stay trained, a tied head as its table.

    Raises:
        InputError: a name or a layer that the model has not; nothing is left.
    """
    everything = list(own_weights(model, lambda t: True))
    wanted = _named(model, w.train_only, everything) if w.train_only else everything
    out = forbidden(model, w)
    wanted = [t for t in wanted if not hit(t.name, out)]
    frozen = frozen_layers(w.freeze_layers, len(model.decoder.layers)) if w.freeze_layers is not None else set()
    by_name = {t.name: t for t in everything}
    left = [by_name[t.alias_of or t.name] for t in wanted if t.layer is None or t.layer not in frozen]
    if not left:
        key = "freeze_layers" if w.freeze_layers is not None else "freeze"
        raise InputError("nothing is left to train", key=key, value=str(getattr(w, key)))
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
