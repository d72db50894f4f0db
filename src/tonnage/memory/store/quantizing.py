"""Device and host memory while weights are quantized on their way to the device, and while llama.cpp loads a file.

A matrix is read, copied to the device in the format that is asked for, packed, and dropped before the next is read:
transformers loads one after the other then, without threads. The peak is all that is packed so far, what stays as it
is, the largest matrix in its source format, and what the packing takes for itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tonnage import quant
from tonnage.errors import TonnageError
from tonnage.evidence import ASSUMED, MEASURED
from tonnage.memory.store.loading import CPP, STAGING
from tonnage.memory.store.ways import Subject, Way, line
from tonnage.memory.weights import Share, stored, total
from tonnage.quant import Entry, Recipe
from tonnage.tensors import size

SOURCE: Final = (
    "https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/core_model_loading.py "
    "has_on_the_fly_quantization"
)
WORKING: Final = {
    "bitsandbytes": (0.0, 0.0, 0.6, "the packed copy of the matrix"),
    "torchao": (2.0, 5.8, 10.0, "fp32 copies of the matrix; 5.8 B an element read with torchao 0.18.0"),
    "quanto": (2.0, 7.1, 10.0, "fp32 copies of the matrix; 7.1 B an element read with optimum-quanto 0.2.7"),
    "eetq": (0.0, 1.0, 4.0, "the matrix on the host, quantized there"),
    "fp8": (0.0, 4.0, 10.0, "the matrix in fp32 while its scales are found"),
    "fbgemm_fp8": (0.0, 1.0, 4.0, "the packed copy of the matrix"),
    "mxfp4": (0.0, 4.0, 10.0, "the matrix in fp32 while its scales are found"),
    "nvfp4": (0.0, 4.0, 10.0, "the matrix in fp32 while its scales are found"),
}
"""Bytes an element that packing takes for itself: low, usual, high, and what they are. Read where it says so; else the
range spans what a packing kernel could keep. HQQ is not there: transformers 5.23 refuses to make it while loading."""
GGUF: Final = ("q8_0", "q4_k_m")
"""Recipes that stand for all files: what llama.cpp takes follows from the file's size."""


def ways(s: Subject) -> Iterator[Way]:
    """Schemes that are made while loading, then llama.cpp."""
    entries = quant.entries(s.model, by_layer=False)
    for name in quant.NAMES:
        try:
            recipe = quant.recipe(quant.called(quant.APART.get(name, name)), checkpoint=False, lenient=True)
            parts = stored(s.model, s.form, recipe, entries)
        except TonnageError:
            continue
        if not recipe.calibrated and recipe.method in WORKING and any(p.part != "kept" for p in parts):
            yield _packing(s, quant.APART.get(name, name), recipe, parts, entries)
    for name in GGUF:
        try:
            parts = stored(s.model, s.form, quant.recipe(quant.called(name), checkpoint=False))
        except TonnageError:
            continue
        yield from _llamacpp(s, name, parts)


def _packing(s: Subject, name: str, recipe: Recipe, parts: tuple[Share, ...], entries: list[Entry]) -> Way:
    packed = quant.packed_modules(s.model, recipe)
    found = [m for _, _, m in entries if m is not None and m.module in packed]
    largest = max((size(m.batch) * m.rows * m.columns for m in found), default=0)
    low, usual, high, what = WORKING[recipe.method]
    end = total(parts).requested
    return Way(
        name,
        f"transformers 5, quantizing while loading: {recipe.title}",
        (
            line("device", "weights", end, "all that is packed, and what stays as it is", recipe.source),
            line("device", "other:source matrix", s.form.nbytes(largest),
                 f"the largest matrix, {largest:,} elements in {s.form.name}", SOURCE, low=0),
            line("device", "other:packing", round(usual * largest), what, recipe.source,
                 trust=MEASURED if "read with" in what else ASSUMED, low=round(low * largest),
                 high=round(high * largest)),
            line("host", "other:source matrix", 0, "one matrix, where it is converted before it is copied", SOURCE,
                 high=4 * largest),
            line("mapped", "weights", s.disk, "the checkpoint's files, until loading is over", SOURCE, low=0),
        ),
    )  # fmt: skip


def _llamacpp(s: Subject, name: str, parts: tuple[Share, ...]) -> Iterator[Way]:
    file = total(parts).requested
    yield Way(
        f"llama.cpp {name}",
        "llama.cpp, mapped file, on the CPU; a cache and buffers for computing come on top",
        (
            line("mapped", "weights", file, "the file's pages", CPP, low=0),
            line("host", "weights", 0, "without --mlock nothing is copied", CPP, high=file // 4),
        ),
    )
    yield Way(
        f"llama.cpp {name}, -ngl 99",
        "llama.cpp, all layers on the device; the table of tokens stays on the host",
        (
            line("mapped", "weights", file, "the file's pages while they are copied", CPP, low=0),
            line("host", "other:staging", STAGING[0], "buffers for uploads, with --no-mmap", CPP, low=0,
                 high=STAGING[1]),
            line("device", "weights", file - _table(s, parts), "every tensor but the table of tokens", CPP,
                 low=file - 2 * _table(s, parts), high=file),
        ),
    )  # fmt: skip


def _table(s: Subject, parts: tuple[Share, ...]) -> int:
    """About what the table of tokens takes: its share of the elements. [byte]"""
    everything = sum(p.elements for p in parts)
    rows = sum(t.nbytes for t in s.tensors if t.name.endswith(("embed_tokens.weight", "wte.weight")))
    tied = s.model.head is not None and any(t.alias_of for t in s.model.head.weights())
    return 0 if tied or not everything else total(parts).requested * (rows // s.form.bytes) // everything
