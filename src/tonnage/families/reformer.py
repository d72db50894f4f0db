"""Reformer: attention within chunks, in order or by hash, in reversible layers; axial positions (arXiv:2001.04451)."""

from __future__ import annotations

import math
from functools import cache
from typing import Final

from tonnage.arch.ends import Head, Stem
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.arch.parts import Memory, Part, PerToken
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._hybrid import whole_numbers
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.keys import Keys
from tonnage.tensors import Axis, Tensor

BASE: Final = "reformer"
OLD: Final = (
    "attention_probs_dropout_prob",
    "intermediate_size",
    "num_chunks_after",
    "num_chunks_before",
    "output_past",
)
"""Keys of released configs that no class reads."""


def read(k: Keys) -> Model:
    """Build the model that ``ReformerForMaskedLM`` builds. ``ReformerModelWithLMHead`` holds the same tensors."""
    D, V, P = k.size("hidden_size", 256), k.size("vocab_size", 320), k.size("max_position_embeddings", 4096)
    kinds, decodes = _kinds(k), k.want("is_decoder", False)
    k.skip("num_hidden_layers", "hash_seed", "num_buckets", "chunk_size_lm_head", "axial_norm_std", *OLD)
    for kind in ("local", "lsh"):
        k.skip(*(f"{kind}_{key}" for key in ("num_chunks_before", "num_chunks_after", "attention_probs_dropout_prob")))
        k.skip(f"{kind}_attn_chunk_length")
    # The class ties nothing, whatever is asked.
    k.skip("tie_word_embeddings")

    @cache
    def layer(kind: str) -> Layer:
        return _layer(k, D, kind, decodes)

    table = f"{BASE}.embeddings"
    stem = Stem(name=f"{table}.word_embeddings", V=V, D=D, dropout=k.want("hidden_dropout_prob", 0.05))
    stack = Stack(
        name="decoder" if decodes else "encoder",
        path=f"{BASE}.encoder.layers",
        stem=stem,
        layers=tuple(map(layer, kinds)),
        norm=layer_norm(f"{BASE}.encoder.layer_norm", 2 * D),
    )
    bias = Tensor("lm_head.bias", (("V", V),), "head")
    dense = matrix("classifier.dense", ("X", 2 * D), ("D", D), "head")
    return Model(
        model_type=BASE,
        stacks=(stack,),
        head=Head(name="lm_head.decoder", D=2 * D, V=V, extra=(bias,)),
        positions=P,
        table=True,
        eager_only=True,
        causal=decodes,
        extra=_positions(k, D, P, f"{table}.position_embeddings"),
        classifier=Head(name="classifier.out_proj", D=D, V=1, bias=True, dense=dense, act="tanh"),
    )


def _kinds(k: Keys) -> list[str]:
    """The kind of attention of every layer."""
    kinds = k.optional("attn_layers", list, ["local", "lsh"] * 3) or []
    if not kinds or not set(map(str, kinds)) <= {"local", "lsh"}:
        raise ConfigError("attn_layers is a list of local and lsh", key="attn_layers", value=kinds, file=k.file)
    return kinds


def _positions(k: Keys, D: int, P: int, path: str) -> tuple[Tensor, ...]:
    """A table, or one for each axis of a grid: a position then has the rows of all of them, side by side."""
    if not k.want("axial_pos_embds", True):
        k.skip("axial_pos_shape", "axial_pos_embds_dim")
        return (Tensor(f"{path}.embedding.weight", (("P", P), ("D", D)), "position"),)
    shape = whole_numbers(k, "axial_pos_shape") or [64, 64]
    widths = whole_numbers(k, "axial_pos_embds_dim") or [64, 192]
    if len(shape) != len(widths) or sum(widths) != D or math.prod(shape) < 1:
        raise ConfigError(
            f"axial_pos_embds_dim = {widths} are not {len(shape)} widths that sum to hidden_size = {D}",
            key="axial_pos_embds_dim",
            value=widths,
            file=k.file,
        )

    def grid(axis: int) -> tuple[Axis, ...]:
        return tuple(("P", n if axis == other else 1) for other, n in enumerate(shape))

    return tuple(Tensor(f"{path}.weights.{i}", (*grid(i), ("X", width)), "position") for i, width in enumerate(widths))


def _layer(k: Keys, D: int, kind: str, decodes: bool) -> Layer:
    """Attention whose queries, by hash, are the keys, and a feed-forward block."""
    F, inner = k.size("feed_forward_size", 512), k.size("num_attention_heads", 12) * k.size("attention_head_size", 64)
    N, heads, path = k.size("num_attention_heads", 12), ("N", inner), "attention.self_attention"
    hashes, hashed = k.size("num_hashes", 1), kind == "lsh"
    masks: tuple[str, ...] = ("mask_value_float16", "mask_value_float32")
    if hashed:
        masks += ("self_mask_value_float16", "self_mask_value_float32")
    names = ("query_key", "value") if hashed else ("query", "key", "value")
    parts: list[Part | Tensor] = [matrix(f"{path}.{n}", ("D", D), heads, "attention", bias=False) for n in names]
    parts += [matrix("attention.output.dense", heads, ("D", D), "attention", bias=False)]
    parts += [Tensor(f"{path}.{mask}", (), "buffer") for mask in masks]
    if decodes:
        # What goes into the layer is kept in the place of keys and values, and the bucket of every token.
        parts += [Memory(D)]
        parts += [PerToken((("buckets", (("N", N), ("X", hashes)), "int64"),))] if hashed else ()
    mlp = (
        matrix("feed_forward.dense.dense", ("D", D), ("F", F), "feed_forward"),
        matrix("feed_forward.output.dense", ("F", F), ("D", D), "feed_forward"),
    )
    k.skip("hidden_act")
    what = "a reversible layer"
    return Layer(
        sublayers=(
            Sublayer(block=counted(what, *parts), before=layer_norm("attention.layer_norm", D)),
            Sublayer(block=counted(what, *mlp), before=layer_norm("feed_forward.layer_norm", D)),
        ),
        kind=f"{kind} layer",
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/reformer/"
    "modeling_reformer.py",
)
