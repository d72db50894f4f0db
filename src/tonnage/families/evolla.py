"""Evolla: Llama with gated layers within that attend to a protein, read by an encoder of its own (ESM-2's)."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model
from tonnage.arch.parts import Part
from tonnage.arch.untraced import Untraced
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before
from tonnage.families._composite import read_inner
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.families._towers import repeated, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

PROTEIN: Final[dict[str, Any]] = {
    "vocab_size": 446,
    "hidden_size": 1280,
    "num_hidden_layers": 33,
    "num_attention_heads": 20,
    "intermediate_size": 5120,
}
ENCODER: Final = "model.protein_encoder"


def read(k: Keys) -> Model:
    """Build ``EvollaForProteinText2Text``."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token = attention(k, D, K=8)
    mlp = gated(k, D, bias=k.want("mlp_bias", False))
    step = max(L // k.size("aligner_num_add_layers", 8), 1)
    k.skip("aligner_attention_probs_dropout_prob", "add_cross_attention")
    own, beside = Untraced(block=token, what="a model that reads proteins"), counted("Evolla", mlp, *_aligner(k, D))

    @cache
    def layer(aligned: bool) -> Layer:
        return normed_before(own, beside if aligned else mlp, D, kind="layer over the protein" if aligned else "layer")

    model = decoder(k, D, tuple(layer((i + 1) % step == 0) for i in range(L)), width=token.H, positions=8192)
    width, tensors = read_inner(k, "protein_encoder_config", PROTEIN, _protein, less=("model_type",))
    return model.but(extra=tensors + _resampler(k, width, D))


def _aligner(k: Keys, D: int) -> tuple[Part | Tensor, ...]:
    """Attention to the protein and a block behind it, each with a gate."""
    width, inner = ("D", D), ("F", D * k.size("aligner_ffn_mult", 4))
    path = "adapter"
    return (
        *(Tensor(f"{path}.gate_{name}", (("X", 1),), "attention") for name in ("attention", "ffw")),
        *(matrix(f"{path}.{name}", width, width, "attention") for name in ("query", "key_protein", "value_protein")),
        Norm(f"{path}.attention_norm", (width,)),
        matrix(f"{path}.out_proj", width, width, "attention", bias=k.want("aligner_enable_bias", True)),
        layer_norm(f"{path}.ff.norm", D),
        matrix(f"{path}.ff.fc1", width, inner, "feed_forward", bias=False),
        matrix(f"{path}.ff.fc2", inner, width, "feed_forward", bias=False),
    )


def _protein(k: Keys) -> tuple[int, tuple[Tensor, ...]]:
    """ESM-2's layers over amino acids and their structure."""
    D, F, V, N = k.need("hidden_size"), k.need("intermediate_size"), k.need("vocab_size"), k.need("num_attention_heads")
    H, width = k.divides("hidden_size", "num_attention_heads", D, N), ("D", D)
    k.refuse("position_embedding_type", "rotary")
    k.refuse("add_cross_attention")
    k.refuse("emb_layer_norm_before")
    k.skip("hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "token_dropout")
    layer: tuple[Part, ...] = (
        *(matrix(f"attention.self.{name}", width, width, "embedding") for name in ("query", "key", "value")),
        matrix("attention.output.dense", width, width, "embedding"),
        layer_norm("attention.LayerNorm", D),
        matrix("intermediate.dense", width, ("F", F), "embedding"),
        matrix("output.dense", ("F", F), width, "embedding"),
        layer_norm("LayerNorm", D),
    )
    path = f"{ENCODER}.model"
    first = tower(
        "embedding",
        path,
        Tensor("embeddings.word_embeddings.weight", (("V", V), width), "embedding"),
        layer_norm("encoder.emb_layer_norm_after", D),
        Rotary("rotary_embeddings", H, buffers=("inv_freq",)),
    )
    return D, first + repeated("embedding", f"{path}.encoder.layer", k.need("num_hidden_layers"), *layer)


def _resampler(k: Keys, ins: int, D: int) -> tuple[Tensor, ...]:
    """Latents that attend to the protein, and a matrix to the language model's width."""
    heads, width = ("X", k.size("resampler_heads", 8) * k.size("resampler_dim_head", 64)), ("D", ins)
    inner, path = ("F", ins * k.size("resampler_ff_mult", 4)), f"{ENCODER}.sequence_compressor_resampler"
    first = tower(
        "embedding",
        path,
        Tensor("latents", (("P", k.size("resampler_num_latents", 64)), width), "embedding"),
        layer_norm("norm", D),
        matrix("protein_projector", width, ("D", D), "embedding"),
    )
    layer: tuple[Part, ...] = (
        layer_norm("0.norm_media", ins),
        layer_norm("0.norm_latents", ins),
        matrix("0.to_q", width, heads, "embedding", bias=False),
        matrix("0.to_kv", width, ("X", 2 * heads[1]), "embedding", bias=False),
        matrix("0.to_out", heads, width, "embedding", bias=False),
        layer_norm("1.norm", ins),
        matrix("1.fc1", width, inner, "embedding", bias=False),
        matrix("1.fc2", inner, width, "embedding", bias=False),
    )
    return first + repeated("embedding", f"{path}.layers", k.size("resampler_depth", 6), *layer)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/evolla/modeling_evolla.py",
)
