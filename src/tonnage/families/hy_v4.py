"""Hunyuan 4: sparse latent attention with sinks and a gate, scored experts, several residual streams."""

from __future__ import annotations

from typing import Final

from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.model import Model
from tonnage.arch.parts import Loose, Parts
from tonnage.arch.untraced import Untraced
from tonnage.families import Family
from tonnage.families._decoder import causal, latent
from tonnage.families._experts import routed, scored, stacked, words
from tonnage.families._indexed import indexer, owners
from tonnage.families._streams import streams, streams_joined
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``HYV4ForCausalLM`` builds."""
    D, L, V = k.need("hidden_size"), k.need("num_hidden_layers"), k.need("vocab_size")
    act, norm = k.want("hidden_act", "silu"), (("D", D),)
    k.skip("num_key_value_heads")
    N = k.need("num_attention_heads")
    plain = latent(k, D, style="plain", nope=192, VH=256)
    chooses = indexer(k, D, plain.q_rank, 16)
    words(k, "layer_types", L, ("indexed_attention",))
    k.skip("hc_magnitude", "hc_eps", "learnable_sink_init", "swiglu_limit", "num_nextn_predict_layers")
    M = k.size("hc_mult", 4)
    gate = Linear("self_attn.gate_proj", (("D", D),), (("N", N), ("H", plain.VH)), "attention")
    beside = Loose((*gate.weights(), Tensor("self_attn.sinks", (("N", N),), "attention")))
    attn = streams("attn_hc", D, M, 2 * M, 2, "attention")
    ffn = streams("ffn_hc", D, M, 2 * M, 2, "feed_forward")
    whole = Parts(what="sparse attention of several streams", parts=(plain, chooses, beside, attn))
    sharing = Parts(what="sparse attention of several streams", parts=(plain, beside, attn))
    experts = scored(k, D, act, experts=256, used=8, width=768)
    dense = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act)
    model = causal(
        k,
        V=V,
        D=D,
        layers=stacked(
            lambda owns: whole if owns else sharing,
            owners(k, L, lambda i: i == 0 or (i - 1) % 4 == 0),
            Untraced(block=experts, what="experts of several streams", beside=ffn.tensors),
            Untraced(block=dense, what="a feed-forward of several streams", beside=ffn.tensors),
            routed(k, L, 1),
            lambda name: Norm(name, norm),
        ),
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", plain.rope),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 262144),
        eager_only=True,
    )
    wide = ("_hc.", "hc_head", "weights_proj", "k_norm", "sinks", "lm_head")
    return model.but(extra=streams_joined("model.hc_head", D, M), fp32=wide)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/hy_v4/modeling_hy_v4.py",
    attributes={"n_routed_experts": "num_local_experts"},
)
