"""ConvBERT: BERT whose attention has half its heads replaced by convolutions that tokens choose (arXiv:2008.02496)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head
from tonnage.arch.model import Model
from tonnage.arch.parts import Part, Parts
from tonnage.families import Family
from tonnage.families._encoder import classifier, encoder, only_encoder, stem, unrun
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``ConvBertForMaskedLM`` builds."""
    D, P = k.need("hidden_size"), k.size("max_position_embeddings", 512)
    E, V = k.size("embedding_size", 768), k.need("vocab_size")
    only_encoder(k)
    k.skip("attention_probs_dropout_prob")
    tied, path = k.want("tie_word_embeddings", True), "generator_predictions"
    layer = unrun(k, D, "ConvBERT's attention", *_attention(k, D), mlp=_feed_forward(k, D))
    return encoder(
        k,
        "convbert",
        stem(k, "convbert", D, P=P, width=E, widen=None if E == D else "convbert.embeddings_project"),
        (layer,) * k.need("num_hidden_layers"),
        Head(
            name="generator_lm_head",
            D=E,
            V=V,
            bias=True,
            alias_of="convbert.embeddings.word_embeddings.weight" if tied else None,
            dense=matrix(f"{path}.dense", ("D", D), ("D", E), "head"),
            norm=layer_norm(f"{path}.LayerNorm", E),
        ),
        positions=P,
        classifier=classifier(D, act=k.want("hidden_act", "gelu")),
    )


def _attention(k: Keys, D: int) -> tuple[Part | Tensor, ...]:
    """Attention over half of the width, and the convolution over the other half."""
    N = max(k.need("num_attention_heads") // k.size("head_ratio", 2), 1)
    H, C = k.divides("hidden_size", "num_attention_heads", D, N) // 2, k.size("conv_kernel_size", 9)
    path, heads = "attention.self", ("N", N * H)
    halves = tuple(
        matrix(f"{path}.{name}", ("D", D), heads, "attention") for name in ("query", "key", "value", "conv_out_layer")
    )
    return (
        *halves,
        Tensor(f"{path}.key_conv_attn_layer.depthwise.weight", (("D", D), ("X", 1), ("C", C)), "attention"),
        Tensor(f"{path}.key_conv_attn_layer.pointwise.weight", (heads, ("D", D), ("C", 1)), "attention"),
        Tensor(f"{path}.key_conv_attn_layer.bias", (heads, ("X", 1)), "attention"),
        matrix(f"{path}.conv_kernel_layer", heads, ("N", N * C), "attention"),
        matrix("attention.output.dense", ("D", D), ("D", D), "attention"),
    )


def _feed_forward(k: Keys, D: int) -> Parts:
    """Two matrices, which may be cut into groups of channels."""
    F, G = k.need("intermediate_size"), k.size("num_groups", 1)
    parts: list[Part | Tensor] = []
    for name, ins, outs in (("intermediate.dense", ("D", D), ("F", F)), ("output.dense", ("F", F), ("D", D))):
        if G == 1:
            parts.append(matrix(name, ins, outs, "feed_forward"))
            continue
        columns, rows = ((letter, k.divides("a width", "num_groups", n, G)) for letter, n in (ins, outs))
        parts += [
            Tensor(f"{name}.weight", (("X", G), columns, rows), "feed_forward"),
            Tensor(f"{name}.bias", (outs,), "feed_forward"),
        ]
    return counted("ConvBERT's feed-forward block", *parts)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/convbert/modeling_convbert.py",
)
