"""What weights take in the allocator's blocks once an engine has loaded them.

Engines make one tensor of the matrices that read the same input, so that a layer has few and large ones. A large
request gets a segment of its own, a multiple of 2 MiB; a remainder of up to 1 MiB stays in its block, where nothing
else can use it, and counts as allocated.

Reference: vllm-project/vllm v0.33.0 vllm/model_executor/layers/linear.py ``QKVParallelLinear``,
``MergedColumnParallelLinear``; pytorch/pytorch v2.13.0 c10/cuda/CUDACachingAllocator.cpp ``should_split``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Final

from tonnage.allocator import Allocator
from tonnage.formats import FORMATS, Format
from tonnage.memory.passes import blocks

if TYPE_CHECKING:
    from tonnage.quant import Stored
    from tonnage.tensors import Tensor

FUSED: Final = (
    (re.compile(r"\b[qkv]_proj\b"), "qkv_proj"),
    (re.compile(r"\b(?:gate|up)_proj\b"), "gate_up_proj"),
    (re.compile(r"\b(?:q_a_proj|kv_a_proj_with_mqa)\b"), "qkv_a_proj"),
)
"""Matrices that engines hold as one."""
IN_LAYER: Final = re.compile(r"\.(?:layers|blocks|h)\.\d+\.")
"""Names of tensors inside a stack of layers."""
NARROW: Final = 2**16
"""Tensors below it lie in segments that they share, and leave nothing over. [byte]"""


def unsplit(found: Iterable[Stored], form: Format) -> int:
    """Bytes that the blocks of loaded weights hold beyond the tensors in them, each in multiples of 512 B.

    Args:
        found: stored tensors of one rank in the order of the model, with how often each stands.
        form: format of what has none of its own.

    Leaves out: what is freed while weights are loaded or packed anew, whose room later tensors may take.
    """
    allocator, plain = Allocator(), 0
    for times, sizes in _layers(found, form):
        for _ in range(times):
            for n in sizes:
                allocator.malloc(n)
                plain += blocks(n)
    return allocator.allocated - plain


def offloaded(found: Iterable[Stored], form: Format, most: int) -> tuple[list[Stored], list[Stored]]:
    """What stays on the device and what goes to host memory: whole tensors of the layers, until there are enough.

    vLLM v0.33.0 vllm/model_executor/offloader/uva.py ``wrap_modules``.

    Args:
        found: stored tensors of one rank in the order of the model.
        form: format of what has none of its own.
        most: bytes from which on nothing more goes. [byte]
    """
    stay: list[Stored] = []
    gone: list[Stored] = []
    moved = 0
    for times, group in groupby(found, key=lambda entry: entry[0]):
        entries = list(group)
        together: dict[str, list[int]] = {}
        for i, (_, t, _) in enumerate(entries):
            if t.alias_of is None and t.role != "buffer" and IN_LAYER.search(t.name):
                together.setdefault(_fused(t), []).append(i)
        took = [0] * len(entries)
        for indices in list(together.values()) * times:
            if moved < most:
                for i in indices:
                    moved += _size(entries[i], form)
                    took[i] += 1
        for (_, t, part), n in zip(entries, took, strict=True):
            gone += [(n, t, part)] if n else []
            stay += [(times - n, t, part)] if n < times else []
    return stay, gone


def _size(entry: Stored, form: Format) -> int:
    _, t, _ = entry
    return (form if t.dtype is None else FORMATS[t.dtype]).nbytes(t.numel)


def _fused(t: Tensor) -> str:
    """The name of the tensor that an engine holds it in."""
    name = t.name
    if t.role != "expert":
        for several, one in FUSED:
            name = several.sub(one, name)
    return name


def _layers(found: Iterable[Stored], form: Format) -> Iterator[tuple[int, list[int]]]:
    """Sizes of the tensors that stand equally often, with matrices that are held as one joined. [byte]"""
    for times, group in groupby(found, key=lambda entry: entry[0]):
        sizes: dict[tuple[str, str], int] = {}
        for entry in group:
            _, t, part = entry
            if t.alias_of is None and t.role != "buffer":
                key = _fused(t), part
                sizes[key] = sizes.get(key, 0) + _size(entry, form)
        yield times, [n for n in sizes.values() if n >= NARROW]
