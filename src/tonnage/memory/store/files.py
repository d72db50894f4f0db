"""What a model takes on disk, by format and by scheme."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tonnage import quant
from tonnage.errors import TonnageError
from tonnage.evidence import ASSUMED, EXACT
from tonnage.formats import FORMATS
from tonnage.memory.store.storing import CONVERSIONS, RENAMED, SAFETENSORS, SHARD, SHARDS
from tonnage.memory.store.ways import Subject, Way, line, subject
from tonnage.memory.weights import Share, shares, stored, total
from tonnage.timeline import Component

PLAIN: Final = ("fp32", "bf16", "fp16")
ENTRY: Final = (90, 130, 190)
"""Bytes of one tensor in a safetensors header whose names are not known: low, usual, high. Headers of Llama 3.1 8B and
DeepSeek-V3 take 121 and 146 B a tensor."""
GGUF_ENTRY: Final = (50, 64, 90)
"""Bytes of one tensor in a GGUF header: lengths, name, up to four dimensions, type and offset."""
GGUF_ROW: Final = (16, 40, 70)
"""Bytes of a vocabulary row in GGUF metadata: its text and type; a score (SentencePiece) or its merge (BPE)."""
GGUF_FILE: Final = "https://github.com/ggml-org/ggml/blob/master/docs/gguf.md File Structure; alignment 32"
ALIGNMENT: Final = 32


def ways(s: Subject) -> Iterator[Way]:
    """Plain formats first, then every scheme that packs some of the model."""
    for name in PLAIN:
        yield plain(s if s.form.name == name else subject(s.model, FORMATS[name]), name)
    entries = quant.entries(s.model, by_layer=False)
    for called, config, own in _asked(s):
        try:
            recipe = quant.recipe(config, checkpoint=own, lenient=True)
            parts = stored(s.model, s.form, recipe.but(loaded_bias=None), entries)
            apart = () if recipe.plan is not None else shares(quant.apart(s.model, recipe), s.form)
        except TonnageError:
            # A scheme that is not modelled for this model has no row; asking for it by name says why.
            continue
        if recipe.plan is not None:
            yield gguf(s, called, recipe.title, parts)
        elif any(share.part != "kept" for share in parts):
            if recipe.saved == "dense":
                yield plain(s, s.form.name).but(name=called, what=f"{recipe.title}: files hold the zeros")
            else:
                yield packed(s, called, recipe.title, recipe.source, (*parts, *apart))


def _asked(s: Subject) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    """Names of schemes with their settings: the checkpoint's own first."""
    if s.model.quantization is not None:
        yield "checkpoint", s.model.quantization, True
    for name in (*quant.NAMES, *quant.GGUF):
        called = quant.APART.get(name, name)
        yield called, quant.called(called), False


def plain(s: Subject, name: str) -> Way:
    """safetensors files as ``save_pretrained`` writes them."""
    header = s.disk - s.data
    known = s.model.model_type not in RENAMED and len(s.files) == 1 and not s.model.apart
    n = sum(len(file) for file in s.files)
    files = "1 file" if len(s.files) == 1 else f"{len(s.files)} files of at most {SHARD / 10**9:.0f} GB and an index"
    beside = s.form.nbytes(sum(t.numel for t in s.model.apart))
    lines = [
        line("disk", "weights", s.data, f"{n:,} tensors in {name}", SAFETENSORS, trust=EXACT),
        _header(header, n, files, s, known),
    ]
    if beside:
        why = "multi-token prediction, which a published checkpoint holds and transformers does not build"
        lines.append(line("disk", "other:apart", beside, why, SAFETENSORS))
    return Way(name, f"safetensors, {files}", tuple(lines))


def _header(size: int, n: int, files: str, s: Subject, known: bool) -> Component:
    why = f"headers of {files}: names, shapes and offsets of {n:,} tensors"
    if known:
        return line("disk", "other:headers", size, why, SAFETENSORS, trust=EXACT)
    if s.model.model_type not in RENAMED:
        spread = 64 * len(s.files)
        why += "; where a file ends depends on the order of its tensors"
        return line("disk", "other:headers", size, why, SHARDS, low=size - spread, high=size + spread)
    why += "; its files name tensors otherwise"
    return line("disk", "other:headers", size, why, CONVERSIONS, low=size // 2, high=size * 3 // 2)


def packed(s: Subject, name: str, title: str, source: str, parts: tuple[Share, ...]) -> Way:
    """A quantized checkpoint in safetensors: its tensors, and a header of about as many entries."""
    n, size = sum(p.tensors for p in parts), total(parts).requested
    apiece = sum(len(file) for file in s.files) / max(len(s.tensors), 1)
    low, usual, high = ENTRY[0] * n, round(ENTRY[1] * n * apiece), round(ENTRY[2] * n * apiece)
    why = (
        f"headers: about {round(n * apiece):,} tensors, experts one by one where files hold them so, {ENTRY[1]} B each"
    )
    return Way(
        name,
        title,
        (
            line("disk", "weights", size, f"{n:,} tensors: {_told(parts)}", source),
            line("disk", "other:headers", usual, why, SAFETENSORS, trust=ASSUMED, low=low, high=high),
        ),
    )


def gguf(s: Subject, name: str, title: str, parts: tuple[Share, ...]) -> Way:
    """A GGUF file: tensors at multiples of 32 bytes, their list, and the tokenizer among the metadata."""
    n, size, rows = sum(p.tensors for p in parts), total(parts).requested, s.model.vocabulary
    low, usual, high = (entry * n + row * rows for entry, row in zip(GGUF_ENTRY, GGUF_ROW, strict=True))
    why = f"list of {n:,} tensors, and the tokenizer's {rows:,} rows of about {GGUF_ROW[1]} B each"
    return Way(
        f"gguf {name}",
        title,
        (
            line("disk", "weights", size, f"{n:,} tensors: {_told(parts)}", GGUF_FILE, high=size + ALIGNMENT * n),
            line("disk", "other:metadata", usual, why, GGUF_FILE, trust=ASSUMED, low=low, high=high),
        ),
    )


def _told(parts: tuple[Share, ...]) -> str:
    return ", ".join(dict.fromkeys(p.what for p in sorted(parts, key=lambda p: -p.level.requested)[:4]))
