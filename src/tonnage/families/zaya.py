"""ZAYA: attention in a compressed, convolved space, a router that is a small network, scaled residuals."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Final

from tonnage.arch.layers import Linear, Norm
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.arch.parts import Kept, KeyValues, Loose, Part, Parts, Routed
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._blocks import decoder
from tonnage.families._decoder import chosen, heads, window_of
from tonnage.families._gemma import rotaries
from tonnage.families._hybrid import HYBRID, layer_kinds
from tonnage.keys import Keys
from tonnage.tensors import Axes, Tensor

HYBRID_SLIDING: Final = "hybrid_sliding"


def read(k: Keys) -> Model:
    """Build the model that ``ZayaForCausalLM`` builds."""
    D, L, H = k.need("hidden_size"), k.need("num_hidden_layers"), k.size("head_dim", 128)
    N, K = heads(k, 2)
    window = window_of(k)
    kinds = layer_kinds(k, L, lambda i: HYBRID, (HYBRID, HYBRID_SLIDING))
    if HYBRID_SLIDING in kinds and window is None:
        raise ConfigError("layer_types has sliding layers but there is no sliding_window", key="sliding_window")
    attention = tuple(_attention(k, D, N, K, H))
    k.skip("attention_dropout", "hidden_act")

    @cache
    def layer(kind: str, first: bool) -> Layer:
        sees = window if kind == HYBRID_SLIDING else None
        token = (*attention, KeyValues(K=K, H=H, window=sees), _scales("post_attention_residual_scale", D))
        channel = (*_experts(k, D, first), _scales("post_mlp_residual_scale", D))
        return Layer(
            sublayers=(
                Sublayer(
                    block=Parts(what="compressed convolutional attention", parts=token),
                    before=Norm("input_layernorm", (("D", D),)),
                ),
                Sublayer(
                    block=Parts(what="ZAYA's experts", parts=channel),
                    before=Norm("post_attention_layernorm", (("D", D),)),
                ),
            ),
            kind="sliding layer" if kind == HYBRID_SLIDING else "layer",
        )

    model = decoder(
        k,
        D,
        tuple(layer(kind, i == 0) for i, kind in enumerate(kinds)),
        width=H,
        positions=131072,
        tied=True,
        rotary=rotaries("model", {kind: _turned(k, kind, H) for kind in set(kinds)}),
    )
    if model.head is not None:
        model = model.but(head=model.head.but(bias=k.want("lm_head_bias", False)))
    names = ("input_hidden_states_scale", "input_hidden_states_bias")
    return model.but(extra=tuple(Tensor(f"model.{name}", (("D", D),), "norm") for name in names))


def _turned(k: Keys, kind: str, H: int) -> int:
    """Elements of a head that are turned, which the keys of the rotary embedding tell for each kind of layer."""
    tables = k.inner("rope_parameters")
    own = None if tables is None else tables.inner(kind)
    return int(H * (0.5 if own is None else own.want("partial_rotary_factor", 1.0)))


def _attention(k: Keys, D: int, N: int, K: int, H: int) -> Iterator[Part]:
    bias, path = k.want("attention_bias", False), "self_attn.qkv_proj"
    times = k.size("cca_time0", 2), k.size("cca_time1", 2)
    D_, queries, keys = (("D", D),), (("N", N), ("H", H)), (("K", K), ("H", H))
    half = K * H // 2
    yield Linear("self_attn.o_proj", queries, D_, "attention", bias)
    yield Linear(f"{path}.q_proj", D_, queries, "attention", bias)
    yield Linear(f"{path}.k_proj", D_, keys, "attention", bias)
    for name in ("v_proj_current", "v_proj_delayed"):
        yield Linear(f"{path}.{name}", D_, (("I", half),), "attention", bias)
    channels: Axes = (("I", (N + K) * H),)
    yield Loose(
        tensors=(
            Tensor(f"{path}.conv_qk_depthwise.weight", (*channels, ("X", 1), ("C", times[0])), "attention"),
            Tensor(f"{path}.conv_qk_depthwise.bias", channels, "attention"),
            Tensor(f"{path}.conv_qk_grouped.weight", (*channels, ("H", H), ("C", times[1])), "attention"),
            Tensor(f"{path}.conv_qk_grouped.bias", channels, "attention"),
            Tensor("self_attn.qk_norm.temp", (("K", K),), "attention"),
        )
    )
    # The convolutions' last inputs, and the part of the last token's values that comes a token late.
    before: Axes = (*channels, ("C", sum(times) - 2))
    yield Kept(states=(("conv_states", before, None), ("recurrent_states", (("I", half),), None)))


def _scales(path: str, D: int) -> Loose:
    """Scale and shift of the residual and of what is added to it."""
    names = ("hidden_states_scale", "hidden_states_bias", "residual_scale", "residual_bias")
    return Loose(tensors=tuple(Tensor(f"{path}.{name}", (("D", D),), "norm") for name in names))


def _experts(k: Keys, D: int, first: bool) -> Iterator[Part]:
    """Routed experts, and a router with one class more: to skip them. It sees the router before, but in the first."""
    E, F, R = k.size("num_experts", 16), k.size("moe_intermediate_size", 2048), k.size("router_hidden_size", 256)
    low, classes = (("R", R),), (("Er", E + 1),)
    yield Linear("mlp.gate.down_proj", (("D", D),), low, "router", True)
    if not first:
        yield Loose(tensors=(Tensor("mlp.gate.router_states_scale", low, "router"),))
    yield Norm("mlp.gate.router_mlp.norm", low)
    yield Linear("mlp.gate.router_mlp.fc1", low, low, "router", True)
    yield Linear("mlp.gate.router_mlp.fc2", low, low, "router", True)
    yield Linear("mlp.gate.router_mlp.out_proj", low, classes, "router")
    yield Loose(tensors=(Tensor("mlp.gate.balancing_biases", classes, "buffer", dtype="fp32"),))
    all_of, width, inner = ("E", E), ("D", D), ("F", F)
    yield Routed(
        E=E,
        used=chosen(k, E, 1),
        tensors=(
            Tensor("mlp.experts.gate_up_proj", (all_of, ("X", 2), inner, width), "expert", (1, 2, 1)),
            Tensor("mlp.experts.down_proj", (all_of, width, inner), "expert"),
        ),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/zaya/modeling_zaya.py",
)
