"""Kosmos-2 and 2.5: a decoder with inner norms, before which latent queries attend to an image (arXiv:2306.14824)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem
from tonnage.arch.layers import Norm
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.arch.parts import Part
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._flat_patches import flat_patches
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.families._towers import attention, feed_forward, tower
from tonnage.families.towers import seen
from tonnage.keys import Keys
from tonnage.tensors import Tensor

NAMES: Final = {"num_attention_heads": "attention_heads", "hidden_size": "embed_dim", "num_hidden_layers": "layers"}
OLD: Final[dict[str, Any]] = {
    "vocab_size": 65037,
    "max_position_embeddings": 2048,
    "embed_dim": 2048,
    "layers": 24,
    "ffn_dim": 8192,
    "attention_heads": 32,
}
NEW: Final[dict[str, Any]] = {
    "vocab_size": 108481,
    "max_position_embeddings": 4096,
    "embed_dim": 1536,
    "layers": 24,
    "ffn_dim": 6144,
    "attention_heads": 16,
}
PATCHES: Final[dict[str, Any]] = {
    "hidden_size": 1536,
    "patch_embed_hidden_size": 768,
    "intermediate_size": 3968,
    "head_dim": 64,
    "num_hidden_layers": 18,
    "num_attention_heads": 24,
    "max_num_patches": 4096,
}
TEXT: Final = "text_model.model"


def read(k: Keys) -> Model:
    """Build ``Kosmos2ForConditionalGeneration`` or ``Kosmos2_5ForConditionalGeneration``."""
    old = k.config["model_type"] == "kosmos-2"
    # The head is tied where the language model's config says so; in Kosmos-2 the outer config does as well.
    outer = k.want("tie_word_embeddings", True) and old
    model = read_inner(
        k,
        "text_config",
        OLD if old else NEW,
        lambda inner: _text(inner, outer, old),
        aliases=NAMES,
        less=("model_type",),
    )
    if old:
        width, tensors = seen(k, "vision_model.model", "kosmos_2_vision_model", fixed=True)
    else:
        width, tensors = read_inner(k, "vision_config", PATCHES, _patches, less=("model_type",))
    queries, D = k.size("latent_query_num", 64 if old else 2048), model.width
    projection = tower(
        "vision",
        "image_to_text_projection",
        Tensor("latent_query", (("P", queries), ("D", D)), "vision"),
        matrix("dense", ("X", width), ("D", D), "vision"),
        *attention("x_attn", D),
    )
    segments = () if old else (Tensor(f"{TEXT}.segment_emb.weight", (("P", 2), ("D", D)), "position"),)
    return model.but(model_type=str(k.config["model_type"]), extra=segments + tensors + projection)


def _text(k: Keys, tied: bool, old: bool) -> Model:
    D, F, V, N = k.need("hidden_size"), k.need("ffn_dim"), k.need("vocab_size"), k.need("num_attention_heads")
    P, what = k.need("max_position_embeddings"), "a model that reads images"
    k.refuse("add_cross_attention")
    k.refuse("layerdrop", 0.0)
    k.skip("scale_embedding", "dropout", "attention_dropout", "activation_dropout", "activation_function")
    tied = k.want("tie_word_embeddings", True) or tied
    token = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=N,
        H=k.divides("hidden_size", "num_attention_heads", D, N),
        o="out_proj",
        bias=True,
        o_bias=True,
        rotary=None,
    )
    within: tuple[Part, ...] = (layer_norm("self_attn.inner_attn_ln", D),) if old else ()
    channel = counted(what, *feed_forward("ffn", D, F), layer_norm("ffn.ffn_layernorm", F))
    layer = Layer(
        sublayers=(
            Sublayer(block=counted(what, token, *within), before=layer_norm("self_attn_layer_norm", D)),
            Sublayer(block=channel, before=layer_norm("final_layer_norm", D)),
        )
    )
    return Model(
        model_type="",
        stacks=(
            Stack(
                name="decoder",
                path=f"{TEXT}.layers",
                stem=Stem(name=f"{TEXT}.embed_tokens", V=V, D=D, buffers=_fixed(P, D)),
                layers=(layer,) * k.need("num_hidden_layers"),
                norm=Norm(f"{TEXT}.layer_norm", (("D", D),), "layer", bias=True),
            ),
        ),
        head=Head(name="text_model.lm_head", D=D, V=V, alias_of=f"{TEXT}.embed_tokens.weight" if tied else None),
        positions=P,
    )


def _fixed(P: int, D: int) -> tuple[Tensor, ...]:
    """Sinusoidal positions, with two rows more than are counted."""
    return (Tensor(f"{TEXT}.embed_positions.weights", (("P", P + 2), ("D", D)), "buffer"),)


def _patches(k: Keys) -> tuple[int, tuple[Tensor, ...]]:
    """Kosmos-2.5's tower, which is Pix2Struct's."""
    return flat_patches(k, "vision_model", k.need("intermediate_size"), k.need("head_dim"), k.need("max_num_patches"))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/kosmos2/"
    "modeling_kosmos2.py",
)
