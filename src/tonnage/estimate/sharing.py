"""Methods of peft whose modules are made of one bank of numbers, and their kin: settings and what they refuse.

Defaults and refusals are those of peft 0.21.2: ``config.py`` and ``update_layer`` of each tuner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tonnage.estimate.adapter import Adapter, Asked
from tonnage.memory import adapter_targets as targets
from tonnage.tensors import Tensor

if TYPE_CHECKING:
    from tonnage.arch.tuning.tuners import Method
    from tonnage.quant._stored import Matrix

LINEAR: Final = "peft takes linear modules alone"
DECOMPOSED: Final = (
    "tinylora decomposes every adapted matrix in fp32 when it is made: before the step, and outside of it"
)


def _vblora(a: Asked) -> Method:
    from tonnage.arch.tuning.banks import VBLoRA

    o = a.options
    return VBLoRA(a.modules, a.dtype, a.rank, a.dropout, o["num_vectors"], o["vector_length"], o["topk"])


def _vectors(a: Asked, found: Sequence[Matrix]) -> tuple[Tensor, ...]:
    from tonnage.arch.tuning.banks import VECTORS

    axes = (("E", a.options["num_vectors"]), ("X", a.options["vector_length"]))
    return (Tensor(VECTORS, axes, found[0].role, dtype=a.dtype),)


def _tiles(a: Asked, outs: int, ins: int) -> str:
    """VBLoRA's refusals, and torch's of more vectors than there are."""
    o = a.options
    for name in ("num_vectors", "vector_length", "topk"):
        if o[name] <= 0:
            return f"{name} {o[name]} should be a positive integer value"
    if o["topk"] > o["num_vectors"]:
        return f"topk ({o['topk']}) is more than the {o['num_vectors']} vectors"
    for side, name in ((ins, "in_features"), (outs, "out_features")):
        if side % o["vector_length"]:
            return f"`{name}` {side} must be divisible by `vector_length` {o['vector_length']}"
    return ""


def _unilora(a: Asked) -> Method:
    from tonnage.arch.tuning.banks import UniLoRA

    return UniLoRA(a.modules, a.dtype, a.rank, a.dropout, a.options["theta_d_length"])


def _numbers(a: Asked, found: Sequence[Matrix]) -> tuple[Tensor, ...]:
    from tonnage.arch.tuning.banks import NUMBERS

    return (Tensor(NUMBERS, (("X", a.options["theta_d_length"]),), found[0].role, dtype=a.dtype),)


def _length(a: Asked, outs: int, ins: int) -> str:
    n = a.options["theta_d_length"]
    return f"`theta_d_length` must be positive, got {n}" if n <= 0 else ""


def _tinylora(a: Asked) -> Method:
    from tonnage.arch.tuning.banks import TinyLoRA

    return TinyLoRA(a.modules, a.dtype, a.rank, a.dropout, a.options["u"])


def _few(a: Asked, outs: int, ins: int) -> str:
    if a.options["weight_tying"]:
        return "numbers that modules share (weight_tying) are not modelled"
    return (
        f"`u` should be a positive integer value but the value passed is {a.options['u']}"
        if a.options["u"] <= 0
        else ""
    )


def _lily(a: Asked) -> Method:
    from tonnage.arch.tuning.lily import Lily

    return Lily(a.modules, a.dtype, a.rank, a.options["num_B"])


def _seconds(a: Asked, found: Sequence[Matrix]) -> tuple[Tensor, ...]:
    """What modules of a name and shape share, under the name of the first."""
    from tonnage.arch.tuning.lily import SECOND

    groups: dict[tuple[str, int, int], Matrix] = {}
    for m in found:
        groups.setdefault((m.module.rpartition(".")[2], m.rows, m.columns), m)
    rows = ("X", a.options["num_B"] * a.rank)
    return tuple(
        Tensor(f"{m.module}.{SECOND}", (rows, m.outs), m.role, layer=m.layer, dtype=a.dtype) for m in groups.values()
    )


def _mixed(a: Asked, outs: int, ins: int) -> str:
    if a.options["stride_A"] != 1:
        return "first matrices that neighbouring layers share (stride_A) are not modelled"
    return f"num_B should be a positive integer value, not {a.options['num_B']}" if a.options["num_B"] <= 0 else ""


SHARED: Final[dict[str, Adapter]] = {
    "vblora": Adapter(
        "vblora", _vblora, rank=4, packs=True, defaults=targets.VBLORA, refuses=_tiles, shared=_vectors,
        options={"num_vectors": 256, "vector_length": 256, "topk": 2},
    ),
    "unilora": Adapter(
        "unilora", _unilora, rank=4, refuses=_length, shared=_numbers, options={"theta_d_length": 256},
        transposed="its indices of a turned matrix are not modelled",
    ),
    "lily": Adapter(
        "lily", _lily, rank=32, packs=True, drops=False, refuses=_mixed, shared=_seconds, transposed=LINEAR,
        options={"num_B": 2, "stride_A": 1},
    ),
    "tinylora": Adapter(
        "tinylora", _tinylora, rank=2, refuses=_few, options={"u": 64, "weight_tying": 0.0}, told=DECOMPOSED,
        transposed="its decomposition of a turned matrix is not modelled",
    ),
}  # fmt: skip
