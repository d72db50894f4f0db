"""Granite SWA: Granite's structure with sinks, a window on three of four layers and rotary tables by base."""

from __future__ import annotations

from functools import cache
from itertools import starmap
from typing import Any, Final

from tonnage.arch.layers import Rotary
from tonnage.arch.model import Layer, Model
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before
from tonnage.families._decoder import window_of, windows
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``GraniteSWAForCausalLM`` builds.

    A layer whose base is 0 turns nothing; the others share a table for each base. One more is built and not used.
    """
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token = attention(k, D, K=4, sinks=True, eager="sinks-apart")
    mlp = gated(k, D, bias=k.want("mlp_bias", False))
    window = window_of(k, 128)
    seen = windows(k, L, window, lambda i: i % 4 != 0)
    bases = _bases(k, L)
    tables = {base: str(index) for index, base in enumerate(sorted(set(bases) - {0}))}

    @cache
    def layer(window: int | None, base: float) -> Layer:
        block = token.but(window=window, rotary=tables.get(base))
        return normed_before(block, mlp, D, scaled=True, kind="full layer" if window is None else "sliding layer")

    return decoder(
        k,
        D,
        tuple(starmap(layer, zip(seen, bases, strict=True))),
        width=token.H,
        positions=8192,
        tied=True,
        rotary=tuple(Rotary(f"model.rotary_embs.{key}", token.H, key) for key in tables.values()),
        buffers=tuple(Rotary("model.rotary_emb", token.H).weights()),
        masks=() if window is None else (None, window),
        scaled=True,
        head_scaled=True,
        eager_only=True,
    )


def _bases(k: Keys, L: int) -> tuple[float, ...]:
    """Base of every layer's angles; where nothing is said, the same for all, whatever it is."""
    stated: list[Any] | None = k.optional("layer_rope_theta", list)
    if stated is None:
        return (1.0,) * L
    if len(stated) != L or not all(isinstance(base, int | float) for base in stated):
        raise ConfigError(
            f"layer_rope_theta must be {L} numbers, one for each layer", key="layer_rope_theta", value=len(stated)
        )
    return tuple(float(base) for base in stated)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/granite_swa/"
    "modeling_granite_swa.py",
)
