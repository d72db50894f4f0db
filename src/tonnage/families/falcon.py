"""Falcon: packed projections without biases; one key/value head, several or one a query; branches beside each other."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem
from tonnage.arch.feedforward import Plain
from tonnage.arch.layers import Alibi, Norm, Rotary
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.arch.packed import Packing
from tonnage.families import Family
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``FalconForCausalLM`` builds."""
    D, N = k.need("hidden_size"), k.need("num_attention_heads")
    k.skip("apply_residual_connection_post_layernorm")
    V, L = k.need("vocab_size"), k.need("num_hidden_layers")
    H = k.divides("hidden_size", "num_attention_heads", D, N)
    new = bool(k.optional("new_decoder_architecture", bool, False))
    multi = bool(k.optional("multi_query", bool, True))
    alibi = bool(k.optional("alibi", bool, False))
    K, order = _heads(k, N, new, multi)
    bias = bool(k.optional("bias", bool, False))
    dropout = k.want("attention_dropout", 0.0)
    P = k.size("max_position_embeddings", 2048)
    attention = GroupedQuery(
        name="self_attention",
        D=D,
        N=N,
        K=K,
        H=H,
        fused="query_key_value",
        fused_order=order,
        o="dense",
        bias=bias,
        o_bias=bias,
        bias_apart=True,
        rotary=None if alibi else "default",
        position_bias="alibi" if alibi else None,
        # Without alibi the modelled code drops no attention weights.
        dropout=dropout if alibi else 0.0,
        eager="falcon-alibi" if alibi else "falcon",
        caches_queries=new,
    )
    mlp = Plain(
        name="mlp",
        D=D,
        F=k.optional("ffn_hidden_size") or 4 * D,
        act=k.want("activation", "gelu"),
        up="dense_h_to_4h",
        down="dense_4h_to_h",
        bias=bias,
        bias_apart=True,
    )
    table = "transformer.word_embeddings"
    tied = k.want("tie_word_embeddings", True)
    return Model(
        model_type="falcon",
        stacks=(
            Stack(
                name="decoder",
                path="transformer.h",
                stem=Stem(
                    name=table,
                    V=V,
                    D=D,
                    rotary=(Rotary("transformer.rotary_emb", H),),
                    alibi=Alibi(N, "falcon", P) if alibi else None,
                    masked=True,
                ),
                layers=(_layer(k, D, attention, mlp, new, dropout),) * L,
                norm=_norm("transformer.ln_f", D),
            ),
        ),
        head=Head(name="lm_head", D=D, V=V, alias_of=f"{table}.weight" if tied else None),
        positions=P,
        # ``FalconLinear``.
        subclassed=("query_key_value", "dense"),
    )


def _heads(k: Keys, N: int, new: bool, multi: bool) -> tuple[int, Packing]:
    """Key/value heads, and how they are packed with the queries."""
    stated = k.optional("num_kv_heads")
    if new:
        K = stated or N
        k.divides("num_attention_heads", "num_kv_heads", N, K)
        return K, "groups"
    return (1, "multi-query") if multi else (N, "select")


def _norm(name: str, D: int) -> Norm:
    return Norm(name, (("D", D),), "layer", bias=True)


def _layer(k: Keys, D: int, attention: GroupedQuery, mlp: Plain, new: bool, dropout: float) -> Layer:
    parallel = bool(k.optional("parallel_attn", bool, True))
    norms = k.optional("num_ln_in_parallel_attn") or (2 if new else 1)
    behind = k.want("hidden_dropout", 0.0)
    if not parallel:
        if new:
            # The modelled code builds two norms and looks for others.
            k.refuse("new_decoder_architecture")
        return Layer(
            sublayers=(
                Sublayer(
                    block=attention,
                    before=_norm("input_layernorm", D),
                    dropout=dropout,
                    holds=True,
                    holds_input=True,
                ),
                Sublayer(
                    block=mlp, before=_norm("post_attention_layernorm", D), dropout=behind, holds=True, holds_input=True
                ),
            ),
            carries=True,
        )
    two = norms == 2
    return Layer(
        sublayers=(
            Sublayer(block=attention, before=_norm("ln_attn", D) if two else None),
            Sublayer(block=mlp, before=_norm("ln_mlp", D) if two else None),
        ),
        norm=None if two else _norm("input_layernorm", D),
        norms_first=two,
        parallel=True,
        in_place=True,
        carries=True,
        dropout=behind,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/falcon/modeling_falcon.py",
    attributes={"hidden_size": "n_embed"},
)
