"""A projector's file: what of its header decides memory, and the sizes of pictures that its encoder is given.

Reference: tools/mtmd/clip.cpp ``load_hparams`` and ``load_tensors``, tools/mtmd/clip-model.h ``set_limit_image_tokens``
and ``set_warmup_n_tokens``, tools/mtmd/mtmd-image.cpp of ggml-org/llama.cpp v0.5.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any, Final

from tonnage.checkpoint import Header
from tonnage.errors import InputError, UnsupportedError
from tonnage.record import Record

Tensors = Mapping[str, tuple[tuple[int, ...], str]]
"""Shape, outermost dimension first, and format by name."""

ANOTHER: Final = "of this text model, such as mmproj-model-f16.gguf beside its weights"


class Pictures(Record):
    """What a type of projector does with pictures.

    Args:
        merge: patches along a side that become one token where the file does not say.
        key: of the file that says it.
        limits: tokens of the smallest and the largest picture; None where every picture has one size.
        warmup: tokens along a side of the picture that the graph is reserved for; None for ``image_size``.
        batched: several pictures of one size run at once.
    """

    merge: int = 1
    key: str = ""
    limits: tuple[int, int] | None = None
    warmup: int | None = None
    batched: bool = False


SCALE: Final = "clip.vision.projector.scale_factor"
MERGE: Final = "clip.vision.spatial_merge_size"

PICTURES: Final[Mapping[str, Pictures]] = {
    "mlp": Pictures(),
    "gemma3": Pictures(4, SCALE),
    "idefics3": Pictures(1, SCALE),
    "internvl": Pictures(1, SCALE, batched=True),
    "pixtral": Pictures(1, MERGE, (8, 1024), 16),
    "qwen2vl_merger": Pictures(2, MERGE, (8, 4096), 46),
    "qwen2.5vl_merger": Pictures(2, MERGE, (8, 4096), 46),
    "qwen3vl_merger": Pictures(2, MERGE, (8, 4096), 46),
    "resampler": Pictures(),
}
"""By ``clip.projector_type``."""

OUT: Final = {
    "mlp": ("mm.2.weight", 0), "gemma3": ("mm.input_projection.weight", -1), "idefics3": ("mm.model.fc.weight", 0),
    "internvl": ("mm.model.mlp.3.weight", 0), "pixtral": ("mm.2.weight", 0), "qwen2vl_merger": ("mm.2.bias", 0),
    "qwen2.5vl_merger": ("mm.2.bias", 0), "qwen3vl_merger": ("mm.2.bias", 0),
    "resampler": ("resampler.proj.weight", -1),
}  # fmt: skip
"""The tensor, and its axis, that tells how wide a token is (``clip_n_mmproj_embd``)."""

BATCH: Final = 1024
"""Tokens of pictures that run at once (``batch_max_tokens``)."""
QUERIES: Final = {0: 96, 2: 96}
"""Tokens that MiniCPM-V's resampler makes, by version; 64 for later ones."""


class Projector(Record):
    """An encoder of pictures and the matrices behind it.

    Args:
        kind: ``clip.projector_type``.
        tensors: that are loaded.
        width, heads, feed, layers: of the encoder.
        side: of the picture that its positions are made for. [pixel]
        patch: side of a patch. [pixel]
        merge: patches along a side that become one token.
        limits: tokens of the smallest and the largest picture; None where every picture has one size.
        window: every how manieth layer attends to everything (Qwen2.5-VL); 0 for all.
        queries: tokens of a resampler.
        features: layers whose results are the encoder's; empty for the last but one.
        tiled: the file tells sizes that pictures are cut into (LLaVA 1.6).
        name: of the file.
    """

    kind: str
    tensors: Tensors
    width: int
    heads: int
    feed: int
    layers: int
    side: int
    patch: int
    merge: int
    limits: tuple[int, int] | None
    window: int = 0
    queries: int = 0
    features: tuple[int, ...] = ()
    tiled: bool = False
    name: str = ""

    @property
    def head(self) -> int:
        """Elements of a head."""
        return self.width // self.heads

    def has(self, name: str) -> bool:
        """Whether the file has a tensor."""
        return name in self.tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Its shape, outermost dimension first.

        Raises:
            InputError: there is none.
        """
        try:
            return self.tensors[name][0]
        except KeyError:
            raise _wrong(f"unable to find tensor {name}", self.name) from None

    @property
    def out(self) -> int:
        """Elements of a token that it gives the model, those for deeper layers left out."""
        name, axis = OUT[self.kind]
        return self.shape(name)[axis]

    @property
    def warmup(self) -> tuple[int, int]:
        """Width and height of the picture that the graph is reserved for at start. [pixel]"""
        tokens = PICTURES[self.kind].warmup
        side = self.side if tokens is None else tokens * self.patch * self.merge
        return side, side

    @property
    def largest(self) -> tuple[int, int]:
        """The largest picture after it was made smaller: as many tokens as are let in, nearly square. [pixel]"""
        if self.limits is None:
            return self.side, self.side
        rows = isqrt(self.limits[1])
        step = self.patch * self.merge
        return self.limits[1] // rows * step, rows * step

    @property
    def together(self) -> int:
        """Pictures of one size that run at once at most."""
        return max(BATCH // max(self.tokens(*self.warmup), 1), 1) if PICTURES[self.kind].batched else 1

    def tokens(self, wide: int, high: int) -> int:
        """Tokens of the context that a picture of this size takes; a tile of it where it is cut into tiles."""
        across, down = wide // self.patch // self.merge, high // self.patch // self.merge
        if self.queries:
            return self.queries
        if self.kind == "pixtral" and self.has("v.token_embd.img_break"):
            return across * down + down - 1
        return across * down


def _wrong(what: str, name: str) -> InputError:
    return InputError(f"mmproj: {name}: {what}", key="mmproj", value=name, hint=f"name the file {ANOTHER}")


def read(header: Header, least: int | None = None, most: int | None = None) -> Projector:
    """The projector of a file.

    Args:
        header: of the file.
        least, most: ``--image-min-tokens`` and ``--image-max-tokens``; 0 and None for the model's own.

    Raises:
        InputError: no projector, a key or tensor that is missing, or limits that contradict.
        UnsupportedError: a type that is not modelled, or one that reads sound.
    """
    m, name = header.metadata, header.name
    kind = _kind(m, name)
    known = PICTURES[kind]
    merge = _number(m, known.key, name, default=known.merge) if known.key else known.merge
    patch = _number(m, "clip.vision.patch_size", name)
    limits = known.limits
    if limits is not None:
        limits = (least or limits[0], most or limits[1])
        if limits[0] > limits[1]:
            raise InputError(
                f"image_min_tokens = {limits[0]:,} is more than image_max_tokens = {limits[1]:,}",
                key="image_min_tokens", value=limits[0],
                hint=f"{kind} takes {known.limits[0]} to {known.limits[1]:,} tokens a picture where nothing is said"
                if known.limits else None,
            )  # fmt: skip
    tensors = {t.name: (t.shape, t.format) for t in header.tensors if not t.name.startswith(("a.", "mm.a."))}
    features = m.get("clip.vision.feature_layer") or ()
    found = Projector(
        kind=kind,
        tensors=tensors,
        width=_number(m, "clip.vision.embedding_length", name),
        heads=_number(m, "clip.vision.attention.head_count", name),
        feed=_number(m, "clip.vision.feed_forward_length", name, default=0),
        layers=_number(m, "clip.vision.block_count", name),
        side=_number(m, "clip.vision.image_size", name),
        patch=patch,
        merge=merge,
        limits=limits,
        window=_number(m, "clip.vision.n_wa_pattern", name, default=0) if kind == "qwen2.5vl_merger" else 0,
        queries=_queries(m) if kind == "resampler" else 0,
        features=tuple(features) if isinstance(features, list | tuple) else (),
        tiled=bool(m.get("clip.vision.image_grid_pinpoints")),
        name=name,
    )
    if found.width % found.heads:
        raise _wrong(f"{found.heads} heads do not divide a width of {found.width}", name)
    return found


def _kind(m: Mapping[str, Any], name: str) -> str:
    """The type of projector.

    Raises:
        InputError: the file holds none.
        UnsupportedError: one that is not modelled.
    """
    if m.get("general.architecture") != "clip":
        what = f"a {m['general.architecture']} model" if "general.architecture" in m else "no GGUF header of one"
        raise _wrong(f"no projector, but {what}", name)
    kind = m.get("clip.projector_type") or m.get("clip.vision.projector_type")
    if m.get("clip.has_audio_encoder"):
        raise UnsupportedError(
            f"mmproj: {name} reads sound, whose encoder is not modelled", key="mmproj", value=name,
            hint="--no-mmproj runs the text model alone",
        )  # fmt: skip
    if not m.get("clip.has_vision_encoder") or kind is None:
        raise _wrong("no encoder of pictures in it", name)
    if kind not in PICTURES:
        raise UnsupportedError(
            f"mmproj: projectors of type {kind} are not modelled", key="mmproj", value=kind,
            hint=f"known: {', '.join(PICTURES)}",
        )  # fmt: skip
    return str(kind)


def _number(m: Mapping[str, Any], key: str, name: str, *, default: int | None = None) -> int:
    found = m.get(key, default)
    least = 1 if default is None else 0
    if isinstance(found, bool) or not isinstance(found, int) or not least <= found < 1 << 24:
        told = "is missing" if found is None else f"= {found!r} is no size"
        raise _wrong(f"{key} {told}", name)
    return found


def _queries(m: Mapping[str, Any]) -> int:
    told = m.get("clip.minicpmv_query_num")
    return int(told) if told else QUERIES.get(m.get("clip.minicpmv_version", 0), 64)
