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
from tonnage.families._decoder import Windows, every, windows
from tonnage.families._pieces import layer_norm, matrix
from tonnage.keys import Keys

FULL: Final = "full_attention"
SLIDING: Final = "sliding_attention"
TABLE: Final = "model.embeddings.tok_embeddings"


def read(k: Keys) -> Model:
    """Build the model that ``ModernBertForMaskedLM`` or ``ModernBertDecoderForCausalLM`` builds."""
    decodes = k.config["model_type"] == "modernbert-decoder"
    D, N, V, norms = (
        k.need("hidden_size"),
        k.need("num_attention_heads"),
        k.need("vocab_size"),
        k.want("norm_bias", False),
    )
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    k.skip("initializer_cutoff_factor", "deterministic_flash_attn", "reference_compile")
    k.skip("sparse_prediction", "sparse_pred_ignore_index", "repad_logits_with_grad", "global_rope_theta")
    k.skip("local_rope_theta", "position_embedding_type")
    seen = _windows(k)
    stem = Stem(
        name=TABLE,
        V=V,
        D=D,
        norm=layer_norm("model.embeddings.norm", D, bias=norms),
        dropout=k.want("embedding_dropout", 0.0),
        position_ids="rotary" if decodes else "named",
        apart=True,
        rotary=tuple(
            Rotary(
                "model.rotary_emb",
                H,
                kind,
                buffers=(f"{kind}_inv_freq", f"{kind}_original_inv_freq"),
                batched=decodes,
            )
            for kind in sorted({FULL if tokens is None else SLIDING for tokens in seen})
        ),
    )
    stack = Stack(
        name="decoder" if decodes else "encoder",
        path="model.layers",
        stem=stem,
        layers=_layers(k, D, H, seen, decodes=decodes, norms=norms),
        norm=layer_norm("model.final_norm", D, bias=norms),
    )
    head, classifier = _heads(k, D, V, decodes=decodes, norms=norms)
    return Model(
        model_type=str(k.config["model_type"]),
        stacks=(stack,),
        head=head,
        positions=k.want("max_position_embeddings", 8192),
        causal=decodes,
        classifier=classifier,
    )


def _windows(k: Keys) -> Windows:
    local = k.optional("local_attention", int, 128)
    window = k.optional("sliding_window", int) or (local or 0) // 2 or None
    pattern = every(k, "global_attn_every_n_layers", 3)
    return windows(k, k.need("num_hidden_layers"), window, lambda i: i % pattern != 0)


def _layers(k: Keys, D: int, H: int, seen: Windows, *, decodes: bool, norms: bool) -> tuple[Layer, ...]:
    """Norms before the blocks, but for the first, whose input the stem has normed."""
    N, biased, dropout = (
        k.need("num_attention_heads"),
        k.want("attention_bias", False),
        k.want("attention_dropout", 0.0),
    )
    mlp = Gated(
        name="mlp",
        D=D,
        F=k.need("intermediate_size"),
        act=k.want("hidden_activation", "gelu"),
        fused="Wi",
        down="Wo",
        bias=k.want("mlp_bias", False),
        inner_dropout=k.want("mlp_dropout", 0.0),
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
            rotary_style="apart",
            dropout=dropout,
            o_dropout=dropout,
        )
        before = None if first else layer_norm("attn_norm", D, bias=norms)
        return Layer(
            sublayers=(
                Sublayer(block=attention, before=before, holds=True),
                Sublayer(block=mlp, before=layer_norm("mlp_norm", D, bias=norms), holds_input=decodes),
            ),
            kind="full layer" if tokens is None else "sliding layer",
        )

    return tuple(layer(tokens, not index) for index, tokens in enumerate(seen))


def _heads(k: Keys, D: int, V: int, *, decodes: bool, norms: bool) -> tuple[Head, Head]:
    """That over the vocabulary and the classifier's, behind a matrix and a norm."""
    path, biased = "lm_head" if decodes else "head", k.want("classifier_bias", False)
    dense = matrix(f"{path}.dense", ("D", D), ("D", D), "head", bias=biased)
    act, norm = k.want("classifier_activation", "gelu"), layer_norm(f"{path}.norm", D, bias=norms)
    head = Head(
        name="decoder",
        D=D,
        V=V,
        bias=k.want("decoder_bias", True),
        alias_of=f"{TABLE}.weight" if k.want("tie_word_embeddings", True) else None,
        dense=dense,
        act=act,
        norm=norm,
        raised=True,
    )
    return head, Head(
        name="classifier",
        D=D,
        V=1,
        bias=biased if decodes else True,
        act=act,
        dense=dense.but(name="head.dense"),
        norm=norm.but(name="head.norm"),
        # A mean over tokens is not modelled, nor is the decoder's choice.
        pooled="first" if k.want("classifier_pooling", "cls") == "cls" and not decodes else "",
        drops=k.optional("classifier_dropout", float) or 0.0,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/modernbert/"
    "modeling_modernbert.py",
)
