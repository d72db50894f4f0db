"""Kimi K3, the language model: Kimi Linear with gated attention, experts in a latent, residuals of earlier blocks.

The class is the release's own; transformers has none. What its tensors are called and how large they are is told by
engines that load it and by the stored sum of the release, which this structure gives to the parameter.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.attention import Latent
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.mixers.delta import KimiDelta
from tonnage.arch.model import Block, Layer, Model
from tonnage.arch.parts import Loose, Parts, Routed
from tonnage.families import Family
from tonnage.families._blocks import normed_before
from tonnage.families._composite import nested
from tonnage.families._decoder import causal, chosen, latent
from tonnage.families._experts import routed
from tonnage.families._hybrid import FULL, KIMI, LINEAR, kimi_released
from tonnage.keys import Keys
from tonnage.tensors import Axes, Tensor

DECAYS: Final = 128
"""Entries of a layer's ``A_log``, of which the heads use the first: the stored sum tells."""


def read(k: Keys) -> Model:
    """Build the language model of ``KimiK3ForConditionalGeneration``."""
    D, L, V = k.need("hidden_size"), k.need("num_hidden_layers"), k.need("vocab_size")
    (N, H, C), kinds = nested(k, "linear_attn_config", lambda inner: _linear(inner, L)) or ((96, 128, 4), None)
    delta = KimiDelta(name="self_attn", D=D, N=N, H=H, C=C, full_gate=True, decays=max(DECAYS, N))
    full = latent(k, D, style="none")
    k.refuse("attn_res_block_size", *range(1, L + 1))
    k.skip("mla_use_nope", "activation_situ_beta", "activation_situ_linear_beta", "topk_method", "use_grouped_topk")
    gated = k.want("mla_use_output_gate", False)
    act, norm = k.want("hidden_act", "situ"), (("D", D),)
    dense = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act)
    k.refuse("moe_layer_freq", 1)
    k.refuse("num_nextn_predict_layers", 0)

    def token(kind: str) -> Block:
        block = _gated(full, gated) if kind == FULL else delta
        residual = tuple(
            Tensor(f"{name}.weight", axes, "norm")
            for name, axes in (
                ("self_attention_res_norm", norm),
                ("self_attention_res_proj", (("X", 1), *norm)),
                ("mlp_res_norm", norm),
                ("mlp_res_proj", (("X", 1), *norm)),
            )
        )
        return Parts(what="attention of Kimi K3", parts=(block, Loose(tensors=residual)))

    experts, routes = _experts(k, D, act), routed(k, L, k.want("first_k_dense_replace", 1))

    @cache
    def layer(kind: str, routes: bool) -> Layer:
        name = "attention" if kind == FULL else "delta attention"
        channel = experts if routes else dense
        return normed_before(token(kind), channel, D, kind=f"{name} with experts" if routes else f"dense {name}")

    model = causal(
        k,
        V=V,
        D=D,
        layers=tuple(map(layer, kinds or tuple(FULL if i % 4 == 3 else LINEAR for i in range(L)), routes)),
        norm=Norm("model.norm", norm),
        rotary=(),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 1048576),
    )
    last = (
        Tensor("model.output_attn_res_norm.weight", norm, "norm"),
        Tensor("model.output_attn_res_proj.weight", (("X", 1), *norm), "norm"),
    )
    return model.but(extra=model.extra + last, plain=("routed_expert_down_proj", "routed_expert_up_proj"))


def _linear(k: Keys, layers: int) -> tuple[tuple[int, int, int], tuple[str, ...] | None]:
    """Sizes of the linear attention, and the kinds of layer."""
    k.skip("gate_lower_bound")
    k.refuse("use_full_rank_gate", True)
    return kimi_released(k, layers, (96, 128, 4))


def _gated(full: Latent, gated: bool) -> Block:
    """Latent attention whose output is gated by the layer's input."""
    if not gated:
        return full
    gate = Linear("self_attn.g_proj", (("D", full.D),), (("N", full.N), ("H", full.VH)), "attention")
    return Parts(what="gated latent attention", parts=(full, gate))


def _experts(k: Keys, D: int, act: str) -> Parts:
    """Experts that read and write a latent, with a norm behind their sum; shared ones of the full width."""
    E, F = k.size("num_local_experts", 896), k.size("moe_intermediate_size", 3072)
    R = k.need("routed_expert_hidden_size")
    k.skip("n_group", "topk_group", "routed_scaling_factor", "moe_router_activation_func", "norm_topk_prob")
    width: Axes = (("D", D),)
    inner: Axes = (("R", R),)
    name = "block_sparse_moe"
    used = chosen(k, E, 16)
    experts = Routed(
        E=E,
        used=used,
        tensors=(
            Tensor(f"{name}.experts.gate_up_proj", (("E", E), ("X", 2), ("F", F), *inner), "expert", (1, 2, 1)),
            Tensor(f"{name}.experts.down_proj", (("E", E), *inner, ("F", F)), "expert"),
        ),
    )
    shared = Gated(
        name=f"{name}.shared_experts", D=D, F=F * k.size("n_shared_experts", 2), act=act, role="shared_expert"
    )
    return Parts(
        what="experts of Kimi K3",
        parts=(
            Linear(f"{name}.gate", width, (("Er", E),), "router"),
            Loose(tensors=(Tensor(f"{name}.gate.e_score_correction_bias", (("Er", E),), "buffer", dtype="fp32"),)),
            experts,
            shared,
            Linear(f"{name}.routed_expert_down_proj", width, inner, "shared_expert"),
            Linear(f"{name}.routed_expert_up_proj", inner, width, "shared_expert"),
            *((Norm(f"{name}.routed_expert_norm", inner),) if k.want("latent_moe_use_norm", True) else ()),
        ),
    )


FAMILY: Final = Family(
    read=read,
    source="https://huggingface.co/moonshotai/Kimi-K3/blob/main/modeling_kimi_linear.py",
    attributes=KIMI,
)
