"""ERNIE 4.5 with experts: softmax scores with a learned correction, shared experts, biases by one flag."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Model
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._decoder import causal, every, heads
from tonnage.families._experts import shared_expert, stacked
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``Ernie4_5_MoeForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 4)
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    bias, act, norm = bool(k.want("use_bias", False)), k.want("hidden_act", "silu"), (("D", D),)
    k.skip("moe_norm_min", "attention_dropout")
    attention = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        bias=bias,
        o_bias=bias,
        rotary_style="interleaved-wide",
    )
    E, F = k.size("moe_num_experts", 64), k.size("moe_intermediate_size", 1536)
    used, shared = k.size("moe_k", 6), k.want("moe_num_shared_experts", 2)
    if used > E:
        raise ConfigError(f"moe_k = {used} exceeds moe_num_experts = {E}", key="moe_k", value=used, file=k.file)
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=used,
        F=F,
        act=act,
        routing="own",
        corrected=Tensor("mlp.gate.moe_statics.e_score_correction_bias", (("X", 1), ("Er", E)), "router"),
        shared=shared_expert(D, F * shared, act, bias=bias) if shared > 0 else None,
    )
    step, first, last = every(k, "moe_layer_interval", 1), k.want("moe_layer_start_index", 1), L - 1
    if k.config.get("moe_layer_end_index", -1) == -1:
        k.skip("moe_layer_end_index")
    else:
        last = k.want("moe_layer_end_index", last)
    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=stacked(
            lambda _: attention,
            (None,) * L,
            experts,
            Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act, bias=bias),
            tuple((i + 1) % step == 0 and first <= i <= last for i in range(L)),
            lambda name: Norm(name, norm),
        ),
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", H, dtype="fp32"),),
        tied=k.want("tie_word_embeddings", True),
        positions=k.want("max_position_embeddings", 131072),
        head_bias=bias,
    ).but(fp32=("gate.weight", "moe_statics"))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/ernie4_5_moe/modeling_ernie4_5_moe.py",
    attributes={"moe_num_experts": "num_experts", "moe_k": "num_experts_per_tok"},
)
