"""Inkling: its language model behind matrices that fold an image step by step, and a table of sounds."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Final

from tonnage.arch.layers import Norm
from tonnage.arch.model import Model
from tonnage.errors import UnsupportedError
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._language import headed, language
from tonnage.families._pieces import matrix
from tonnage.families._towers import tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

TEXT: Final[dict[str, Any]] = {
    "hidden_size": 6144,
    "num_hidden_layers": 66,
    "num_attention_heads": 64,
    "vocab_size": 201024,
}
VISION: Final[dict[str, Any]] = {"patch_size": 40, "temporal_patch_size": 2, "num_channels": 3, "num_hidden_layers": 24}
AUDIO: Final[dict[str, Any]] = {"n_mel_bins": 80, "mel_vocab_size": 256}
TOWER: Final = "model.vision_tower"
SOUND: Final = "model.audio_tower"

Scale = tuple[int, int, int]
"""Frames, pixels along a side, and channels of what is one cell."""


def read(k: Keys) -> Model:
    """Build ``InklingForConditionalGeneration``."""
    text = language(k, "model.language_model", "inkling_text", fixed=True, always=TEXT)
    D = text.model.width
    names = {"num_hidden_layers": "n_layers"}
    less = ("model_type", "text_hidden_size")
    images = read_inner(k, "vision_config", VISION, lambda inner: _vision(inner, D), aliases=names, less=less)
    sound = read_inner(k, "audio_config", AUDIO, lambda inner: _audio(inner, D), less=less)
    k.skip("mtp_config", "tie_word_embeddings")
    return headed(text.model, False, extra=images + sound)


def _vision(k: Keys, D: int) -> tuple[Tensor, ...]:
    """One matrix for every step from a pixel to the whole patch."""
    scales = _scales(k)
    k.skip("hidden_size", "num_attention_heads")
    last = len(scales) - 2
    found = tower("vision", TOWER, Norm("final_norm", (("D", D),)))
    for index, (small, large) in enumerate(pairwise(scales)):
        folded = (large[0] // small[0]) * (large[1] // small[1]) ** 2
        outs = D if index == last else large[2]
        layer = matrix("projection", ("X", small[2] * folded), ("D", outs), "vision", bias=False)
        norms = () if index == last else (Norm("layer_norm", (("D", outs),)),)
        found += tower("vision", f"{TOWER}.encoder_layers.{index}", layer, *norms)
    return found


def _scales(k: Keys) -> list[Scale]:
    """The scale before every layer and behind the last: the nearest of those whose logarithms are evenly apart."""
    patch, frames, C, L = (
        k.need(n) for n in ("patch_size", "temporal_patch_size", "num_channels", "num_hidden_layers")
    )
    sides, times = _products(patch), _products(frames)
    known: list[Scale] = [(1, 1, C)]
    known += [(1, n, math.ceil(n * n * C / 64) * 64) for n in sides]
    whole = sides[-1] if sides else 1
    known += [(n, whole, math.ceil(whole * whole * C * n) * 64) for n in times]
    if len(known) > L or not sides:
        raise UnsupportedError(
            f"{k.path}n_layers = {L}: fewer layers than the {len(known)} scales of a patch are not modelled",
            key=f"{k.path}n_layers",
            value=L,
            file=k.file,
        )
    total = math.log(patch * patch * frames * C)
    sizes = [math.log(n * m * m) for n, m, _ in known]
    nearest = [min(range(len(known)), key=lambda j: abs(i * total / L - sizes[j])) for i in range(L + 1)]
    return [known[0], *(known[j] for j in nearest[1:-1]), known[-1]]


def _products(number: int) -> list[int]:
    """Products of its prime factors, the largest first."""
    factors, at = [], 2
    while number > 1:
        while number % at == 0:
            factors.append(at)
            number //= at
        at += 1
    found: list[int] = []
    for factor in reversed(factors):
        found.append(factor * (found[-1] if found else 1))
    return found


def _audio(k: Keys, D: int) -> tuple[Tensor, ...]:
    """A row for every level of every band of frequencies."""
    bins, levels = k.need("n_mel_bins"), k.need("mel_vocab_size")
    path = "embed_audio_tokens"
    return tower(
        "audio",
        SOUND,
        Tensor(f"{path}.embed_audio_tokens.weight", (("P", bins * levels), ("D", D)), "audio"),
        Tensor(f"{path}.audio_tokens_offsets", (("X", bins),), "buffer", dtype="int64"),
        Norm("norm", (("D", D),)),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/inkling/"
    "modeling_inkling.py",
)
