"""LiLT: RoBERTa beside narrower layers for where on its page a token stands (arXiv:2202.13669)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Layer, Model
from tonnage.arch.parts import Part
from tonnage.families import Family
from tonnage.families._encoder import attention, classifier, encoder, only_encoder, places, pooler, stem, unrun
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

BASE: Final = "lilt"


def read(k: Keys) -> Model:
    """Build the model that ``LiltModel`` builds."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 512)
    only_encoder(k)
    k.skip("position_embedding_type")
    ratio = k.size("channel_shrink_ratio", 4)
    return encoder(
        k,
        BASE,
        stem(k, BASE, D, P=P, type_ids=False),
        (_layer(k, D, N, ratio),) * k.need("num_hidden_layers"),
        None,
        positions=places(k, P, padding=0),
        pooler=pooler(BASE, D),
        classifier=classifier(D),
        extra=_layout(k, D, P, ratio),
    )


def _layer(k: Keys, D: int, N: int, ratio: int) -> Layer:
    """BERT's layer beside one whose widths are ``ratio`` times smaller."""
    F, width, narrow = k.need("intermediate_size"), ("D", D // ratio), ("D", D // N * N // ratio)
    inner = ("F", F // ratio)
    beside: tuple[Part, ...] = (
        *(matrix(f"attention.self.layout_{name}", width, narrow, "attention") for name in ("query", "key", "value")),
        matrix("attention.layout_output.dense", width, width, "attention"),
        layer_norm("attention.layout_output.LayerNorm", width[1]),
        matrix("layout_intermediate.dense", width, inner, "feed_forward"),
        matrix("layout_output.dense", inner, width, "feed_forward"),
        layer_norm("layout_output.LayerNorm", width[1]),
    )
    return unrun(k, D, "a model of pages", attention(k, D, N), *beside)


def _layout(k: Keys, D: int, P: int, ratio: int) -> tuple[Tensor, ...]:
    """Tables of a box's sides and sizes, which are joined and brought to the narrow width."""
    rows, width = k.size("max_2d_position_embeddings", 1024), ("D", D // ratio)
    sides = (Tensor(f"{s}_position_embeddings.weight", (("P", rows), ("D", D // 6)), "position") for s in "xyhw")
    return tower(
        "position",
        f"{BASE}.layout_embeddings",
        *sides,
        Tensor("box_position_embeddings.weight", (("P", P), width), "position"),
        matrix("box_linear_embeddings", ("D", D), width, "position"),
        layer_norm("LayerNorm", width[1]),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/lilt/modeling_lilt.py",
)
