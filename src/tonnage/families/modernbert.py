"""ModernBERT and its decoder: rotary positions, gated feed-forward blocks, two sliding layers to a full one."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Rotary
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.families import Family
from tonnage.families._decoder import every, windows
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.keys import Keys

FULL: Final = "full_attention"
SLIDING: Final = "sliding_attention"


def read(k: Keys) -> Model:
    """Build the model that ``ModernBertForMaskedLM`` or ``ModernBertDecoderForCausalLM`` builds."""
    decodes = k.config["model_type"] == "modernbert-decoder"
    D, N, L, V = (k.need(key) for key in ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size"))
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    norms, biased = k.want("norm_bias", False), k.want("attention_bias", False)
    dropout = k.want("attention_dropout", 0.0)
    k.skip("initializer_cutoff_factor", "classifier_pooling", "deterministic_flash_attn", "reference_compile")
    k.skip("sparse_prediction", "sparse_pred_ignore_index", "repad_logits_with_grad", "global_rope_theta")
    k.skip("local_rope_theta", "position_embedding_type")
    local = k.optional("local_attention", int, 128)
    window = k.optional("sliding_window", int) or (local or 0) // 2 or None
    pattern = every(k, "global_attn_every_n_layers", 3)
    seen = windows(k, L, window, lambda i: i % pattern != 0)
    mlp = Gated(
        name="mlp",
        D=D,
        F=k.need("intermediate_size"),
        act=k.want("hidden_activation", "gelu"),
        fused="Wi",
        down="Wo",
        bias=k.want("mlp_bias", False),
        dropout=k.want("mlp_dropout", 0.0),
    )

    @cache
    def layer(tokens: int | None, first: bool) -> Layer:
        attention = GroupedQuery(
            name="attn",
            D=D,
            N=N,
            K=N,
            H=H,
            fused=None if decodes else "Wqkv",
            o="Wo",
            bias=biased,
            o_bias=biased,
            causal=decodes,
            window=tokens,
            rotary=FULL if tokens is None else SLIDING,
            dropout=dropout,
            o_dropout=dropout,
        )
        return Layer(
            sublayers=(
                Sublayer(
                    block=counted("ModernBERT", attention),
                    before=None if first else layer_norm("attn_norm", D, bias=norms),
                ),
                Sublayer(block=mlp, before=layer_norm("mlp_norm", D, bias=norms)),
            ),
            kind="full layer" if tokens is None else "sliding layer",
        )

    kinds = sorted({FULL if tokens is None else SLIDING for tokens in seen})
    before = "lm_head" if decodes else "head"
    classifies = k.want("classifier_bias", False)
    dense = matrix(f"{before}.dense", ("D", D), ("D", D), "head", bias=classifies)
    act, behind = k.want("classifier_activation", "gelu"), layer_norm(f"{before}.norm", D, bias=norms)
    bias, tied = k.want("decoder_bias", True), k.want("tie_word_embeddings", True)
    table = "model.embeddings.tok_embeddings"
    return Model(
        model_type=str(k.config["model_type"]),
        stacks=(
            Stack(
                name="decoder" if decodes else "encoder",
                path="model.layers",
                stem=Stem(
                    name=table,
                    V=V,
                    D=D,
                    norm=layer_norm("model.embeddings.norm", D, bias=norms),
                    dropout=k.want("embedding_dropout", 0.0),
                    rotary=tuple(
                        Rotary("model.rotary_emb", H, kind, buffers=(f"{kind}_inv_freq", f"{kind}_original_inv_freq"))
                        for kind in kinds
                    ),
                ),
                layers=tuple(layer(tokens, not index) for index, tokens in enumerate(seen)),
                norm=layer_norm("model.final_norm", D, bias=norms),
            ),
        ),
        head=Head(
            name="decoder",
            D=D,
            V=V,
            bias=bias,
            alias_of=f"{table}.weight" if tied else None,
            dense=dense,
            act=act,
            norm=behind,
        ),
        positions=k.want("max_position_embeddings", 8192),
        causal=decodes,
        classifier=Head(
            name="classifier",
            D=D,
            V=1,
            bias=classifies if decodes else True,
            act=act,
            dense=dense.but(name="head.dense"),
            norm=behind.but(name="head.norm"),
        ),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/modernbert/"
    "modeling_modernbert.py",
)
