"""NLLB-MoE: M2M-100 with experts in every few layers (arXiv:2207.04672)."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from tonnage.arch.feedforward import Plain
from tonnage.arch.model import Layer, Model
from tonnage.arch.parts import Separate
from tonnage.families import Family
from tonnage.families._pieces import counted, matrix
from tonnage.families._seq2seq import Builder, Side, Style
from tonnage.keys import Keys

STYLE: Final = Style(
    act="relu", offset=2, last_norm=True, pre_norm=True, table="buffer", logits_bias=False, alone=False
)


def read(k: Keys) -> Model:
    """Build ``NllbMoeForConditionalGeneration``."""
    k.skip("router_dtype", "router_ignore_padding_tokens", "expert_capacity", "second_expert_policy")
    k.skip("normalize_router_prob_before_dropping", "batch_prioritized_routing", "moe_eval_capacity_token_fraction")
    k.skip("moe_token_dropout", "max_source_positions", "max_target_positions")
    made = Builder(k, STYLE)
    model = made.both()
    return model.but(stacks=tuple(stack.but(layers=_layers(k, made, stack.name)) for stack in model.stacks))


def _layers(k: Keys, made: Builder, name: str) -> tuple[Layer, ...]:
    """A stack's layers: every few of them route their tokens to two experts."""
    side: Side = "decoder" if name == "decoder" else "encoder"
    step = k.want(f"{side}_sparse_step", 4)
    D, E = made.D, k.size("num_experts", 128)
    dense = Plain(name="ffn", D=D, F=k.need(f"{side}_ffn_dim"), act=made.act)
    router = matrix("ffn.router.classifier", ("D", D), ("Er", E), "router", bias=k.want("router_bias", False))
    experts = Separate(path="ffn.experts.expert_", E=E, used=min(2, E), block=dense.but(name=""))

    @cache
    def layer(routes: bool) -> Layer:
        block: Any = counted("NLLB-MoE's experts", router, experts) if routes else dense
        subs = [made.sub(made.attention(side, "self_attn", causal=side == "decoder"), "self_attn_layer_norm")]
        if side == "decoder":
            subs.append(made.sub(made.attention(side, "cross_attention", cross=True), "cross_attention_layer_norm"))
        subs.append(made.sub(block, "ff_layer_norm"))
        return Layer(sublayers=tuple(subs), kind="layer with experts" if routes else "layer")

    return tuple(layer(step > 0 and (index + 1) % step == 0) for index in range(k.need(f"{side}_layers")))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/nllb_moe/"
    "modeling_nllb_moe.py",
    attributes={
        "d_model": "hidden_size",
        "encoder_attention_heads": "num_attention_heads",
        "encoder_layers": "num_hidden_layers",
    },
)
