"""Pix2Struct: T5's gated decoder over flat patches of a page (arXiv:2210.03347)."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from tonnage.arch.ends import Head, Stem
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.arch.parts import KeyValues, Part
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._flat_patches import flat_patches
from tonnage.families._pieces import counted
from tonnage.keys import Keys
from tonnage.tensors import Tensor

NAMES: Final = {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}
TEXT: Final[dict[str, Any]] = {
    "vocab_size": 50244,
    "hidden_size": 768,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 12,
    "num_heads": 12,
}
VISION: Final[dict[str, Any]] = {
    "hidden_size": 768,
    "patch_embed_hidden_size": 768,
    "d_ff": 2048,
    "d_kv": 64,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "seq_len": 4096,
}
WHAT: Final = "a model that reads images"


def read(k: Keys) -> Model:
    """Build ``Pix2StructForConditionalGeneration``; its outer config alone ties the head."""
    tied = k.want("tie_word_embeddings", False)
    less = ("model_type", "tie_word_embeddings")
    model = read_inner(k, "text_config", TEXT, lambda inner: _text(inner, tied), aliases=NAMES, less=less)
    _, tensors = read_inner(k, "vision_config", VISION, _vision, less=("model_type",))
    k.skip("is_vqa", "is_encoder_decoder")
    return model.but(extra=tensors)


def _vision(k: Keys) -> tuple[int, tuple[Tensor, ...]]:
    k.skip("relative_attention_num_buckets", "relative_attention_max_distance", "layer_norm_bias", "use_cache")
    return flat_patches(k, "encoder", k.need("d_ff"), k.need("d_kv"), k.need("seq_len"))


def _text(k: Keys, tied: bool) -> Model:
    D, F, V, H = k.need("hidden_size"), k.need("d_ff"), k.need("vocab_size"), k.need("d_kv")
    N, buckets = k.need("num_attention_heads"), k.size("relative_attention_num_buckets", 32)
    k.skip("relative_attention_max_distance", "dropout_rate", "add_cross_attention")
    mlp = Gated(
        name="mlp.DenseReluDense", D=D, F=F, act=k.want("dense_act_fn", "gelu_new"), gate="wi_0", up="wi_1", down="wo"
    )
    # The matrices are square whatever the width of a head.
    width, heads = (("D", D),), (("N", N), ("H", k.divides("hidden_size", "num_attention_heads", D, N)))

    def attention(name: str, *beside: Part | Tensor, cross: bool = False) -> Sublayer:
        path = f"{name}.attention"
        parts = (
            *(Linear(f"{path}.{part}", width, heads, "attention") for part in ("query", "key", "value")),
            Linear(f"{path}.output", heads, width, "attention"),
            KeyValues(K=N, H=H, cross=cross),
            *beside,
        )
        return Sublayer(block=counted(WHAT, *parts), before=Norm(f"{name}.layer_norm", width, "rms-t5"))

    @cache
    def layer(first: bool) -> Layer:
        table = Tensor(
            "self_attention.attention.relative_attention_bias.weight", (("X", buckets), ("N", N)), "position"
        )
        return Layer(
            sublayers=(
                attention("self_attention", *((table,) if first else ())),
                attention("encoder_decoder_attention", cross=True),
                Sublayer(block=mlp, before=Norm("mlp.layer_norm", width, "rms-t5")),
            )
        )

    return Model(
        model_type="pix2struct",
        stacks=(
            Stack(
                name="decoder",
                path="decoder.layer",
                stem=Stem(name="decoder.embed_tokens", V=V, D=D),
                layers=tuple(layer(i == 0) for i in range(k.need("num_hidden_layers"))),
                norm=Norm("decoder.final_layer_norm", width, "rms-t5"),
            ),
        ),
        head=Head(name="decoder.lm_head", D=D, V=V, alias_of="decoder.embed_tokens.weight" if tied else None),
        positions=None,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/pix2struct/"
    "modeling_pix2struct.py",
)
