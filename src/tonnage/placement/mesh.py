"""Degrees of parallelism, and the two ways in which the same ranks are seen.

Dense weights see ``(dp_replicate, dp_shard, cp, tp)``; the weights of routed experts see the same ranks as
``(dp_replicate, efsdp, ep)``: expert parallelism adds no devices, it regroups those that are there.

Reference: https://github.com/pytorch/torchtitan/blob/0c8d0ce3419a0acaa9649f6334ee55985516496c/torchtitan/distributed/PARALLEL_DIMS.md
"""

from __future__ import annotations

from typing import Any, Final

from tonnage.errors import InputError
from tonnage.record import Value

DEGREES: Final = {
    "dp": "data parallelism",
    "cp": "context parallelism",
    "tp": "tensor parallelism",
    "pp": "pipeline parallelism",
    "ep": "expert parallelism",
    "dp_replicate": "groups of data-parallel ranks that hold the same",
}


class Mesh(Value):
    """How many ranks share what.

    Args:
        dp: ranks that see different sequences.
        cp: ranks that see different parts of a sequence.
        tp: ranks that hold different parts of every matrix.
        pp: ranks that hold different layers.
        ep: ranks that hold different experts; taken from ``dp``, ``cp`` and ``tp``, so no factor of the world.
        dp_replicate: groups within ``dp`` that hold the same weights (HSDP); those of one group shard them.
        sequence_parallel: norms, dropouts and the residual stream are cut along the tokens by ``tp``.

    Raises:
        InputError: a degree is no positive whole number, or does not divide what it is taken from.

    >>> Mesh(dp=4, tp=2, pp=3).world
    24
    >>> Mesh(dp=4, tp=2, ep=4).expert_shards
    2
    """

    dp: int = 1
    cp: int = 1
    tp: int = 1
    pp: int = 1
    ep: int = 1
    dp_replicate: int = 1
    sequence_parallel: bool = False

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        for key, meaning in DEGREES.items():
            degree = getattr(self, key)
            if isinstance(degree, bool) or not isinstance(degree, int) or degree < 1:
                raise InputError(
                    f"{key} = {degree!r}: the degree of {meaning} is a whole number from 1", key=key, value=degree
                )
        if self.dp % self.dp_replicate:
            raise InputError(
                f"dp_replicate = {self.dp_replicate} does not divide dp = {self.dp}",
                key="dp_replicate",
                value=self.dp_replicate,
            )
        pool = self.dp // self.dp_replicate * self.cp * self.tp
        if pool % self.ep:
            raise InputError(
                f"ep = {self.ep} does not divide the {pool} ranks that it is taken from: dp x cp x tp of a group",
                key="ep", value=self.ep,
            )  # fmt: skip

    @property
    def world(self) -> int:
        """All ranks."""
        return self.dp * self.cp * self.tp * self.pp

    @property
    def shards(self) -> int:
        """Ranks over which a dense weight is sharded flat: data parallel and context parallel ones of one group."""
        return self.dp // self.dp_replicate * self.cp

    @property
    def etp(self) -> int:
        """Tensor parallelism inside an expert: that of the dense weights, unless expert parallelism took the ranks."""
        return self.tp if self.ep == 1 else 1

    @property
    def expert_shards(self) -> int:
        """Ranks over which the weights of an expert are sharded flat: ``efsdp``."""
        return self.dp // self.dp_replicate * self.cp * self.tp // (self.ep * self.etp)

    def takes(self, tokens: int) -> None:
        """Refuse a length of sequences that cannot be cut evenly.

        Context parallelism gives each rank one piece from the front and one from the back, so that all do the same
        work under a causal mask: ``2 cp`` pieces. Sequence parallelism cuts each of them by ``tp``.

        Raises:
            InputError: the length is not a multiple.

        >>> Mesh(cp=2).takes(4096)
        """
        pieces = (2 * self.cp if self.cp > 1 else 1) * (self.tp if self.sequence_parallel else 1)
        if tokens % pieces:
            raise InputError(
                f"{tokens:,} tokens cannot be cut into {pieces} equal pieces (cp = {self.cp}, tp = {self.tp})",
                key="cp" if self.cp > 1 else "tp", value=tokens, hint=f"a multiple of {pieces}",
            )  # fmt: skip
