"""Reformer: attention within chunks, in order or by hash, in reversible layers; axial positions (arXiv:2001.04451)."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Final

from tonnage.arch.ends import Head
from tonnage.arch.model import Model, Stack, Sublayer
from tonnage.arch.reversible import InChunks, Reversible
from tonnage.arch.sparse.adjacent import Adjacent, Local, Neighbourhood
from tonnage.arch.sparse.axial import Gridded
from tonnage.arch.sparse.hashed import Hashed
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._hybrid import whole_numbers
from tonnage.families._pieces import layer_norm, matrix
from tonnage.keys import Keys
from tonnage.tensors import Tensor

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
    kinds, decodes, drops = _kinds(k), k.want("is_decoder", False), k.want("hidden_dropout_prob", 0.05)
    k.skip("num_hidden_layers", "hash_seed", "axial_norm_std", *OLD)
    # Either kind's settings stand in every config.
    k.skip("num_buckets", "num_hashes")
    for kind in ("local", "lsh"):
        k.skip(*(f"{kind}_{key}" for key in ("num_chunks_before", "num_chunks_after", "attention_probs_dropout_prob")))
        k.skip(f"{kind}_attn_chunk_length")
    # The class ties nothing, whatever is asked.
    k.skip("tie_word_embeddings")

    @cache
    def layer(kind: str) -> Reversible:
        return _layer(k, D, P, kind, decodes, drops)

    table = f"{BASE}.embeddings"
    stem = _stem(k, f"{table}.word_embeddings", f"{table}.position_embeddings", V, D, P, drops)
    stack = Stack(
        name="decoder" if decodes else "encoder",
        path=f"{BASE}.encoder.layers",
        stem=stem,
        layers=tuple(map(layer, kinds)),
        norm=layer_norm(f"{BASE}.encoder.layer_norm", 2 * D),
        dropout=drops,
    )
    bias = Tensor("lm_head.bias", (("V", V),), "head")
    dense = matrix("classifier.dense", ("X", 2 * D), ("D", D), "head")
    gone = k.optional("classifier_dropout", float)
    gone = drops if gone is None else gone
    return Model(
        model_type=BASE,
        stacks=(stack,),
        head=Head(name="lm_head.decoder", D=2 * D, V=V, extra=(bias,), chunk=k.want("chunk_size_lm_head", 0)),
        positions=P,
        table=True,
        eager_only=True,
        causal=decodes,
        classifier=Head(
            name="classifier.out_proj", D=D, V=1, bias=True, dense=dense, act="tanh", pooled="first", drops_first=gone,
            drops=gone,
        ),
    )  # fmt: skip


def _kinds(k: Keys) -> list[str]:
    """The kind of attention of every layer."""
    kinds = k.optional("attn_layers", list, ["local", "lsh"] * 3) or []
    if not kinds or not set(map(str, kinds)) <= {"local", "lsh"}:
        raise ConfigError("attn_layers is a list of local and lsh", key="attn_layers", value=kinds, file=k.file)
    return kinds


def _stem(k: Keys, words: str, path: str, V: int, D: int, P: int, drops: float) -> Gridded:
    """Words, and positions of one table, or of one for each axis of a grid."""
    if not k.want("axial_pos_embds", True):
        k.skip("axial_pos_shape", "axial_pos_embds_dim")
        return Gridded(name=words, V=V, D=D, dropout=drops, path=path, rows_of=P)
    shape = whole_numbers(k, "axial_pos_shape") or [64, 64]
    widths = whole_numbers(k, "axial_pos_embds_dim") or [64, 192]
    if len(shape) != len(widths) or sum(widths) != D or math.prod(shape) < 1:
        raise ConfigError(
            f"axial_pos_embds_dim = {widths} are not {len(shape)} widths that sum to hidden_size = {D}",
            key="axial_pos_embds_dim",
            value=widths,
            file=k.file,
        )
    return Gridded(name=words, V=V, D=D, dropout=drops, path=path, shape=tuple(shape), widths=tuple(widths))


def _layer(k: Keys, D: int, P: int, kind: str, decodes: bool, drops: float) -> Reversible:
    """Attention whose queries, by hash, are the keys, and a feed-forward block."""
    near = Neighbourhood(
        chunk=k.size(f"{kind}_attn_chunk_length", 64),
        before=k.want(f"{kind}_num_chunks_before", 1),
        after=k.want(f"{kind}_num_chunks_after", 0),
    )
    said: dict[str, Any] = {
        "name": "attention", "D": D, "N": k.size("num_attention_heads", 12), "H": k.size("attention_head_size", 64),
        "near": near, "drops": drops, "causal": decodes,
        "dropout": k.want(f"{kind}_attention_probs_dropout_prob", 0.05 if kind == "local" else 0.0),
    }  # fmt: skip
    if kind == "lsh":
        block: Adjacent = Hashed(**said, hashes=k.size("num_hashes", 1), buckets=_buckets(k), positions=P)
    else:
        block = Local(**said)
    mlp = InChunks(
        name="feed_forward",
        D=D,
        F=k.size("feed_forward_size", 512),
        act=k.want("hidden_act", "relu"),
        norm=layer_norm("feed_forward.layer_norm", D),
        dropout=drops,
        chunk=k.want("chunk_size_feed_forward", 0),
    )
    return Reversible(
        sublayers=(Sublayer(block=block, before=layer_norm("attention.layer_norm", D)), Sublayer(block=mlp)),
        kind=f"{kind} layer",
    )


def _buckets(k: Keys) -> tuple[int, ...]:
    """Buckets of a round of hashing, as factors; none where the model's code works them out."""
    said = k.optional("num_buckets", object)
    found = tuple(said) if isinstance(said, list) else () if said is None else (said,)
    if not all(isinstance(n, int) and n > 0 and n % 2 == 0 for n in found):
        raise ConfigError("num_buckets are even numbers", key="num_buckets", value=said, file=k.file)
    return found


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/reformer/"
    "modeling_reformer.py",
)
