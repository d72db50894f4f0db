"""Ways of fine-tuning by the name that users say: what each trains, and what it takes when nothing more is said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tonnage.arch.tuning.adalora import AdaLoRA
from tonnage.arch.tuning.tuners import IA3, DoRA, LoRA, VeRA
from tonnage.errors import InputError, UnsupportedError, nearest
from tonnage.estimate.adapter import ADAPTERS, Adapter, Asked, Option
from tonnage.estimate.bottlenecks import BOTTLENECKS
from tonnage.estimate.further import FURTHER
from tonnage.estimate.refused import REFUSED
from tonnage.estimate.sharing import SHARED
from tonnage.estimate.virtual import VIRTUAL
from tonnage.memory import adapter_targets as targets
from tonnage.tensors import Tensor

if TYPE_CHECKING:
    from tonnage.quant._stored import Matrix
    from tonnage.workload.training import Train


def _projections(a: Asked, found: Sequence[Matrix]) -> tuple[Tensor, ...]:
    """VeRA's two matrices, as large as the largest target each way."""
    rank = a.rank
    ins, outs = max(m.columns for m in found), max(m.rows for m in found)
    first = Tensor("base_model.vera_A", (("R", rank), ("X", ins)), "buffer", dtype=ADAPTERS)
    return first, Tensor("base_model.vera_B", (("X", outs), ("R", rank)), "buffer", dtype=ADAPTERS)


_LORA: Final = Adapter(
    "lora", lambda a: LoRA(a.modules, a.rank, a.dropout, a.dtype), packs=True, options={"trainable_token_indices": 0}
)


METHODS: Final[dict[str, Adapter]] = {
    "lora": _LORA,
    "rslora": _LORA.but(name="rslora"),
    "lora-fa": _LORA.but(name="lora-fa", method=lambda a: LoRA(a.modules, a.rank, a.dropout, a.dtype, half=True)),
    "dora": _LORA.but(name="dora", method=lambda a: DoRA(a.modules, a.rank, a.dropout, a.dtype, a.loaded)),
    "vera": Adapter(
        "vera",
        lambda a: VeRA(a.modules, a.rank, a.dropout, a.dtype),
        rank=256,
        defaults={**targets.LORA, "phi": ("q_proj", "v_proj")},
        shared=_projections,
        packs=True,
    ),
    "ia3": Adapter(
        "ia3",
        lambda a: IA3(a.modules, a.inputs, a.dtype),
        rank=0,
        drops=False,
        defaults={kind: both for kind, (both, _) in targets.IA3.items()},
        inputs={kind: inputs for kind, (_, inputs) in targets.IA3.items()},
        packs=True,
    ),
    "adalora": Adapter(
        "adalora",
        lambda a: AdaLoRA(a.modules, a.rank, a.dropout, a.dtype),
        rank=12,
        defaults=targets.ADALORA,
        packs=True,
    ),
    **FURTHER,
    **SHARED,
    **VIRTUAL,
    **BOTTLENECKS,
    "trainable-tokens": Adapter(
        "trainable-tokens", rank=0, drops=False, options={"token_indices": 0}, rows=True, packs=True
    ),
    "layernorm": Adapter("layernorm", rank=0, drops=False, norms=True, packs=True),
}  # fmt: skip

ALIASES: Final = {
    "qlora": "lora", "lorafa": "lora-fa", "prompt-tuning": "prompt", "ln": "layernorm", "ln-tuning": "layernorm",
    "ptuning": "p-tuning", "prefix-tuning": "prefix", "bone": "miss", "llama-adapter": "adaption-prompt",
    "adapters": "seq-bn", "bottleneck": "seq-bn", "pfeiffer": "seq-bn", "houlsby": "double-seq-bn",
    "multitask-prompt-tuning": "multitask-prompt", "vb-lora": "vblora",
}  # fmt: skip
"""Other spellings, with hyphens where peft's ``PeftType`` has underscores."""


def settings(kind: Adapter, said: Sequence[str]) -> dict[str, Option]:
    """The settings of a method: what was said, and what peft takes where nothing was.

    Raises:
        InputError: no such setting, or a value of another kind.
    """
    out = dict(kind.options)
    for one in said:
        name, equals, value = (part.strip() for part in one.partition("="))
        if name not in kind.options or not equals:
            known = ", ".join(f"{n}={str(v).lower()}" for n, v in kind.options.items())
            raise InputError(
                f"adapter = {kind.name} has no setting {one!r}", key="adapter_options", value=one,
                nearest=nearest(name, tuple(kind.options)), hint=f"its settings: {known}" if known else "it has none",
            )  # fmt: skip
        out[name] = _read(kind, name, value)
    return out


def _read(kind: Adapter, name: str, value: str) -> Option:
    default = kind.options[name]
    wanted: tuple[str, ...] = ("true", "false") if isinstance(default, bool) else kind.choices.get(name, ())
    if wanted:
        if value.lower() not in wanted:
            raise InputError(
                f"{name} is one of {', '.join(wanted)}, not {value!r}", key="adapter_options", value=value,
                nearest=nearest(value, wanted),
            )  # fmt: skip
        return value.lower() == "true" if isinstance(default, bool) else value.lower()
    try:
        return float(value) if isinstance(default, float) else int(value)
    except ValueError:
        raise InputError(
            f"{name} is a number, not {value!r}", key="adapter_options", value=value, hint=f"{name}={default}"
        ) from None


def adapter(w: Train) -> Adapter:
    """The method of a workload.

    Raises:
        InputError: an unknown name, or a key that it has no use for.
        UnsupportedError: a method that is known and not modelled.
    """
    said = (w.adapter or "lora").lower().replace("_", "-")
    said = ALIASES.get(said, said)
    if said in REFUSED:
        raise UnsupportedError(
            f"adapter = {said}: {REFUSED[said]}", key="adapter", value=said, hint=f"one of {', '.join(METHODS)}"
        )
    found = METHODS.get(said)
    if found is None:
        raise InputError(
            f"unknown adapter {said!r}", key="adapter", value=said, nearest=nearest(said, tuple(METHODS)),
            hint=f"one of {', '.join(METHODS)}",
        )  # fmt: skip
    if found.rank is None and w.lora_rank is None:
        raise InputError(f"adapter = {said} needs a rank", key="lora_rank", hint="--lora-rank 16")
    useless = {
        "lora_rank": found.rank == 0 and not found.ranked and w.lora_rank is not None,
        "lora_dropout": not found.drops and bool(w.lora_dropout),
        "lora_targets": found.whole and bool(w.lora_targets),
        "virtual_tokens": found.virtual is None and w.virtual_tokens is not None,
        "encoder_hidden": found.name not in ("p-tuning", "prefix") and w.encoder_hidden is not None,
        "adapter_options": not found.options and bool(w.adapter_options),
        "modules_to_save": (found.norms or found.whole) and bool(w.modules_to_save),
    }
    for key, is_useless in useless.items():
        if is_useless:
            raise InputError(f"adapter = {said} has no {key}", key=key, value=str(getattr(w, key)))
    return found
