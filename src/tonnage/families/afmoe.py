"""AFMoE (Trinity): gated attention, positions in sliding layers only, four norms a layer, scored experts."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Linear, Norm, NormStyle, Rotary
from tonnage.arch.model import Model
from tonnage.arch.untraced import Untraced
from tonnage.families import Family
from tonnage.families._decoder import causal, chosen, every, heads, window_of, windows
from tonnage.families._experts import shared_expert, stacked
from tonnage.keys import Keys
from tonnage.tensors import Tensor

STYLE: Final[NormStyle] = "rms-fp32-weight"


def read(k: Keys) -> Model:
    """Build the model that ``AfmoeForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k)
    H = k.size("head_dim", 128)
    head, act, dropout = (("H", H),), k.want("hidden_act", "silu"), k.want("attention_dropout", 0.0)
    bias = k.want("attention_bias", False)
    window, period = window_of(k, 1024), every(k, "global_attn_every_n_layers", 4)
    seen = windows(k, L, window, lambda i: (i + 1) % period != 0)
    E, F = k.size("num_experts", 64), k.size("moe_intermediate_size", 1408)
    k.skip("route_scale", "route_norm", "score_func", "n_group", "topk_group", "load_balance_coeff", "rope_scaling")
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 6),
        F=F,
        act=act,
        routing="own",
        router="router.gate",
        corrected=Tensor("mlp.expert_bias", (("Er", E),), "router"),
        shared=shared_expert(D, F * k.want("num_shared_experts", 2), act),
    )

    def attention(window: int | None) -> Untraced:
        plain = GroupedQuery(
            name="self_attn",
            D=D,
            N=N,
            K=K,
            H=H,
            bias=bias,
            o_bias=bias,
            q_norm=Norm("self_attn.q_norm", head, STYLE),
            k_norm=Norm("self_attn.k_norm", head, STYLE),
            rotary=None if window is None else "default",
            window=window,
            dropout=dropout,
        )
        gate = Linear("self_attn.gate_proj", (("D", D),), (("N", N), ("H", H)), "attention")
        return Untraced(block=plain, what="attention with a gate", beside=tuple(gate.weights()))

    first = k.want("num_dense_layers", 1)
    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=stacked(
            attention,
            seen,
            experts,
            Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act),
            tuple(i >= first for i in range(L)),
            lambda name: Norm(name, (("D", D),), STYLE),
            names=("input_layernorm", "post_attention_layernorm", "pre_mlp_layernorm", "post_mlp_layernorm"),
        ),
        norm=Norm("model.norm", (("D", D),), STYLE),
        rotary=(Rotary("model.rotary_emb", H),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 16384),
        scaled=bool(k.want("mup_enabled", False)),
        masks=(None, window) if window is not None else (),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/afmoe/modeling_afmoe.py",
)
