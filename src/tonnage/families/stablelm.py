"""StableLM: layer norms, gated feed-forward, a quarter of every head turned; the 12B has branches beside each other."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import HeadNorms, Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._decoder import causal, rotary_width
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``StableLmForCausalLM`` builds."""
    D, N, L = k.need("hidden_size"), k.need("num_attention_heads"), k.need("num_hidden_layers")
    H = k.divides("hidden_size", "num_attention_heads", D, N)
    K = k.size("num_key_value_heads", 32)
    k.divides("num_attention_heads", "num_key_value_heads", N, K)
    turned = rotary_width(k, H, 0.25)
    k.skip("rope_pct")
    normed = k.want("qk_layernorm", False)
    parallel = k.want("use_parallel_residual", False)
    dropout = k.want("hidden_dropout", 0.0)
    first = Norm("input_layernorm", (("D", D),), "layer", bias=True)
    second = Norm("post_attention_layernorm", (("D", D),), "layer", bias=True)
    attention = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        bias=k.want("use_qkv_bias", False),
        q_norm=HeadNorms("self_attn.q_layernorm", N, H) if normed else None,
        k_norm=HeadNorms("self_attn.k_layernorm", K, H) if normed else None,
        rotary_width=turned,
        rotary_style="cut",
        dropout=k.want("attention_dropout", 0.0),
    )
    mlp = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=k.want("hidden_act", "silu"))
    if parallel:
        layer = Layer(
            sublayers=(Sublayer(block=attention), Sublayer(block=mlp, dropout=dropout)),
            norm=first,
            parallel=True,
            residual_first=True,
        )
    else:
        layer = Layer(
            sublayers=(
                Sublayer(block=attention, before=first, holds=True, holds_input=True),
                Sublayer(block=mlp, before=second, dropout=dropout),
            )
        )
    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=(layer,) * L,
        norm=Norm("model.norm", (("D", D),), "layer", bias=True),
        rotary=(Rotary("model.rotary_emb", turned),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.size("max_position_embeddings", 4096),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/stablelm/"
    "modeling_stablelm.py",
)
