"""MiniMax M3: its language model behind CLIP's layers with rotary positions, neighbours joined at the end."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.layers import Rotary
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._composite import nested, read_inner
from tonnage.families._language import headed, language
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import clip_layer, convolution, repeated, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

VISION: Final[dict[str, Any]] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
}


def read(k: Keys) -> Model:
    """Build the model that ``MiniMaxM3SparseForConditionalGeneration`` builds."""
    text = language(k, "model.language_model", "minimax_m3_vl_text", fixed=True)
    D = text.model.width
    width, merged, tensors = read_inner(k, "vision_config", VISION, _images, less=("model_type",))
    inner = k.size("projector_hidden_size", 6144)
    k.skip("merged_hidden_size", "img_token_compression_config", "image_grid_pinpoints", "image_seq_length")
    k.skip("process_image_mode", "projector_hidden_act", "vision_feature_layer", "vision_feature_select_strategy")
    k.refuse("multimodal_projector_bias", True)
    k.refuse("num_reward_heads", 0)
    tensors += tower(
        "vision",
        "model.multi_modal_projector",
        matrix("linear_1", ("X", width), ("F", inner), "vision"),
        matrix("linear_2", ("F", inner), ("D", D), "vision"),
        matrix("merge_linear_1", ("X", D * merged), ("F", inner), "vision"),
        matrix("merge_linear_2", ("F", inner), ("D", D), "vision"),
    )
    tied = k.want("tie_word_embeddings", False) or text.tied
    return headed(text.model, tied, extra=tensors).but(model_type="minimax_m3_vl")


def _images(k: Keys) -> tuple[int, int, tuple[Tensor, ...]]:
    """Width, patches that are joined, and tensors of the tower."""
    merge, frames = k.size("spatial_merge_size", 2), k.size("temporal_patch_size", 2)
    # The released config tells both in a place of their own.
    told = nested(k, "img_token_compression_config", lambda inner: _joined(inner, merge, frames))
    merge, frames = told or (merge, frames)
    D, patch = k.need("hidden_size"), k.size("patch_size", 14)
    k.refuse("position_embedding_type", "rope")
    k.refuse("rope_mode", "3d")
    k.skip("vision_segment_max_frames", "projection_dim", "vocab_size")
    H = k.divides("hidden_size", "num_attention_heads", D, k.need("num_attention_heads"))
    k.skip("image_size", "hidden_act", "attention_dropout")
    path = "model.vision_tower"
    first = tower(
        "vision",
        path,
        *convolution("embeddings.proj", k.size("num_channels", 3), D, frames, patch, patch, bias=False),
        layer_norm("pre_layrnorm", D),
        # A third of the pairs for each of time, row and column; what is left over is not turned.
        Rotary("rotary_emb", H // 2 // 3 * 2),
    )
    layers = repeated(
        "vision", f"{path}.layers", k.need("num_hidden_layers"), *clip_layer(D, k.need("intermediate_size"))
    )
    return D, merge**2, first + layers


def _joined(k: Keys, merge: int, frames: int) -> tuple[int, int]:
    """Patches of a side that are joined, and frames of a patch."""
    k.refuse("image_token_compression_method", "patch_merge")
    return k.size("spatial_merge_size", merge), k.size("temporal_patch_size", frames)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/minimax_m3_vl/"
    "modeling_minimax_m3_vl.py",
)
