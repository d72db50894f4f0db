"""VideoLLaMA 3: Qwen2 behind SigLIP's layers with rotary positions (arXiv:2501.13106)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.layers import Rotary
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._composite import filled
from tonnage.families._language import headed, language
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import clip_layer, convolution, repeated, side, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

VISION: Final[dict[str, Any]] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "patch_size": 16,
}


def read(k: Keys) -> Model:
    """Build the model that ``VideoLlama3ForConditionalGeneration`` builds."""
    text = language(k, "model.language_model", "qwen2")
    D = text.model.width
    width, tensors = filled(k, "vision_config", VISION, _images)
    tensors += tower(
        "vision",
        "model.projector",
        matrix("readout.0", ("X", width), ("D", D), "vision"),
        matrix("readout.2", ("D", D), ("D", D), "vision"),
    )
    tied = k.want("tie_word_embeddings", False) or text.tied
    return headed(text.model, tied, extra=tensors).but(model_type="video_llama_3")


def _images(k: Keys) -> tuple[int, tuple[Tensor, ...]]:
    D, patch, path = k.need("hidden_size"), side(k, "patch_size"), "model.vision_model"
    H = k.divides("hidden_size", "num_attention_heads", D, k.need("num_attention_heads"))
    k.skip("hidden_act", "attention_dropout")
    first = tower(
        "vision",
        path,
        *convolution("embeddings.patch_embedding", k.need("num_channels"), D, patch, patch),
        layer_norm("post_layernorm", D),
        Rotary("rotary_pos_emb", H // 2),
    )
    layer = clip_layer(D, k.need("intermediate_size"))
    return D, first + repeated("vision", f"{path}.encoder.layers", k.need("num_hidden_layers"), *layer)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/video_llama_3/"
    "modeling_video_llama_3.py",
)
