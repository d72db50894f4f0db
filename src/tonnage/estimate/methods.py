"""Ways of fine-tuning by the name that users say: what each trains, and what it takes when nothing more is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from tonnage.arch.adalora import AdaLoRA
from tonnage.arch.tuners import IA3, DoRA, LoRA, Method, VeRA
from tonnage.arch.virtual import Virtual
from tonnage.errors import InputError, UnsupportedError, nearest
from tonnage.memory import adapter_targets as targets
from tonnage.record import Record
from tonnage.tensors import Tensor

if TYPE_CHECKING:
    from tonnage.arch.ends import Stem
    from tonnage.quant._stored import Matrix
    from tonnage.workload.training import Train

ADAPTERS: Final = "fp32"
"""peft casts adapters that it makes over 16-bit weights (``autocast_adapter_dtype``)."""

Option = int | float | bool | str
"""What a setting of a method may be."""


class Asked(Record):
    """What a method is made for.

    Args:
        modules: names of the adapted matrices below the layer.
        dtype: format of what is trained.
        rank: of it; 0 where it has none.
        dropout: of what it is given.
        loaded: format that the frozen matrices were loaded in.
        inputs: modules whose input is scaled.
        options: settings by the names of peft's config.
    """

    modules: frozenset[str]
    dtype: str
    rank: int = 0
    dropout: float = 0.0
    loaded: str = ""
    inputs: frozenset[str] = frozenset()
    options: Mapping[str, Any] = {}


Make = Callable[[Asked], Method]


class Adapter(Record):
    """A way of fine-tuning beside a frozen model.

    Args:
        name: as users say it.
        method: what is trained beside matrices; None for nothing.
        rank: when none is said; None where it has to be said; 0 where there is none.
        drops: takes a dropout of its input.
        defaults: target modules by type of model.
        inputs: of these, modules whose input it changes.
        options: settings with what they are when nothing is said, by the names of peft's config.
        choices: what a setting may be, where that is a name.
        refuses: why a matrix of these outputs and inputs cannot have it; empty where it can.
        shared: tensors that stand once for all targets.
        packs: it may stand beside packed matrices.
        transposes: it may stand beside matrices that are stored input first.
        virtual: trained tokens before a sequence; None for none.
        norms: it trains copies of norms.
        told: what has to be said of it.
    """

    name: str
    method: Make | None = None
    rank: int | None = None
    drops: bool = True
    defaults: Mapping[str, tuple[str, ...]] = targets.LORA
    inputs: Mapping[str, tuple[str, ...]] = {}
    options: Mapping[str, Option] = {}
    choices: Mapping[str, tuple[str, ...]] = {}
    refuses: Callable[[Asked, int, int], str] | None = None
    shared: Callable[[int, Sequence[Matrix]], tuple[Tensor, ...]] | None = None
    packs: bool = False
    transposes: bool = True
    virtual: Callable[[Train, Stem], Virtual] | None = None
    norms: bool = False
    told: str = ""


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


DECOMPOSED: Final = (
    "osf decomposes every adapted matrix in fp32 when it is made: before the step, and outside of it"
)
_LORA: Final = Adapter("lora", lambda a: LoRA(a.modules, a.rank, a.dropout, a.dtype), packs=True)


def _oft(a: Asked) -> Method:
    from tonnage.arch.rotations import OFT

    o = a.options
    count = a.rank or o["r"]
    terms = o["num_cayley_neumann_terms"] if o["use_cayley_neumann"] else 0
    return OFT(a.modules, a.dtype, o["oft_block_size"] or 0, o["block_share"], terms, count)


def _boft(a: Asked) -> Method:
    from tonnage.arch.rotations import BOFT

    return BOFT(a.modules, a.dtype, a.options["boft_block_size"], a.options["boft_block_num"])


def _loha(a: Asked) -> Method:
    from tonnage.arch.deltas import LoHa

    return LoHa(a.modules, a.dtype, a.rank)


def _lokr(a: Asked) -> Method:
    from tonnage.arch.deltas import LoKr

    return LoKr(a.modules, a.dtype, a.rank, a.options["decompose_both"], a.options["decompose_factor"])


def _fourierft(a: Asked) -> Method:
    from tonnage.arch.deltas import FourierFT

    return FourierFT(a.modules, a.dtype, a.options["n_frequency"])


def _waveft(a: Asked) -> Method:
    from tonnage.arch.deltas import WaveFT

    return WaveFT(a.modules, a.dtype, a.options["n_frequency"])


def _hira(a: Asked) -> Method:
    from tonnage.arch.deltas import HiRA

    return HiRA(a.modules, a.dtype, a.rank, a.dropout)


def _osf(a: Asked) -> Method:
    from tonnage.arch.lowrank import OSF

    return OSF(a.modules, a.dtype, a.rank)


def _randlora(a: Asked) -> Method:
    from tonnage.arch.lowrank import RandLoRA

    return RandLoRA(a.modules, a.dtype, a.rank, a.dropout)


def _random(rank: int, found: Sequence[Matrix]) -> tuple[Tensor, ...]:
    """RandLoRA's two matrices."""
    short, longest = sorted((max(m.rows for m in found), max(m.columns for m in found)))
    count = -(-short // rank)
    first = Tensor("base_model.randlora_A", (("R", rank), ("X", 1), ("X", short)), "buffer", dtype=ADAPTERS)
    return first, Tensor(
        "base_model.randlora_B", (("X", longest), ("N", count), ("R", rank)), "buffer", dtype=ADAPTERS
    )


def _miss(a: Asked) -> Method:
    from tonnage.arch.lowrank import MiSS

    return MiSS(a.modules, a.dtype, a.rank, a.dropout)


def _beft(a: Asked) -> Method:
    from tonnage.arch.lowrank import BEFT

    return BEFT(a.modules, a.dtype)


def _hra(a: Asked) -> Method:
    from tonnage.arch.rotations import HRA

    return HRA(a.modules, a.dtype, a.rank)


def _road(a: Asked) -> Method:
    from tonnage.arch.vectors import RoAd

    return RoAd(a.modules, a.dtype, a.options["variant"] == "road_2")


def _c3a(a: Asked) -> Method:
    from tonnage.arch.vectors import C3A

    return C3A(a.modules, a.options["block_size"])


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
    "oft": Adapter(
        "oft",
        _oft,
        rank=0,
        drops=False,
        options={
            "oft_block_size": 32, "r": 0, "block_share": False, "use_cayley_neumann": True,
            "num_cayley_neumann_terms": 5,
        },
    ),
    "boft": Adapter("boft", _boft, rank=0, drops=False, options={"boft_block_size": 4, "boft_block_num": 0}),
    "loha": Adapter("loha", _loha, rank=8, drops=False, transposes=False),
    "lokr": Adapter(
        "lokr", _lokr, rank=8, drops=False, options={"decompose_both": False, "decompose_factor": -1}, transposes=False
    ),
    "fourierft": Adapter(
        "fourierft", _fourierft, rank=0, drops=False, defaults=targets.FOURIER, options={"n_frequency": 1000}
    ),
    "waveft": Adapter(
        "waveft", _waveft, rank=0, drops=False, defaults=targets.WAVE, options={"n_frequency": 2592, "use_idwt": True}
    ),
    "osf": Adapter("osf", _osf, rank=0, drops=False, defaults=targets.OSF, told=DECOMPOSED),
    "randlora": Adapter("randlora", _randlora, rank=32, shared=_random),
    "miss": Adapter("miss", _miss, rank=64),
    "beft": Adapter("beft", _beft, rank=0, drops=False, defaults=targets.BEFT),
    "hra": Adapter("hra", _hra, rank=8, drops=False, transposes=False),
    "road": Adapter(
        "road", _road, rank=0, drops=False, options={"variant": "road_1", "group_size": 64},
        choices={"variant": ("road_1", "road_2")},
    ),
    "c3a": Adapter("c3a", _c3a, rank=0, drops=False, defaults=targets.FOURIER, options={"block_size": 256}),
    "hira": Adapter("hira", _hira, rank=32),
    "prompt": Adapter("prompt", rank=0, drops=False, virtual=_tokens, packs=True),
    "p-tuning": Adapter("p-tuning", rank=0, drops=False, virtual=_encoded, packs=True),
    "layernorm": Adapter("layernorm", rank=0, drops=False, norms=True, packs=True),
}  # fmt: skip

REFUSED: Final = {
    **dict.fromkeys(("prefix", "prefix-tuning", "prefix_tuning"), "its keys and values are not modelled yet"),
}
ALIASES: Final = {
    "qlora": "lora", "lorafa": "lora-fa", "prompt-tuning": "prompt", "ln": "layernorm", "ln-tuning": "layernorm",
    "p_tuning": "p-tuning", "ptuning": "p-tuning",
    "ln_tuning": "layernorm", "prompt_tuning": "prompt", "lora_fa": "lora-fa",
}  # fmt: skip


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
        "adapter_options": not found.options and bool(w.adapter_options),
        "modules_to_save": (found.norms or found.virtual is not None) and bool(w.modules_to_save),
    }
    for key, is_useless in useless.items():
        if is_useless:
            raise InputError(f"adapter = {said} has no {key}", key=key, value=str(getattr(w, key)))
    return found


