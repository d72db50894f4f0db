"""AFMoE (Trinity): gated attention, positions in sliding layers only, four norms a layer, scored experts."""

from __future__ import annotations

from typing import Final

from tonnage.arch.experts import Experts
from tonnage.arch.layers import Linear, Norm, NormStyle
from tonnage.arch.model import Model
from tonnage.arch.untraced import Untraced
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_heads, turned_in_windows
from tonnage.families._decoder import chosen, every, window_of, windows
from tonnage.families._experts import shared_expert, stacked
from tonnage.keys import Keys
from tonnage.tensors import Tensor

STYLE: Final[NormStyle] = "rms-fp32-weight"


def read(k: Keys) -> Model:
    """Build the model that ``AfmoeForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token, mlp = normed_heads(attention(k, D, H=128), style=STYLE), gated(k, D)
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
        act=mlp.act,
        routing="own",
        router="router.gate",
        corrected=Tensor("mlp.expert_bias", (("Er", E),), "router"),
        shared=shared_expert(D, F * k.want("num_shared_experts", 2), mlp.act),
    )

    gate = Linear("self_attn.gate_proj", (("D", D),), (("N", token.N), ("H", token.H)), "attention")

    def gates(seen: int | None) -> Untraced:
        beside = tuple(gate.weights())
        return Untraced(block=turned_in_windows(token, seen), what="attention with a gate", beside=beside)

    first = k.want("num_dense_layers", 1)
    layers = stacked(
        gates,
        seen,
        experts,
        mlp,
        tuple(i >= first for i in range(L)),
        lambda name: Norm(name, (("D", D),), STYLE),
        names=("input_layernorm", "post_attention_layernorm", "pre_mlp_layernorm", "post_mlp_layernorm"),
    )
    scaled, masks = bool(k.want("mup_enabled", False)), (None, window) if window is not None else ()
    return decoder(k, D, layers, width=token.H, positions=16384, style=STYLE, scaled=scaled, masks=masks)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/afmoe/modeling_afmoe.py",
)
