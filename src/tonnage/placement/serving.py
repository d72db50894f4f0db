"""What one rank of a serving engine holds: layers of its stage, its piece of every tensor, padded vocabularies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from tonnage.errors import InputError
from tonnage.placement.mesh import Mesh
from tonnage.placement.sharding import check, cuts, largest_shard
from tonnage.tensors import Tensor

VOCABULARY_STEP: Final = 64
"""Rows of embeddings and heads are padded to a multiple. vLLM v0.33.0
vllm/model_executor/layers/vocab_parallel_embedding.py DEFAULT_VOCAB_PADDING_SIZE; SGLang has the same file."""


def partition(layers: int, stages: int) -> tuple[range, ...]:
    """Layers of every pipeline stage: what is left over goes to the stages before the last, the last first.

    vLLM v0.33.0 vllm/distributed/utils.py ``get_pp_indices``; SGLang 0.5.23 the same.

    >>> [len(r) for r in partition(61, 4)], [len(r) for r in partition(10, 4)]
    ([15, 15, 16, 15], [2, 3, 3, 2])
    """
    if layers < stages:
        raise InputError(f"pp = {stages}: there are only {layers} layers", key="pp", value=stages)
    sizes = [layers // stages] * stages
    for i in range(2, layers % stages + 2):
        sizes[-i] += 1
    starts = [sum(sizes[:i]) for i in range(stages)]
    return tuple(range(start, start + size) for start, size in zip(starts, sizes, strict=True))


def evenly(tensors: Iterable[Tensor], mesh: Mesh) -> None:
    """Refuse degrees that an engine would refuse: heads, widths and experts that cannot be shared evenly.

    Raises:
        InputError: names the degree.
    """
    check((t for t in tensors if t.role not in ("vision", "audio", "buffer")), mesh)


def held(
    tensors: Iterable[tuple[int, Tensor]], mesh: Mesh, *, stage: int = 0, layers: int = 0
) -> Iterator[tuple[int, Tensor]]:
    """Tensors of the fullest rank of one stage.

    Args:
        tensors: how often each stands, and the tensor; with several stages every layer for itself.
        mesh: the degrees.
        stage: which of the pipeline's.
        layers: of the stack, where there are several stages.

    Yields:
        How often a tensor stands there, and its largest piece.
    """
    mine = partition(layers, mesh.pp)[stage] if mesh.pp > 1 else None
    table = cuts(mesh)
    here: set[str] = set()
    behind = False
    for times, t in tensors:
        behind = behind or t.layer is not None
        at = (mesh.pp - 1 if behind else 0) == stage if t.layer is None or mine is None else t.layer in mine
        if not at:
            continue
        here.add(t.name)
        alias = t.alias_of if t.alias_of in here else None
        axes = tuple((a, _padded(n) if a == "V" else n) for a, n in t.axes)
        whole = Tensor(t.name, axes, t.role, t.dims, t.layer, alias, t.dtype)
        yield times, largest_shard(whole, table.of(t))


def _padded(rows: int) -> int:
    return -(-rows // VOCABULARY_STEP) * VOCABULARY_STEP
