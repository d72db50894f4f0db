"""A.X K2: DeepSeek-V3.2's attention with gates from the compressed query, and norms with a gate of low rank."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.arch.parts import Loose, Parts
from tonnage.arch.untraced import Untraced
from tonnage.families import Family
from tonnage.families._decoder import causal, latent
from tonnage.families._experts import routed, scored, words
from tonnage.families._indexed import indexer
from tonnage.keys import Keys
from tonnage.tensors import Role


def read(k: Keys) -> Model:
    """Build the model that ``AXK2ForCausalLM`` builds."""
    D, L, V = k.need("hidden_size"), k.need("num_hidden_layers"), k.need("vocab_size")
    act, norm = k.want("hidden_act", "silu"), (("D", D),)
    plain = latent(k, D, style="neighbours", q_rank=384, kv_rank=128, nope=64, rope=32, VH=64)
    chooses = indexer(k, D, plain.q_rank, 16)
    packed = Linear(
        "self_attn.q_gate_proj",
        (("X", 2), ("R", chooses.R)),
        (("N", plain.N), ("H", plain.nope + plain.rope + plain.VH)),
        "attention",
    )
    words(k, "layer_types", L, ("indexed_attention",))
    k.refuse("moe_layer_freq", 1)
    k.skip("rope_interleave")
    rank = k.size("gated_norm_rank", 16)
    attention = Parts(
        what="sparse attention with a gate",
        parts=(plain.but(queries=packed), chooses, _gate("input_layernorm", D, rank, "attention")),
    )
    experts = Untraced(
        block=scored(k, D, act, experts=128, used=8, width=512),
        what="a norm with a gate",
        beside=_gate("post_attention_layernorm", D, rank, "router").tensors,
    )
    dense = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act)

    @cache
    def layer(routes: bool) -> Layer:
        between = "post_attention_layernorm.norm" if routes else "post_attention_layernorm"
        return Layer(
            sublayers=(
                Sublayer(block=attention, before=Norm("input_layernorm.norm", norm)),
                Sublayer(block=experts if routes else dense, before=Norm(between, norm)),
            ),
            kind="layer with experts" if routes else "dense layer",
        )

    return causal(
        k,
        V=V,
        D=D,
        layers=tuple(map(layer, routed(k, L, k.want("first_k_dense_replace", 1)))),
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", plain.rope),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 131072),
    )


def _gate(name: str, D: int, rank: int, role: Role) -> Loose:
    """The two matrices that weigh what the norm ``name`` makes."""
    down = Linear(f"{name}.mlp.fc1", (("D", D),), (("R", rank),), role)
    up = Linear(f"{name}.mlp.fc2", (("R", rank),), (("D", D),), role)
    return Loose((*down.weights(), *up.weights()))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/axk2/modeling_axk2.py",
    attributes={"n_routed_experts": "num_local_experts"},
)
