"""MiniMax M3, the language model: blocks of tokens chosen by an indexer, clamped experts beside a shared one."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.indexed import BlockIndexer
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Model
from tonnage.arch.parts import Parts
from tonnage.arch.untraced import Untraced
from tonnage.families import Family
from tonnage.families._decoder import causal, chosen, heads, rotary_width
from tonnage.families._experts import even, routed, shared_expert, stacked, words
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``MiniMaxM3VLForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 4)
    H, norm, head = k.size("head_dim", 128), (("D", D),), (("H", k.size("head_dim", 128)),)
    turned, act = even(rotary_width(k, H)), "silu"
    k.skip("hidden_act", "rotary_dim", "swiglu_alpha", "swiglu_limit", "routed_scaling_factor")
    k.skip("index_block_size", "index_topk_blocks", "index_local_blocks")
    k.refuse("sparse_attention_config")
    k.refuse("moe_layer_freq")
    plain = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        q_norm=Norm("self_attn.q_norm", head, "rms-gemma"),
        k_norm=Norm("self_attn.k_norm", head, "rms-gemma"),
        rotary_width=turned,
        rotary_style="rebound",
        dropout=k.want("attention_dropout", 0.0),
    )
    indexer = BlockIndexer("self_attn.indexer", D, k.size("index_n_heads", 4), k.size("index_head_dim", 128))
    sparse = Parts(what="attention over chosen blocks", parts=(plain, indexer))
    kinds = words(k, "layer_types", L, ("full_attention", "minimax_m3_sparse")) or ["full_attention"] * L
    E = k.size("num_local_experts", 128)
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 4),
        F=k.size("intermediate_size", 3072),
        act=act,
        routing="own",
        corrected=Tensor("mlp.gate.e_score_correction_bias", (("Er", E),), "buffer"),
        shared=shared_expert(D, k.size("shared_intermediate_size", 3072), act, fused="gate_up_proj"),
    )
    dense = Gated(name="mlp", D=D, F=k.size("dense_intermediate_size", 12288), act=act, fused="gate_up_proj")
    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=stacked(
            lambda kind: plain if kind == "full_attention" else sparse,
            kinds,
            experts,
            Untraced(block=dense, what="a clamped feed-forward"),
            routed(k, L, 0),
            lambda name: Norm(name, norm, "rms-gemma"),
        ),
        norm=Norm("model.norm", norm, "rms-gemma"),
        rotary=(Rotary("model.rotary_emb", turned),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 524288),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/minimax_m3_vl/modeling_minimax_m3_vl.py",
    attributes={"num_local_experts": "num_experts"},
)
