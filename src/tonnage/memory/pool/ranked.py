"""Weights of one rank as an engine loads them: cut, padded, packed, with the tables that it makes itself."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Any, Final

from tonnage.arch.experts import as_loaded
from tonnage.arch.grids import GridRotary
from tonnage.arch.model import Model
from tonnage.errors import UnsupportedError
from tonnage.formats import Format
from tonnage.memory.passes import blocks
from tonnage.memory.pool.loaded import unsplit
from tonnage.memory.weights import Share, shares
from tonnage.placement.mesh import Mesh
from tonnage.placement.serving import held
from tonnage.placement.sharding import cuts, largest_shard
from tonnage.record import Record
from tonnage.tensors import Tensor
from tonnage.timeline import Level

if TYPE_CHECKING:
    from tonnage.quant import Recipe, Stored


class Span(Record):
    """A size that is known within bounds. [byte]"""

    low: int
    likely: int
    high: int

    def plus(self, other: Span) -> Span:
        """The sum of two."""
        return Span(self.low + other.low, self.likely + other.likely, self.high + other.high)


QUERIES, KEYS, VALUES = (f"self_attn.{x}_proj.weight" for x in "qkv")
ROTARY: Final = "cosine and sine of every position"
PADDING: Final = "padding of packed experts"
ABSORBED: Final = "latent's expansion, unpacked"


class Extra(Record):
    """What an engine holds beside a checkpoint's tensors.

    Args:
        what: in words.
        level: what it takes. [byte]
        size: how the size comes about.
    """

    what: str
    level: Level
    size: str


def rank_weights(model: Model, form: Format, recipe: Recipe | None, mesh: Mesh, stage: int = 0) -> tuple[Share, ...]:
    """Weights of the fullest rank of one pipeline stage, by part and format, in the allocator's blocks."""
    return in_blocks(rank_tensors(model, form, recipe, mesh, stage), form)


def rank_tensors(
    model: Model, form: Format, recipe: Recipe | None, mesh: Mesh, stage: int = 0, *, doubled: bool = False,
    ordered: bool = False,
) -> list[Stored]:  # fmt: skip
    """Stored tensors of the fullest rank of one pipeline stage.

    Args:
        model: whose weights.
        form: format of what is not packed.
        recipe: how weights are packed; None where they are not.
        mesh: the degrees.
        stage: which of the pipeline's.
        doubled: whether keys that are values are loaded into both.
        ordered: whether layers that are alike stand one by one, in the order of the model.

    Raises:
        UnsupportedError: a recipe for whole models, cut.

    Leaves out: buffers, which engines make for themselves; a kernel's own padding and layouts.
    """
    from tonnage.quant import as_stored, entries

    model, several = as_loaded(model), mesh.pp > 1
    if recipe is not None and recipe.plan is not None:
        if mesh.world > 1:
            raise UnsupportedError(
                f"{recipe.title} on {mesh.world} ranks is not modelled yet", key="quant", value=recipe.method
            )
        return list(as_stored([], model, recipe))
    found = list(entries(model, by_layer=ordered or several or (recipe is not None and recipe.by_layer)))
    for end in _doubled(model) if doubled else ():
        i = next((k for k, (_, t, _) in enumerate(found) if t.name.endswith(end)), None)
        if i is not None:
            times, t, matrix = found[i]
            found.insert(i + 1, (times, Tensor(t.name.replace(".k_proj", ".v_proj"), *_rest(t)), matrix))
    about = {t.name: m for _, t, m in found}
    pieces = held(((n, t) for n, t, _ in found), mesh, stage=stage, layers=len(model.decoder.layers))
    mine = [(n, t, about[t.name]) for n, t in pieces if t.role != "buffer"]
    return list(as_stored(mine, model, recipe))


def in_blocks(found: list[Stored], form: Format) -> tuple[Share, ...]:
    """Shares of stored tensors; what blocks leave over is the largest one's."""
    out = list(shares(found, form))
    if out:
        i = max(range(len(out)), key=lambda k: out[k].level.requested)
        level = out[i].level
        out[i] = out[i].but(level=Level(level.requested, level.allocated + unsplit(found, form)))
    return tuple(out)


def _doubled(model: Model) -> tuple[str, ...]:
    """Ends of the names of keys' projections that are the values' as well, before their norm (Gemma 4).

    Engines load that matrix into both: vLLM v0.33.0 vllm/model_executor/models/gemma4.py, ``load_weights``.
    """
    out = []
    for i, layer in enumerate(model.decoder.layers):
        names = {t.name for t in layer.weights()}
        caches = any("K" in dict(t.axes) for t in _cache(layer))
        if KEYS in names and VALUES not in names and QUERIES in names and caches:
            out.append(f"layers.{i}.{KEYS}")
    return tuple(out)


def rotary_tables(model: Model, width: int, *, grids: int = 1) -> Extra | None:
    """A row of cosines and sines for every position, one table for each kind of angle, on every rank.

    vLLM v0.33.0 vllm/model_executor/layers/rotary_embedding/base.py ``_compute_cos_sin_cache``, mrope.py.

    Args:
        model: its positions are the rows, those of a stretched table included.
        width: bytes of an element. [byte]
        grids: rows for each position where positions have three dimensions.
    """
    level, words = Level(), []
    if model.positions is None or model.table:
        return None
    for rotary in {r.key: r for r in model.decoder.stem.rotary}.values():
        # Angles of windows are not scaled.
        rows = model.positions if "sliding" in rotary.key or "local" in rotary.key else model.reach or model.positions
        rows *= grids if isinstance(rotary, GridRotary) else 1
        n = rows * rotary.width * width
        level = level + Level(n, blocks(n))
        words.append(f"{rows:,} positions x {rotary.width} x {width} B")
    return Extra(ROTARY, level, "; ".join(words)) if words else None


def absorbed(model: Model, mesh: Mesh, layers: range | None = None, width: int = 2) -> Extra | None:
    """What a latent is expanded with, once more in 16 bit beside the packed matrix.

    vLLM v0.33.0 vllm/model_executor/layers/attention/mla_attention.py, ``process_weights_after_loading``.
    """
    level, count = Level(), 0
    for i, layer in enumerate(model.decoder.layers):
        if layers is not None and i not in layers:
            continue
        for t in layer.weights():
            if t.name.endswith("kv_b_proj.weight"):
                ((_, piece),) = held([(1, t)], mesh.__class__(tp=mesh.tp))
                level, count = level + Level(piece.numel * width, blocks(piece.numel * width)), count + 1
    return Extra(ABSORBED, level, f"{count} layers") if count else None


def adapters(
    model: Model, mesh: Mesh, form: Format, slots: int, largest: int, layers: range | None = None
) -> Extra | None:
    """Two stacks of every linear module for adapters: the side that tensor parallelism does not cut is whole.

    vLLM v0.33.0 vllm/lora/layers/column_parallel_linear.py, row_parallel_linear.py ``create_lora_weights``.

    Leaves out: adapters of experts, of embeddings and of the head.
    """
    if not slots:
        return None
    level, count, table = Level(), 0, cuts(mesh)
    for i, layer in enumerate(model.decoder.layers):
        if layers is not None and i not in layers:
            continue
        for t in layer.weights():
            dims = t.dims or (1,) * len(t.axes)
            if t.role not in ("attention", "feed_forward", "shared_expert") or len(dims) != 2:
                continue
            axes = largest_shard(t, table.of(t)).axes
            for part in (axes[: dims[0]], axes[dims[0] :]):
                n = form.nbytes(slots * largest * prod(size for _, size in part))
                level, count = level + Level(n, blocks(n)), count + 1
    return Extra("adapters", level, f"{slots} slots of rank {largest}, {count} stacks")


def kernel_padding(
    model: Model, recipe: Recipe | None, mesh: Mesh, architecture: str, layers: range | None = None, kept: bool = False
) -> Extra | None:
    """What the kernels of MXFP4 experts pad.

    On Hopper the layouts of triton_kernels: rows to multiples of 256, a row's values to 64 bytes, its scales to two.
    Where the checkpoint's scales are ``kept`` (vLLM before 0.25, SGLang) those of the new layout come on top; the
    triton_kernels of then pad values to 16 rows and 32 bytes. Elsewhere Marlin's and TensorRT-LLM's: the residual
    width to a multiple of 256, the experts' to one of 128.

    vLLM v0.33.0 vllm/model_executor/layers/fused_moe/oracle/mxfp4.py (v0.24.0 and SGLang v0.5.23
    python/sglang/srt/layers/quantization/mxfp4.py delete the values alone); triton-lang/triton
    python/triton_kernels/triton_kernels/tensor_details/layout_details/hopper_value.py, hopper_scale.py.
    """
    if recipe is None or recipe.method != "mxfp4":
        return None
    table, extra, count = cuts(mesh), 0, 0
    hopper = architecture.startswith("sm_90")
    # Marlin's kernels, of all GPUs but those of Hopper and of Blackwell for data centres, leave biases in 16 bit.
    marlin = not hopper and not architecture.startswith("sm_10")
    for i, layer in enumerate(model.decoder.layers):
        for t in layer.weights() if layers is None or i in layers else ():
            dims = dict(largest_shard(t, table.of(t)).axes)
            if marlin and t.role == "expert" and t.name.endswith("bias"):
                extra -= largest_shard(t, table.of(t)).numel * 2
            if t.role != "expert" or not {"E", "F", "D"} <= dims.keys() or t.name.endswith("bias"):
                continue
            down = "down" in t.name
            rows, columns = (dims["D"], dims["F"]) if down else (dims["F"] * dims.get("X", 1), dims["D"])
            if hopper:
                scales = _to(rows, 256) * _to(-(-columns // 32), 2)
                padded = _to(rows, 256) * _to(-(-columns // 2), 64) + scales
                if kept:
                    padded = _to(rows, 16) * _to(-(-columns // 2), 32) + rows * columns // 32 + scales
            else:
                wide, inner = _to(dims["D"], 256), _to(dims["F"], 128)
                padded = wide * inner * dims.get("X", 1) * 17 // 32
            extra, count = extra + dims["E"] * (padded - rows * columns * 17 // 32), count + 1
    return Extra(PADDING, Level(extra, extra), f"{count} stacks of experts") if extra else None


def _to(n: int, step: int) -> int:
    return -(-n // step) * step


def _cache(layer: object) -> Iterator[Tensor]:
    for sub in getattr(layer, "sublayers", ()):
        state = getattr(sub.block, "state", None)
        if state is not None:
            yield from (t for t in state(1, 1) if t.role == "cache")


def _rest(t: Tensor) -> tuple[Any, ...]:
    return t.axes, t.role, t.dims, t.layer, t.alias_of, t.dtype
