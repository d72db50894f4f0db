"""MiniMax-Text: lightning attention and full attention in turns, experts in every layer, weighed residuals."""

from __future__ import annotations

from typing import Final

from tonnage.arch.experts import Experts
from tonnage.arch.mixers.lightning import Lightning
from tonnage.arch.model import Layer, Model
from tonnage.arch.stacks.stated import like
from tonnage.arch.weighed import Weighed
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, normed_before
from tonnage.families._decoder import chosen
from tonnage.families._hybrid import FULL, LINEAR, layer_kinds
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``MiniMaxForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    full = attention(k, D, K=8).but(bias=False, o_bias=False)
    act = k.want("hidden_act", "silu")
    linear = Lightning(name="self_attn", D=D, N=full.N, H=full.H, block=k.size("block_size", 256), act=act)
    E = k.size("num_local_experts", 8)
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 2),
        F=k.need("intermediate_size"),
        act=act,
        routing="softmax-fp32",
        jitter=k.want("router_jitter_noise", 0.001) > 0,
    )
    # The mask of full layers slides where there is a window, but their cache does not.
    k.refuse("sliding_window")
    for part in ("full_attn", "linear_attn", "mlp"):
        k.skip(f"{part}_alpha_factor", f"{part}_beta_factor")

    def layer(kind: str) -> Layer:
        label = "attention layer" if kind == FULL else "lightning attention layer"
        made: Layer = like(Weighed, normed_before(full if kind == FULL else linear, experts, D, kind=label))
        return made

    layers = {kind: layer(kind) for kind in (FULL, LINEAR)}
    kinds = layer_kinds(k, L, lambda i: LINEAR if i % 2 else FULL)
    return decoder(k, D, tuple(layers[kind] for kind in kinds), width=full.H, positions=131072)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/minimax/modeling_minimax.py",
    attributes={"num_experts": "num_local_experts"},
)
