"""Flat shards over data-parallel ranks: which of weights, gradients and optimizer state a ZeRO stage divides.

Reference: Rajbhandari et al. 2020, arXiv:1910.02054, sections 5 and 7.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from tonnage.errors import InputError
from tonnage.placement.mesh import Mesh
from tonnage.tensors import Tensor

Part = Literal["weights", "gradients", "optimizer_state", "master_weights"]

_OF_THE_OPTIMIZER: Final[frozenset[Part]] = frozenset({"optimizer_state", "master_weights"})

DIVIDED: Final[dict[int, frozenset[Part]]] = {
    0: frozenset(),
    1: _OF_THE_OPTIMIZER,
    2: _OF_THE_OPTIMIZER | {"gradients"},
    3: _OF_THE_OPTIMIZER | {"gradients", "weights"},
}
"""Stage to what each rank holds a shard of; the rest is replicated."""


def flat_shard(numel: int, ranks: int) -> int:
    """Elements of one shard of a flat buffer, padded so that all shards are alike.

    >>> flat_shard(10, 4)
    3
    """
    return -(-numel // ranks)


def share(inventory: Iterable[Tensor], mesh: Mesh, stage: int, part: Part) -> int:
    """Elements of one part of the training state that a rank holds.

    .. math:: \\lceil \\Psi / N_d \\rceil

    Args:
        inventory: the rank's parameters, already cut by the other degrees and resolved.
        mesh: dense weights are divided by ``mesh.shards``, those of experts by ``mesh.expert_shards``.
        stage: 0 to 3. [1]
        part: what is asked for; its elements are as many as the parameters'.

    Returns:
        Elements, padding included: one flat buffer of all parameters up to stage 2, one for each parameter in
        stage 3. [element]

    Leaves out: buckets, alignment beyond whole shards, and weights that stage 3 has gathered for the moment.

    >>> w = Tensor("w", (("D", 10),), "norm")
    >>> share((w,), Mesh(dp=4), 1, "weights"), share((w,), Mesh(dp=4), 1, "optimizer_state")
    (10, 3)

    Reference: Rajbhandari et al. 2020, arXiv:1910.02054, sections 5 and 7.
    """
    if stage not in DIVIDED:
        raise InputError(f"ZeRO has stages 0 to 3, not {stage}", key="sharding", value=stage)
    divided = part in DIVIDED[stage]
    total = 0
    for expert in (False, True):
        sizes = [t.numel for t in inventory if (t.role == "expert") is expert]
        ranks = (mesh.expert_shards if expert else mesh.shards) if divided else 1
        total += sum(flat_shard(n, ranks) for n in (sizes if stage == 3 else [sum(sizes)]))
    return total
