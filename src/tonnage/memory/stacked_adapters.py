"""Which stacked experts and routers get LoRA adapters, as peft 0.21.2 converts targets for transformers 5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tonnage.arch.model import Model
from tonnage.errors import InputError
from tonnage.memory.adapter_patterns import resolved
from tonnage.memory.adapter_targets import STACKED
from tonnage.tensors import Tensor, size

if TYPE_CHECKING:
    from tonnage.quant import Entry
    from tonnage.quant._stored import Matrix

Stacks = list[tuple[int, "Matrix", int]]
"""How often it stands, the stacked matrix, and how many matrices of release 4 each of its experts is made of."""


def names(model: Model) -> frozenset[str]:
    """Names of release 4 that mean a parameter now."""
    return frozenset(STACKED.get(model.model_type, {}))


def stacked(model: Model, found: Sequence[Entry], asked: Sequence[str]) -> Stacks:
    """Stacked experts and routers that get adapters.

    Raises:
        InputError: gate or up alone is named, which lie in one parameter.
    """
    mapping = STACKED.get(model.model_type, {})
    asked = resolved(model, found, asked)
    names = list(mapping) if "all-linear" in asked else [n for n in asked if n in mapping]
    wanted: dict[str, list[str]] = {}
    for name in names:
        wanted.setdefault(mapping[name], []).append(name)
    out: Stacks = []
    for new, old in wanted.items():
        whole = [n for n, to in mapping.items() if to == new]
        if len(set(old)) < len(whole):
            raise InputError(
                f"lora_targets: {', '.join(old)} without {', '.join(n for n in whole if n not in old)}: both lie in "
                f"{new}", key="lora_targets", value=", ".join(old), hint=", ".join(whole),
            )  # fmt: skip
        for times, _, m in found:
            if m is not None and m.module.rpartition(".")[2] == new and m.role in ("expert", "router"):
                out.append((times, m, len(whole)))
    return out


def tensors(stacks: Stacks, rank: int, dtype: str) -> tuple[tuple[Tensor, int], ...]:
    """The trained tensors beside them, with how often each stands.

    .. math:: E \\, n r (d_{in} + n d_{out})

    for ``E`` experts of ``n`` matrices side by side.
    """
    out = []
    for times, m, n in stacks:
        E = m.batch[0][1] if m.batch else 1
        inner = ("R", rank * n * E)
        side = size(m.batch[1:]) * m.rows
        for name, axes in (("lora_A", (inner, ("X", m.columns))), ("lora_B", (("X", side), inner))):
            out.append((Tensor(f"{m.module}.{name}.weight", axes, m.role, layer=m.layer, dtype=dtype), times))
    return tuple(out)
