"""Tensor axis to number of pieces: the whole sharding model is one table of two columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Final, NamedTuple

from tonnage.errors import InputError, UnsupportedError
from tonnage.placement.mesh import Mesh
from tonnage.tensors import Axes, Inventory, Tensor

EVEN: Final = {"N": "heads", "F": "feed-forward width", "I": "inner width of a mixer", "E": "experts"}
"""Axes that ranks must share evenly; others are padded or replicated."""


class Cuts(NamedTuple):
    """Axis to number of pieces. An axis that is not listed is replicated."""

    dense: Mapping[str, int]
    expert: Mapping[str, int]

    def of(self, t: Tensor) -> Mapping[str, int]:
        """The column that holds for a tensor."""
        return self.expert if t.role == "expert" else self.dense


def cuts(mesh: Mesh) -> Cuts:
    """The table of a mesh: one column for dense tensors, one for the weights of routed experts.

    >>> cuts(Mesh(tp=8)).dense["F"], cuts(Mesh(tp=8)).expert["F"]
    (8, 8)
    >>> cuts(Mesh(tp=8, ep=8)).expert["F"], cuts(Mesh(tp=8, ep=8)).expert["E"]
    (1, 8)
    """
    dense = {
        "B": mesh.dp,
        "T": mesh.cp, "S": mesh.cp,
        "Tn": mesh.cp * (mesh.tp if mesh.sequence_parallel else 1),
        "N": mesh.tp, "K": mesh.tp, "F": mesh.tp, "V": mesh.tp, "I": mesh.tp,
        "E": mesh.ep,
    }  # fmt: skip
    return Cuts(dense, {"E": mesh.ep, "F": mesh.etp})


def largest_shard(t: Tensor, pieces: Mapping[str, int]) -> Tensor:
    """The biggest piece any rank holds: uneven cuts round up, and more ranks than rows replicate.

    Where heads are packed in groups (``K J H``: one key, one value and the queries that share them), ranks beyond the
    number of groups hold the key and value again but share the queries.

    >>> largest_shard(Tensor("keys", (("K", 2), ("H", 128)), "cache"), {"K": 8}).axes
    (('K', 1), ('H', 128))
    """
    axes = tuple((a, -(-n // pieces.get(a, 1))) for a, n in t.axes)
    if any(a == "J" for a, _ in axes):
        axes = _groups(t.axes, axes, pieces.get("K", 1))
    return Tensor(t.name, axes, t.role, t.dims, t.layer, t.alias_of, t.dtype)


def _groups(whole: Axes, cut: Axes, pieces: int) -> Axes:
    """Queries of a group, cut by the ranks that share the group."""
    sharing = -(-pieces // dict(whole).get("K", 1))
    return tuple((a, 2 - -(n - 2) // sharing if a == "J" else n) for a, n in cut)


def shard(inventory: Iterable[Tensor], mesh: Mesh) -> Inventory:
    """The share of the fullest rank of one pipeline stage. ``stage`` picks the layers, ``resolve`` the aliases.

    >>> shard((Tensor("w", (("F", 10), ("D", 4)), "feed_forward"),), Mesh(tp=4))[0].axes
    (('F', 3), ('D', 4))
    """
    table = cuts(mesh)
    return tuple(largest_shard(t, table.of(t)) for t in inventory)


def stage_layers(layers: int, mesh: Mesh, stage: int) -> range:
    """Layers of one pipeline stage: contiguous, and as even as they can be.

    >>> [len(stage_layers(10, Mesh(pp=4), i)) for i in range(4)]
    [2, 3, 2, 3]
    """
    if layers < mesh.pp:
        raise InputError(f"pp = {mesh.pp}: there are only {layers} layers", key="pp", value=mesh.pp)
    return range(stage * layers // mesh.pp, (stage + 1) * layers // mesh.pp)


def stage(inventory: Iterable[Tensor], mesh: Mesh, index: int) -> Inventory:
    """Tensors of one pipeline stage.

    What stands before the first layer belongs to the first stage, what stands behind the last to the last.

    Args:
        inventory: of a whole model, in its order.
        mesh: its ``pp`` is the number of stages.
        index: of the stage, from 0.

    Raises:
        UnsupportedError: two stacks of layers (encoder and decoder).
        InputError: fewer layers than stages.
    """
    tensors = tuple(inventory)
    if mesh.pp == 1:
        return tensors
    numbers = [t.layer for t in tensors if t.layer is not None]
    if any(after < before for before, after in pairwise(numbers)):
        raise UnsupportedError("pipeline stages of an encoder and a decoder are not modelled", key="pp", value=mesh.pp)
    held = stage_layers(len(set(numbers)), mesh, index)
    out: list[Tensor] = []
    through = False
    for t in tensors:
        through = through or t.layer is not None
        at = (mesh.pp - 1 if through else 0) == index if t.layer is None else t.layer in held
        if at:
            out.append(t)
    return tuple(out)


def resolve(inventory: Iterable[Tensor]) -> Inventory:
    """The same list with aliases settled among the tensors of this rank.

    A tensor that shares another's storage stores nothing, as long as the other is on the same rank. Where it is not -
    tied embeddings whose first and last stage are different ranks - the rank has a copy of its own.

    >>> resolve((Tensor("head", (("V", 8), ("D", 2)), "head", alias_of="embedding"),))[0].numel
    16
    """
    tensors = tuple(inventory)
    shared = {t.name: t.alias_of for t in tensors}
    owner: dict[str, str] = {}
    out: list[Tensor] = []
    for t in tensors:
        root = t.name
        while (above := shared.get(root)) is not None:
            root = above
        if root in shared and root != t.name:
            out.append(t.but(alias_of=root))
        elif root not in shared and root in owner:
            out.append(t.but(alias_of=owner[root]))
        else:
            owner[root] = t.name
            out.append(t.but(alias_of=None))
    return tuple(out)


def check(inventory: Iterable[Tensor], mesh: Mesh) -> None:
    """Refuse degrees that do not divide what they cut.

    Heads, feed-forward and experts must divide. Key/value heads divide, or are fewer than the ranks and divide them:
    then they are replicated. Vocabularies are padded.

    Args:
        inventory: the weights of a model.
        mesh: the degrees.

    Raises:
        InputError: names the degree.

    >>> check((Tensor("w", (("F", 12), ("D", 4)), "feed_forward"),), Mesh(tp=4))
    """
    table = cuts(mesh)
    for t in inventory:
        for axis, n in t.axes:
            pieces = table.of(t).get(axis, 1)
            key = "ep" if axis == "E" else "tp"
            if axis in EVEN and n % pieces:
                raise InputError(
                    f"{key} = {pieces} does not divide {n} {EVEN[axis]} of {t.name}", key=key, value=pieces
                )
            if axis == "K" and n % pieces and pieces % n:
                raise InputError(
                    f"tp = {pieces}: {n} key/value heads of {t.name} can be neither cut nor repeated evenly",
                    key="tp",
                    value=pieces,
                )
