"""Doge: a mask made of the values, learned weights of the residual, and experts that are rows of two tables."""

from __future__ import annotations

import math
from typing import Final

from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Linear
from tonnage.arch.model import Model
from tonnage.arch.untraced import Untraced
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before, normed_heads
from tonnage.families._decoder import chosen, window_of
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``DogeForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    k.skip("keep_window_size", "hidden_dropout", "norm_topk_prob")
    token = attention(k, D, window=window_of(k))
    token = normed_heads(token)
    heads = (("K", token.K),)
    beside = (
        Tensor("self_attn.A", heads, "attention"),
        *Linear("self_attn.dt_proj", (*heads, ("H", token.H)), heads, "attention", token.bias).weights(),
        _residual("input_residual", D),
    )
    mlp = gated(k, D, bias=k.want("mlp_bias", False))
    block = Untraced(block=token, what="attention with a mask made of the values", beside=beside)
    layer = normed_before(block, _feed_forward(k, D, mlp), D)
    return decoder(k, D, (layer,) * L, width=token.H, positions=2048)


def _residual(name: str, D: int) -> Tensor:
    """What the residual is multiplied by."""
    return Tensor(name, (("D", D),), "norm")


def _feed_forward(k: Keys, D: int, mlp: Gated) -> Untraced:
    """The gated block, beside experts where there are some: an expert is a row of either table (arXiv:2407.04153)."""
    weight = _residual("post_attention_residual", D)
    experts, E = k.want("is_moe", False), k.size("num_experts", 16384)
    used = chosen(k, E, 64)
    if not experts:
        return Untraced(block=mlp, what="a weighed residual", beside=(weight,))
    table = (("E", E), ("D", D))
    beside = (
        *Linear("mlp.router_gate", (("D", D),), (("Er", 2 * math.isqrt(E)),), "router").weights(),
        Tensor("mlp.down_embed.weight", table, "expert"),
        Tensor("mlp.up_embed.weight", table, "expert"),
        weight,
    )
    idle = 0 if used is None else 2 * D * (E - used)
    return Untraced(block=mlp, what="experts that are rows of a table", beside=beside, idle=idle)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/doge/modeling_doge.py",
)
