"""Granite 4: Mamba 2 mixers and attention, routed experts beside a shared feed-forward block, or that alone."""

from __future__ import annotations

from typing import Final

from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Block, Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder
from tonnage.families._decoder import chosen
from tonnage.families._hybrid import FULL, LINEAR, layer_kinds, mamba2
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``GraniteMoeHybridForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    turned = k.optional("position_embedding_type", str) == "rope"
    full = attention(k, D).but(rotary="default" if turned else None)
    mixer = mamba2(k, D)
    channel = _channel(k, D, k.want("hidden_act", "silu"))

    def layer(kind: str) -> Layer:
        token: Block = full if kind == FULL else mixer
        return Layer(
            sublayers=(
                Sublayer(block=token, before=Norm("input_layernorm", (("D", D),)), scaled=True),
                Sublayer(block=channel, before=Norm("post_attention_layernorm", (("D", D),)), scaled=True),
            ),
            kind="attention" if kind == FULL else "mamba",
        )

    layers = {kind: layer(kind) for kind in (FULL, LINEAR)}
    kinds = layer_kinds(k, L, lambda i: LINEAR)
    model = decoder(
        k,
        D,
        tuple(layers[kind] for kind in kinds),
        width=full.H,
        positions=2048,
        rotary=(Rotary("model.rotary_emb", full.H),) if turned else (),
        scaled=True,
        head_scaled=True,
    )
    # Positions are counted whether or not a layer turns by them, and handed to none.
    stack = model.decoder
    return model.but(stacks=(stack.but(stem=stack.stem.but(position_ids="named")),))


def _channel(k: Keys, D: int, act: str) -> Block:
    """The shared block, and routed experts beside it where there are any."""
    shared = Gated(
        name="shared_mlp",
        D=D,
        F=k.size("shared_intermediate_size", 1024),
        act=act,
        fused="input_linear",
        down="output_linear",
        role="shared_expert",
    )
    E, F = k.want("num_local_experts", 8), k.need("intermediate_size")
    if not E:
        k.skip("num_experts_per_tok")
        return shared.but(role="feed_forward")
    return Experts(
        name="block_sparse_moe",
        D=D,
        E=E,
        used=chosen(k, E, 2),
        F=F,
        act=act,
        routing="softmax-top-fp32",
        order="outside",
        router="router",
        shared=shared,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/granitemoehybrid/modeling_granitemoehybrid.py",
    attributes={"layer_types": "layers_block_type"},
)
