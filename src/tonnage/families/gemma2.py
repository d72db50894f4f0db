"""Gemma 2 and VaultGemma: four norms a layer, or two, a window on every other layer, capped scores and logits."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._decoder import causal, embed_scale, heads, window_of, windows
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Gemma2ForCausalLM`` builds, or ``VaultGemmaForCausalLM``, which has no norms behind."""
    sandwich = k.config.get("model_type") != "vaultgemma"
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 4)
    H = k.want("head_dim", 256)
    bias, dropout = k.want("attention_bias", False), k.want("attention_dropout", 0.0)
    softcap = k.optional("attn_logit_softcapping", float, 50.0) is not None
    k.refuse("use_bidirectional_attention")
    k.skip("hidden_act", "query_pre_attn_scalar", "cache_implementation", "sliding_window_size")
    mlp = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=k.want("hidden_activation", "gelu_pytorch_tanh"))
    norm = (("D", D),)
    window = window_of(k, 4096)
    seen = windows(k, L, window, lambda i: i % 2 == 0)

    @cache
    def layer(window: int | None) -> Layer:
        attention = GroupedQuery(
            name="self_attn",
            D=D,
            N=N,
            K=K,
            H=H,
            bias=bias,
            o_bias=bias,
            window=window,
            softcap=softcap,
            dropout=dropout,
        )
        return Layer(
            sublayers=(
                Sublayer(
                    block=attention,
                    before=Norm("input_layernorm", norm, "rms-gemma"),
                    after=Norm("post_attention_layernorm", norm, "rms-gemma") if sandwich else None,
                ),
                Sublayer(
                    block=mlp,
                    before=Norm("pre_feedforward_layernorm", norm, "rms-gemma"),
                    after=Norm("post_feedforward_layernorm", norm, "rms-gemma") if sandwich else None,
                ),
            ),
            kind="full layer" if window is None else "sliding layer",
        )

    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=tuple(map(layer, seen)),
        norm=Norm("model.norm", norm, "rms-gemma"),
        rotary=(Rotary("model.rotary_emb", H),),
        tied=k.want("tie_word_embeddings", True),
        positions=k.want("max_position_embeddings", 8192),
        scaled=True,
        eager_only=True,
        capped=k.optional("final_logit_softcapping", float, 30.0) is not None,
        buffers=(embed_scale("model"),),
        masks=(None, window) if window is not None else (),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gemma2/modeling_gemma2.py",
)
