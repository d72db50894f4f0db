"""Kimi K2.5 and K2.6: Kimi K2 behind a tower for images and clips (arXiv:2602.02276)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tonnage.arch.layers import Rotary
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._language import headed, language
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import attention, convolution, feed_forward, repeated, sizes, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

VISION: Final[dict[str, Any]] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
    "pos_emb_height": 64,
    "pos_emb_width": 64,
    "pos_emb_time": 4,
}
RELEASED: Final = {
    "hidden_size": "vt_hidden_size",
    "intermediate_size": "vt_intermediate_size",
    "num_hidden_layers": "vt_num_hidden_layers",
    "num_attention_heads": "vt_num_attention_heads",
    "pos_emb_height": "init_pos_emb_height",
    "pos_emb_width": "init_pos_emb_width",
    "pos_emb_time": "init_pos_emb_time",
}
"""Names of the tower's keys in released configs."""
TOWER: Final = "model.vision_tower"


def read(k: Keys) -> Model:
    """Build the model that ``Kimi_K25ForConditionalGeneration`` builds."""
    stated = k.config.get("text_config")
    # Released configs give the language model a type of their own code.
    own = isinstance(stated, Mapping) and stated.get("model_type") == "kimi_k2"
    text = language(k, "model.language_model", "deepseek_v3", fixed=own).model
    width, merged, tensors = read_inner(k, "vision_config", VISION, _images, aliases=RELEASED)
    joined = ("X", width * merged)
    projector = (
        layer_norm("pre_norm", k.want("projection_hidden_size", 1152)),
        matrix("in_proj", joined, joined, "vision"),
        matrix("out_proj", joined, ("D", text.width), "vision"),
    )
    k.skip("projection_layer_norm_eps", "ignore_index", "use_unified_vision_chunk", "video_placeholder")
    tied = k.want("tie_word_embeddings", True)
    tensors += tower("vision", "model.mm_projector", *projector)
    return headed(text, tied, extra=tensors).but(model_type="kimi_k25")


def _images(k: Keys) -> tuple[int, int, tuple[Tensor, ...]]:
    """Width, patches that are joined, and tensors of the tower."""
    D, patch = k.need("hidden_size"), k.need("patch_size")
    H = k.divides("hidden_size", "num_attention_heads", D, k.need("num_attention_heads"))
    high, wide = sizes(k, "merge_kernel_size", (2, 2), many=2)
    k.skip("hidden_act", "merge_type", "mm_hidden_size", "mm_projector_type", "pos_emb_type", "projector_hidden_act")
    k.skip("projector_ln_eps", "text_hidden_size", "video_attn_type")
    places = (("P", k.need("pos_emb_height")), ("P", k.need("pos_emb_width")), ("D", D))
    times = (("P", k.need("pos_emb_time") + 1), ("D", D))
    first = tower(
        "vision",
        TOWER,
        *convolution("patch_embed.proj", 3, D, patch, patch),
        Tensor("patch_embed.pos_emb.position_embeddings", places, "vision"),
        Tensor("patch_embed.pos_emb.time_position_embeddings", times, "buffer", dtype="fp32"),
        layer_norm("final_layernorm", D),
        Rotary("rotary_emb", H // 2),
    )
    layer = (
        layer_norm("norm1", D),
        layer_norm("norm2", D),
        *attention("attn", D, o="proj"),
        *feed_forward("mlp", D, k.need("intermediate_size")),
    )
    return D, high * wide, first + repeated("vision", f"{TOWER}.layers", k.need("num_hidden_layers"), *layer)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/kimi_k25/"
    "modeling_kimi_k25.py",
)
