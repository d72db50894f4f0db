"""Phi-3 and Phi-4: Llama's structure with one matrix for queries, keys and values and one for gate and up."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._decoder import causal, heads, rotary_width, window_of
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Phi3ForCausalLM`` builds.

    It reads ``embd_pdrop`` and never applies it.
    """
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k)
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    turned = rotary_width(k, H)
    window = window_of(k)
    k.refuse("layer_types")
    for key in ("attention_bias", "mlp_bias", "lm_head_bias"):
        k.refuse(key)
    k.refuse("full_attn_mod", 1)
    k.skip("embd_pdrop", "original_max_position_embeddings", "interpolate_factor")
    attention = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        fused="qkv_proj",
        fused_order="sliced",
        rotary_width=turned,
        rotary_style="joined",
        window=window,
        dropout=k.want("attention_dropout", 0.0),
    )
    mlp = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=k.want("hidden_act", "silu"), fused="gate_up_proj")
    norm, dropout = (("D", D),), k.want("resid_pdrop", 0.0)
    layer = Layer(
        sublayers=(
            Sublayer(block=attention, before=Norm("input_layernorm", norm), dropout=dropout),
            Sublayer(block=mlp, before=Norm("post_attention_layernorm", norm), dropout=dropout),
        )
    )
    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=(layer,) * L,
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", turned),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 4096),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/phi3/modeling_phi3.py",
)
