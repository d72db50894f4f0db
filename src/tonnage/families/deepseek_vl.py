"""DeepSeek-VL: Llama behind SigLIP's tower, and in the hybrid models behind SAM's too (arXiv:2403.05525)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.families import Family
from tonnage.families._language import headed, language
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import convolution, tower
from tonnage.families.towers import seen
from tonnage.keys import Keys
from tonnage.tensors import Tensor

HIGH: Final = "model.high_res_vision"


def read(k: Keys) -> Model:
    """Build ``DeepseekVLForConditionalGeneration`` or ``DeepseekVLHybridForConditionalGeneration``."""
    text = language(k, "model.language_model", "llama")
    D = text.model.width
    width, tensors = seen(k, "model.vision_model", "siglip_vision_model")
    side = ("D", D)
    if k.config["model_type"] == "deepseek_vl":
        aligner: tuple[Part, ...] = (
            matrix("linear1", ("X", width), side, "vision"),
            matrix("linear2", side, side, "vision"),
        )
    else:
        channels, high = _high(k)
        tensors += high
        aligner = (
            matrix("vision_proj", ("X", width), ("X", D // 2), "vision"),
            matrix("high_res_vision_proj", ("X", 4 * channels), ("X", D // 2), "vision"),
            matrix("proj", side, side, "vision"),
        )
    extra = tensors + tower("vision", "model.aligner", *aligner)
    return headed(text.model, k.want("tie_word_embeddings", True), extra=extra)


def _high(k: Keys) -> tuple[int, tuple[Tensor, ...]]:
    """Output channels and tensors of the tower for large images, whose neck stands beside it once more."""
    outs, tensors = seen(k, f"{HIGH}_model", "sam_vision_model", key="high_res_vision_config")
    ins = (k.config.get("high_res_vision_config") or {}).get("hidden_size", 768)
    return outs, (
        *tensors,
        Tensor(f"{HIGH}_alpha", (("X", 1),), "vision"),
        *tower(
            "vision",
            f"{HIGH}_neck",
            *convolution("conv1", ins, outs, 1, 1, bias=False),
            layer_norm("layer_norm1", outs),
            *convolution("conv2", outs, outs, 3, 3, bias=False),
            layer_norm("layer_norm2", outs),
        ),
        *tower(
            "vision",
            f"{HIGH}_proj",
            *convolution("conv1", outs, 2 * outs, 3, 3, bias=False),
            *convolution("conv2", 2 * outs, 4 * outs, 3, 3, bias=False),
        ),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/deepseek_vl/"
    "modeling_deepseek_vl.py",
)
