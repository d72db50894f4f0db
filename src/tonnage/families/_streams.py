"""Hyper-connections: several residual streams, mixed before every block and joined behind the last layer.

References: arXiv:2409.19606; arXiv:2512.24880; the modeling code of deepseek_v4 and hy_v4.
"""

from __future__ import annotations

from tonnage.arch.parts import Loose
from tonnage.tensors import Role, Tensor


def streams(name: str, D: int, M: int, mixes: int, scales: int, role: Role) -> Loose:
    """What mixes ``M`` streams of width ``D`` before a block: a matrix of ``mixes`` rows, shifts and scales."""
    return Loose(
        (
            Tensor(f"{name}.fn", (("X", mixes), ("X", M), ("D", D)), role, (1, 2)),
            Tensor(f"{name}.base", (("X", mixes),), role),
            Tensor(f"{name}.scale", (("X", scales),), role),
        )
    )


def streams_joined(name: str, D: int, M: int) -> tuple[Tensor, ...]:
    """What makes one of ``M`` streams behind the last layer."""
    return (
        Tensor(f"{name}.hc_fn", (("X", M), ("X", M), ("D", D)), "head", (1, 2)),
        Tensor(f"{name}.hc_base", (("X", M),), "head"),
        Tensor(f"{name}.hc_scale", (("X", 1),), "head"),
    )
