"""NLLB-MoE: M2M-100 with experts in every few layers (arXiv:2207.04672)."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from tonnage.arch.capacity_masked import Masked
from tonnage.arch.feedforward import Plain
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.arch.parts import Parts
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._pieces import FORMATS, counted, layer_norm
from tonnage.families._seq2seq import M2M_100, Builder, Side
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build ``NllbMoeForConditionalGeneration``."""
    k.skip("router_ignore_padding_tokens", "max_source_positions", "max_target_positions")
    # Of evaluation alone.
    k.skip("moe_eval_capacity_token_fraction")
    made = Builder(k, M2M_100)
    model = made.both().but(eager_only=True)
    return model.but(stacks=tuple(stack.but(layers=_layers(k, made, stack.name)) for stack in model.stacks))


def _layers(k: Keys, made: Builder, name: str) -> tuple[Layer, ...]:
    """A stack's layers: every few of them route their tokens to two experts."""
    side: Side = "decoder" if name == "decoder" else "encoder"
    step = k.want(f"{side}_sparse_step", 4)
    inner = made.inner_dropout
    dense = Plain(name="ffn", D=made.D, F=k.need(f"{side}_ffn_dim"), act=made.act, inner_dropout=inner, restored=True)
    experts = _experts(k, made, dense)

    @cache
    def layer(routes: bool) -> Layer:
        block: Any = experts if routes else dense
        subs = [made.sub(made.attention(side, "self_attn", causal=side == "decoder"), "self_attn_layer_norm")]
        if side == "decoder":
            subs.append(made.sub(made.attention(side, "cross_attention", cross=True), "cross_attention_layer_norm"))
        subs.append(Sublayer(block=block, before=layer_norm("ff_layer_norm", made.D), dropout=inner))
        return Layer(sublayers=tuple(subs), kind="layer with experts" if routes else "layer")

    return tuple(layer(step > 0 and (index + 1) % step == 0) for index in range(k.need(f"{side}_layers")))


def _experts(k: Keys, made: Builder, dense: Plain) -> Masked | Parts:
    """The experts; another way to choose them is counted alone."""
    stated = k.want("router_dtype", "float32")
    if stated not in FORMATS:
        raise ConfigError(
            f"router_dtype = {stated!r} is none of {', '.join(FORMATS)}", key="router_dtype", value=stated
        )
    block = Masked(
        name=dense.name,
        D=made.D,
        E=k.size("num_experts", 128),
        capacity=k.size("expert_capacity", 64),
        block=dense.but(name=""),
        bias=k.want("router_bias", False),
        router_dtype=FORMATS[stated],
        token_dropout=k.want("moe_token_dropout", 0.2),
    )
    policy, first = k.want("second_expert_policy", "all"), k.want("normalize_router_prob_before_dropping", False)
    if policy != "all" or first or k.want("batch_prioritized_routing", False):
        return counted("NLLB-MoE's experts chosen otherwise", block)
    return block


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
