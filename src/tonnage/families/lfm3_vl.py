"""LFM3-VL: LFM3 behind a tower of short convolutions and attention, neighbouring patches as one."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._decoder import heads
from tonnage.families._hybrid import FULL, layer_kinds
from tonnage.families._language import headed, language
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import side, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

VISION: Final[dict[str, Any]] = {
    "hidden_size": 1024,
    "intermediate_size": 2560,
    "in_channels": 3,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "num_hidden_layers": 14,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "conv_kernel_size": 3,
}
CONVOLUTION: Final = "conv"
TOWER: Final = "model.vision_tower"


def read(k: Keys) -> Model:
    """Build ``Lfm3VlForConditionalGeneration``."""
    text = language(k, "model.language_model", "lfm3")
    width, merged, tensors = read_inner(k, "vision_config", VISION, _vision, less=("model_type",))
    bias, inner = k.want("projector_bias", True), ("F", k.size("projector_hidden_size", 4096))
    k.skip("projector_hidden_act")
    projector = tower(
        "vision",
        "model.multi_modal_projector",
        layer_norm("layer_norm", width),
        matrix("linear_1", ("X", width * merged**2), inner, "vision", bias=bias),
        matrix("linear_2", inner, ("D", text.model.width), "vision", bias=bias),
    )
    return headed(text.model, k.want("tie_word_embeddings", True), extra=tensors + projector)


def _vision(k: Keys) -> tuple[int, int, tuple[Tensor, ...]]:
    """Width, patches that become one along a side, and tensors."""
    D, L, merged = k.need("hidden_size"), k.need("num_hidden_layers"), k.need("spatial_merge_size")
    N, K = heads(k)
    H, width = k.divides("hidden_size", "num_attention_heads", D, N), ("D", D)
    pixels = k.need("in_channels") * side(k, "temporal_patch_size") * side(k, "patch_size") ** 2
    kinds = layer_kinds(k, L, lambda i: CONVOLUTION if i < 2 or i % 2 else FULL, (CONVOLUTION, FULL))
    found = tower(
        "vision",
        TOWER,
        matrix("patch_embed", ("X", pixels), width, "vision", bias=False),
        Norm("embedding_norm", (width,)),
        Rotary("rotary_pos_emb", H // 2),
    )
    mixers = {FULL: _attention(D, N, K, H), CONVOLUTION: _convolution(D, k.need("conv_kernel_size"))}
    channel: tuple[Part, ...] = (
        matrix("feed_forward.w1", width, ("F", k.need("intermediate_size")), "vision", bias=False),
        matrix("feed_forward.w3", width, ("F", k.need("intermediate_size")), "vision", bias=False),
        matrix("feed_forward.w2", ("F", k.need("intermediate_size")), width, "vision", bias=False),
        Norm("operator_norm", (width,)),
        Norm("ffn_norm", (width,)),
    )
    for index, kind in enumerate(kinds):
        found += tower("vision", f"{TOWER}.layers.{index}", *mixers[kind], *channel)
    return D, merged, found


def _attention(D: int, N: int, K: int, H: int) -> tuple[Part | Tensor, ...]:
    width, queries, keys, head = (("D", D),), (("N", N), ("H", H)), (("K", K), ("H", H)), (("H", H),)
    return (
        Linear("self_attn.q_proj", width, queries, "vision"),
        Linear("self_attn.k_proj", width, keys, "vision"),
        Linear("self_attn.v_proj", width, keys, "vision"),
        Linear("self_attn.out_proj", queries, width, "vision"),
        Norm("self_attn.q_norm", head),
        Norm("self_attn.k_norm", head),
    )


def _convolution(D: int, kernel: int) -> tuple[Part | Tensor, ...]:
    """A gated convolution over neighbouring patches."""
    axes = (("D", D), ("X", 1), ("C", kernel), ("C", kernel))
    return (
        matrix("conv.in_proj", ("D", D), ("X", 3 * D), "vision", bias=False),
        Tensor("conv.spatial_conv.weight", axes, "vision"),
        matrix("conv.out_proj", ("D", D), ("D", D), "vision", bias=False),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/lfm3_vl/"
    "modeling_lfm3_vl.py",
)
