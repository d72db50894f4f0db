"""Laguna: attention with a gate behind a softplus, its heads told layer by layer, scored experts, a shared one."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.model import Model
from tonnage.arch.untraced import Untraced
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._decoder import causal, chosen, heads, window_of, windows
from tonnage.families._experts import routed, shared_expert, stacked, tables, turned
from tonnage.keys import Keys
from tonnage.tensors import Axes, Tensor


def read(k: Keys) -> Model:
    """Build the model that ``LagunaForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 8)
    H = k.size("head_dim", 128)
    norm, head, act, bias = (("D", D),), (("H", H),), k.want("hidden_act", "silu"), k.want("attention_bias", False)
    dropout, per_head = k.want("attention_dropout", 0.0), _gating(k)
    k.refuse("moe_apply_router_weight_on_input")
    k.skip("moe_routed_scaling_factor", "moe_router_logit_softcapping")
    seen = windows(k, L, window_of(k, 512), lambda _: False)
    kinds = ["full_attention" if window is None else "sliding_attention" for window in seen]
    widths = turned(k, H, kinds, {"full_attention": 0.5, "sliding_attention": 1.0})

    def attention(what: tuple[int | None, int]) -> Untraced:
        window, N = what
        kind = "full_attention" if window is None else "sliding_attention"
        plain = GroupedQuery(
            name="self_attn",
            D=D,
            N=N,
            K=K,
            H=H,
            bias=bias,
            o_bias=bias,
            q_norm=Norm("self_attn.q_norm", head),
            k_norm=Norm("self_attn.k_norm", head),
            rotary=kind,
            rotary_width=widths.get(kind),
            rotary_style="rebound",
            window=window,
            dropout=dropout,
        )
        gates: Axes = (("N", N),) if per_head else (("N", N), ("H", H))
        gate = Linear("self_attn.g_proj", (("D", D),), gates, "attention")
        return Untraced(block=plain, what="attention with a gate", beside=tuple(gate.weights()))

    E = k.size("num_experts", 256)
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 8),
        F=k.size("moe_intermediate_size", 512),
        act=act,
        routing="own",
        corrected=Tensor("mlp.gate.e_score_correction_bias", (("Er", E),), "router"),
        shared=shared_expert(D, k.size("shared_expert_intermediate_size", 512), act),
    )
    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=stacked(
            attention,
            tuple(zip(seen, _queries(k, L, N, K), strict=True)),
            experts,
            Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act),
            routed(k, L, 1),
            lambda name: Norm(name, norm),
        ),
        norm=Norm("model.norm", norm),
        rotary=tables("model", widths),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 131072),
    )


def _gating(k: Keys) -> bool:
    """Whether a gate weighs whole heads; else every element of them."""
    stated = k.config.get("gating", True)
    k.skip("gating")
    return stated is True or stated == "per-head"


def _queries(k: Keys, layers: int, N: int, K: int) -> list[int]:
    """Every layer's query heads."""
    key = "num_attention_heads_per_layer"
    stated = k.optional(key, list)
    if stated is None:
        return [N] * layers
    if len(stated) != layers or not all(isinstance(n, int) and n > 0 for n in stated):
        raise ConfigError(f"{k.path}{key} must be {layers} sizes", key=k.path + key, value=len(stated), file=k.file)
    for n in stated:
        k.divides(key, "num_key_value_heads", n, K)
    return stated


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/laguna/modeling_laguna.py",
)
