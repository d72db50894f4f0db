"""Which layers are computed again in the backward pass, and what their checkpoints keep all the same.

References: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/utils/checkpoint.py (``checkpoint`` without
reentrance, ``create_selective_checkpoint_contexts``);
https://github.com/pytorch/torchtitan/blob/v0.2.0/torchtitan/distributed/activation_checkpoint.py (every n-th layer; the
list of operations, of whose matrix products every second one is computed again).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tonnage.arch.tape import Value
from tonnage.errors import InputError, UnsupportedError
from tonnage.record import Record

PRODUCT: Final = "mm"
MODULES: Final = ("attention", "core_attn", "mlp", "moe", "shared_experts")
"""Parts of a layer that can be checkpointed alone: attention with its matrices or without, feed-forward blocks, all
experts or the shared ones."""
OUTPUT_DISCARDED: Final = ("layernorm", "mla_up_proj", "moe_act")
"""Parts whose output is let go of as well: the norms before a block, what multi-head latent attention makes of its
compressed tensors, the experts' activation. With the others, Megatron-Core's ``--recompute-modules`` (core_v0.19.0,
megatron/core/transformer/transformer_config.py)."""
ELSEWHERE: Final = ("gdn_norm_out", "gdp_in_proj", "gdp_qkv", "mhc")
"""The rest of that list, of layers that transformers does not have so."""
WITHIN: Final = {"attention": ("core_attn", "mla_up_proj"), "moe": ("moe_act", "shared_experts")}
"""Parts of parts."""
STAGED: Final = 2 * 2**20
"""Bytes up to which a layer's input stays on the device.

unsloth_zoo 2026.10.9, unsloth_zoo/gradient_checkpointing.py (``MINIMUM_SIZE``).
"""
KEPT: Final = frozenset([PRODUCT, "flash", "efficient", "cudnn"])
"""torchtitan's list, as far as the operations are those of one device."""


class Recompute(Record):
    """A way to save activations by computing them again.

    Args:
        every: of so many layers the last one is computed again.
        first: only so many layers, from the first on; all where None.
        keeps: operations whose results a checkpoint keeps, of matrix products without bias every other one.
        modules: parts of every layer, each of which is checkpointed alone; no layer is, where there are any.
        reentrant: the checkpoint runs a backward pass of its own.
        staged: what a layer was given goes to the host, and comes back into a buffer that stays, where it takes more
            than so many bytes; the last layer's does not. None where it stays. [byte]
    """

    every: int = 1
    first: int | None = None
    keeps: frozenset[str] = frozenset()
    modules: frozenset[str] = frozenset()
    reentrant: bool = False
    staged: int | None = None

    def again(self, index: int) -> bool:
        """Whether the layer of this number is computed again as a whole."""
        return not self.modules and (index + 1) % self.every == 0 and (self.first is None or index < self.first)

    def told(self, layers: int) -> str:
        """What is computed again, in words."""
        if self.keeps:
            return (
                "selective recomputation as torchtitan's: every layer's checkpoint keeps what attention kernels and "
                "every other matrix product without bias made, through torch's selective checkpoint contexts"
            )
        if self.staged is not None:
            return (
                "each layer's input but the last one's goes to pinned memory of the host and comes back into one of "
                "two buffers that stay on the device, as unsloth's checkpoints copy it"
            )
        if self.reentrant and self.every == 1 and self.first is None:
            return (
                "checkpoints run a backward pass of their own within the backward pass (use_reentrant): each layer "
                "runs again whole, and its output and the gradient of it are held until it is through"
            )
        if self.modules:
            plain, freed = sorted(self.modules - set(OUTPUT_DISCARDED)), sorted(self.modules & set(OUTPUT_DISCARDED))
            told = (
                f"each layer's {', '.join(plain)} alone are computed again, through torch's checkpoint without "
                "reentrance; Megatron's own holds the module's output and gradient besides, until it is through"
            )
            also = (
                f"the output of each layer's {', '.join(freed)} is let go of when the next module has run, and made "
                "again before that one's backward pass, as by Megatron-Core's CheckpointWithoutOutput"
            )
            return "; ".join([*([told] if plain else []), *([also] if freed else [])])
        return f"{sum(map(self.again, range(layers)))} of {layers} layers are computed again in the backward pass"

    def keeper(self) -> Keeper | None:
        """What keeps the results of one layer; None where nothing is kept."""
        return Keeper(self.keeps) if self.keeps else None


class Keeper:
    """The results that one layer's checkpoint keeps."""

    __slots__ = ("_handed", "_keeps", "_made", "_products")

    def __init__(self, keeps: frozenset[str]) -> None:
        self._keeps = keeps
        self._products = 0
        self._made: list[tuple[Value, ...]] = []
        self._handed: list[tuple[int, tuple[Value, ...]]] = []

    def restart(self) -> None:
        """The layer is about to run again."""
        self._products = 0

    def results(self, op: str, make: Callable[[], tuple[Value, ...]], *, again: bool) -> tuple[Value, ...]:
        """What an operation makes: anew, or what was kept of it when the layer runs again."""
        if op == PRODUCT:
            self._products += 1
        if op not in self._keeps or (op == PRODUCT and self._products % 2 == 0):
            return make()
        if not again:
            made = make()
            self._made.append(tuple(v.detached() for v in made))
            return made
        kept = self._made.pop(0)
        self._handed.append((len(kept[0].tape.events), tuple(v.detached() for v in kept)))
        return kept

    def stop(self, cut: int) -> None:
        """The second run ended at this event: what it had not asked for by then stays."""
        self._handed = [(at, kept) for at, kept in self._handed if at >= cut]

    def clear(self) -> None:
        """The layer's backward pass is over."""
        self._handed.clear()


def settled(said: str | None) -> Recompute | None:
    """The way that a name means: ``full``, ``reentrant``, ``every-2``, ``first-8``, ``selective``, ``unsloth``,
    ``core_attn,mlp``; None for ``none``.

    Raises:
        InputError: no such way.
        UnsupportedError: a module that is not modelled.
    """
    if said in (None, "none"):
        return None
    if said in ("full", "non-reentrant"):
        return Recompute()
    if said == "reentrant":
        return Recompute(reentrant=True)
    if said == "unsloth":
        return Recompute(reentrant=True, staged=STAGED)
    if said == "selective":
        return Recompute(keeps=KEPT)
    modules = [part.strip().lower().replace("-", "_") for part in str(said).split(",")]
    if set(modules) & {*MODULES, *OUTPUT_DISCARDED, *ELSEWHERE}:
        return _of_modules(modules, str(said))
    name, _, number = str(said).partition("-")
    if name not in ("every", "first") or not number.isdigit() or not int(number):
        raise InputError(
            f"unknown recompute {said!r}", key="recompute", value=said,
            hint="none, full, reentrant, non-reentrant, every-2 (of two layers one), first-8 (the first eight layers), "
            "selective, unsloth, or modules: " + ",".join((*MODULES, *OUTPUT_DISCARDED)),
        )  # fmt: skip
    return Recompute(every=int(number)) if name == "every" else Recompute(first=int(number))


def _of_modules(modules: list[str], said: str) -> Recompute:
    known = (*MODULES, *OUTPUT_DISCARDED)
    for name in modules:
        if name in ELSEWHERE:
            raise UnsupportedError(
                f"recompute = {name}: of Megatron's modules, {', '.join(known[1:])} are modelled", key="recompute",
                value=said, hint=f"of {', '.join(known)}",
            )  # fmt: skip
        if name not in known:
            raise InputError(
                f"unknown module {name!r} in recompute = {said!r}", key="recompute", value=said,
                hint=f"of {', '.join(known)}",
            )  # fmt: skip
    for whole, parts in WITHIN.items():
        for part in parts:
            if {whole, part} <= set(modules):
                raise InputError(
                    f"recompute names {whole} and {part}, which is a part of it", key="recompute", value=said,
                    hint="name one of them",
                )  # fmt: skip
    return Recompute(modules=frozenset(modules))
