"""Further methods of peft beside matrices: what each is made of, its settings, and what it refuses.

Defaults and refusals are those of peft 0.21.2: ``config.py`` and ``update_layer`` of each tuner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tonnage.estimate.adapter import ADAPTERS, Adapter, Asked
from tonnage.memory import adapter_targets as targets
from tonnage.tensors import Tensor

if TYPE_CHECKING:
    from tonnage.arch.tuning.tuners import Method
    from tonnage.quant._stored import Matrix

PERMUTED: Final = (
    "boft's permutations, 4 B x inputs x inputs a matrix, are answered where the Trainer moves them, on the device; "
    "peft leaves them with the host in a loop that moves nothing"
)
LINEAR: Final = "peft takes linear modules alone"
DECOMPOSED: Final = "osf decomposes every adapted matrix in fp32 when it is made: before the step, and outside of it"


def _oft(a: Asked) -> Method:
    from tonnage.arch.tuning.rotations import OFT

    o = a.options
    terms = o["num_cayley_neumann_terms"] if o["use_cayley_neumann"] else 0
    return OFT(a.modules, a.dtype, o["oft_block_size"], o["block_share"], terms, o["r"])


def _boft(a: Asked) -> Method:
    from tonnage.arch.tuning.rotations import BOFT

    return BOFT(a.modules, a.dtype, a.options["boft_block_size"], a.options["boft_block_num"])


def _loha(a: Asked) -> Method:
    from tonnage.arch.tuning.deltas import LoHa

    return LoHa(a.modules, a.dtype, a.rank)


def _lokr(a: Asked) -> Method:
    from tonnage.arch.tuning.deltas import LoKr

    return LoKr(a.modules, a.dtype, a.rank, a.options["decompose_both"], a.options["decompose_factor"])


def _fourierft(a: Asked) -> Method:
    from tonnage.arch.tuning.deltas import FourierFT

    return FourierFT(a.modules, a.dtype, a.options["n_frequency"])


def _waveft(a: Asked) -> Method:
    from tonnage.arch.tuning.deltas import WaveFT

    return WaveFT(a.modules, a.dtype, a.options["n_frequency"])


def _hira(a: Asked) -> Method:
    from tonnage.arch.tuning.deltas import HiRA

    return HiRA(a.modules, a.dtype, a.rank, a.dropout)


def _osf(a: Asked) -> Method:
    from tonnage.arch.tuning.lowrank import OSF

    return OSF(a.modules, a.dtype, a.options["effective_rank"], a.rank)


def _randlora(a: Asked) -> Method:
    from tonnage.arch.tuning.lowrank import RandLoRA

    return RandLoRA(a.modules, a.dtype, a.rank, a.dropout)


def _random(a: Asked, found: Sequence[Matrix]) -> tuple[Tensor, ...]:
    """RandLoRA's two matrices."""
    rank = a.rank
    short, longest = sorted((max(m.rows for m in found), max(m.columns for m in found)))
    count = -(-short // rank)
    first = Tensor("base_model.randlora_A", (("R", rank), ("X", 1), ("X", short)), "buffer", dtype=ADAPTERS)
    return first, Tensor("base_model.randlora_B", (("X", longest), ("N", count), ("R", rank)), "buffer", dtype=ADAPTERS)


def _miss(a: Asked) -> Method:
    from tonnage.arch.tuning.lowrank import MiSS

    return MiSS(a.modules, a.dtype, a.rank, a.dropout)


def _beft(a: Asked) -> Method:
    from tonnage.arch.tuning.lowrank import BEFT

    return BEFT(a.modules, a.dtype)


def _hra(a: Asked) -> Method:
    from tonnage.arch.tuning.rotations import HRA

    return HRA(a.modules, a.dtype, a.rank)


def _road(a: Asked) -> Method:
    from tonnage.arch.tuning.vectors import RoAd

    return RoAd(a.modules, a.dtype, a.options["variant"] == "road_2")


def _c3a(a: Asked) -> Method:
    from tonnage.arch.tuning.vectors import C3A

    return C3A(a.modules, a.options["block_size"])


def _turns(a: Asked, outs: int, ins: int) -> str:
    """OFTConfig's refusal."""
    o = a.options
    if o["r"] and o["oft_block_size"]:
        return f"r = {o['r']} and oft_block_size = {o['oft_block_size']} contradict each other: one of them is 0"
    return "" if o["r"] or o["oft_block_size"] else "either r or oft_block_size must be non-zero"


def _blocks(a: Asked, outs: int, ins: int) -> str:
    """BOFTConfig's refusal, and update_layer's."""
    for name, other in (("boft_block_size", "boft_block_num"), ("boft_block_num", "boft_block_size")):
        n = a.options[name]
        if n and a.options[other]:
            return f"{name} = {n} and {other} = {a.options[other]} contradict each other: one of them is 0"
        if n and ins % n:
            return f"in_features ({ins}) must be divisible by {name} ({n})"
    return "" if any(a.options.values()) else "either boft_block_size or boft_block_num must be non-zero"


def _frequencies(a: Asked, outs: int, ins: int) -> str:
    n = a.options["n_frequency"]
    if n <= 0:
        return f"n_frequency should be a positive integer, not {n}"
    return f"n_frequency ({n}) is more than its {outs * ins} elements" if n > outs * ins else ""


def _elements(a: Asked, outs: int, ins: int) -> str:
    """WaveFT's; the inverse transform is not modelled."""
    if a.options["use_idwt"]:
        return "the inverse wavelet transform is not modelled; --adapter-options use_idwt=false leaves it out"
    return _frequencies(a, outs, ins)


def _singular(a: Asked, outs: int, ins: int) -> str:
    rank, short = a.options["effective_rank"], min(outs, ins)
    if a.rank and rank:
        return (
            f"a rank of what is trained ({a.rank}) and effective_rank ({rank}), of what is not, contradict each other"
        )
    if a.rank > short:
        return f"rank {a.rank} is more than its {short} singular values"
    return f"effective_rank ({rank}) leaves nothing of its {short} singular values to train" if rank >= short else ""


def _shards(a: Asked, outs: int, ins: int) -> str:
    return f"r ({a.rank}) must be less than or equal to in_features ({ins})" if a.rank > ins else ""


def _groups(a: Asked, outs: int, ins: int) -> str:
    n = a.options["group_size"]
    if n <= 0 or n % 2:
        return f"group_size ({n}) must be divisible by 2"
    return f"out_features ({outs}) must be divisible by group_size ({n})" if outs % n else ""


def _circles(a: Asked, outs: int, ins: int) -> str:
    n = a.options["block_size"]
    if n <= 0:
        return f"block_size should be a positive integer, not {n}"
    for side, of in ((ins, "input"), (outs, "output")):
        if side % n:
            return f"the block size ({n}) should be a factor of the {of} size ({side})"
    return ""


FURTHER: Final[dict[str, Adapter]] = {
    "oft": Adapter(
        "oft", _oft, rank=0, packs=True, drops=False, refuses=_turns, transposed=LINEAR,
        options={
            "oft_block_size": 32, "r": 0, "block_share": False, "use_cayley_neumann": True,
            "num_cayley_neumann_terms": 5,
        },
    ),
    "boft": Adapter(
        "boft", _boft, rank=0, drops=False, refuses=_blocks, transposed=LINEAR,
        options={"boft_block_size": 4, "boft_block_num": 0}, told=PERMUTED,
    ),
    "hra": Adapter("hra", _hra, rank=8, drops=False, transposed=LINEAR),
    "osf": Adapter(
        "osf", _osf, rank=0, ranked=True, drops=False, defaults=targets.OSF, refuses=_singular, transposed=LINEAR,
        options={"effective_rank": 0}, told=DECOMPOSED,
    ),
    "loha": Adapter("loha", _loha, rank=8, drops=False, transposed=LINEAR),
    "lokr": Adapter(
        "lokr", _lokr, rank=8, drops=False, transposed=LINEAR,
        options={"decompose_both": False, "decompose_factor": -1},
    ),
    "hira": Adapter("hira", _hira, rank=32, transposed="the product with a turned matrix is not modelled"),
    "fourierft": Adapter(
        "fourierft", _fourierft, rank=0, packs=True, drops=False, defaults=targets.FOURIER, refuses=_frequencies,
        options={"n_frequency": 1000},
    ),
    "waveft": Adapter(
        "waveft", _waveft, rank=0, packs=True, drops=False, defaults=targets.WAVE, refuses=_elements,
        options={"n_frequency": 2592, "use_idwt": True},
    ),
    "randlora": Adapter("randlora", _randlora, rank=32, shared=_random),
    "miss": Adapter("miss", _miss, rank=64, packs=True, refuses=_shards, transposed=LINEAR),
    "beft": Adapter("beft", _beft, rank=0, packs=True, drops=False, defaults=targets.BEFT, transposed=LINEAR),
    "road": Adapter(
        "road", _road, rank=0, drops=False, refuses=_groups, transposed=LINEAR,
        options={"variant": "road_1", "group_size": 64}, choices={"variant": ("road_1", "road_2")},
    ),
    "c3a": Adapter(
        "c3a", _c3a, rank=0, packs=True, drops=False, defaults=targets.FOURIER, refuses=_circles, transposed=LINEAR,
        options={"block_size": 256},
    ),
}  # fmt: skip
