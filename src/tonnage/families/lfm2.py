"""LFM2: short convolutions with an attention layer now and then."""

from __future__ import annotations

from typing import Final

from tonnage.arch.feedforward import Gated
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._hybrid import FULL, layer_kinds, whole_numbers
from tonnage.families._lfm2 import CONV, lfm2
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Lfm2ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    mlp = Gated(name="feed_forward", D=D, F=_inner(k), gate="w1", up="w3", down="w2")
    attends = whole_numbers(k, "full_attn_idxs")
    k.skip(
        "theta",
        "block_dim",
        "block_mlp_init_scale",
        "block_out_init_scale",
        "block_use_swiglu",
        "block_use_xavier_init",
    )
    k.skip("block_norm_eps", "conv_dim", "conv_dim_out", "conv_use_xavier_init", "use_pos_enc", "num_heads")
    kinds = layer_kinds(k, L, lambda i: FULL if attends is None or i in attends else CONV, (FULL, CONV))
    return lfm2(k, kinds, lambda _: mlp)


def _inner(k: Keys) -> int:
    """Inner width of the feed-forward block: two thirds of what is told, rounded up, unless told otherwise."""
    F = k.size("block_ff_dim", k.size("intermediate_size", 12288))
    adjusted, factor = k.want("block_auto_adjust_ff_dim", True), k.optional("block_ffn_dim_multiplier", float, 1.0)
    multiple = k.size("block_multiple_of", 256)
    if not adjusted:
        return F
    F = int(2 * F / 3)
    return F if factor is None else -(-int(factor * F) // multiple) * multiple


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/lfm2/modeling_lfm2.py",
)
