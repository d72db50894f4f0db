"""Ovis 2: patches are looked up in a table of visual words as tokens are in theirs (arXiv:2405.20797)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.layers import Norm
from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._language import headed, language
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import attention, convolution, repeated, side, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

VISION: Final[dict[str, Any]] = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 24,
    "num_attention_heads": 8,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 14,
    "vocab_size": 16384,
    "hidden_stride": 1,
    "num_visual_indicator_tokens": 5,
}


def read(k: Keys) -> Model:
    """Build ``Ovis2ForConditionalGeneration``."""
    text = language(k, "model.language_model", "qwen2")
    words, tensors = read_inner(k, "vision_config", VISION, _vision, less=("model_type",))
    D, V, tied = k.size("hidden_size", 1536), k.size("vocab_size", 151643), k.want("tie_word_embeddings", True)
    k.skip("visual_indicator_token_ids")
    table = Tensor("model.visual_embeddings_table.weight", (("P", words), ("D", D)), "vision")
    model = headed(text.model, tied, extra=(*tensors, table))
    if tied or model.head is None:
        return model
    # A head of its own is as large as the outer config says.
    return model.but(head=model.head.but(D=D, V=V))


def _vision(k: Keys) -> tuple[int, tuple[Tensor, ...]]:
    """Visual words and tensors of the tower, its head included."""
    D, F, patch = k.need("hidden_size"), k.need("intermediate_size"), side(k, "patch_size")
    rows, words = (side(k, "image_size") // patch) ** 2, k.need("vocab_size")
    k.divides("hidden_size", "num_attention_heads", D, k.need("num_attention_heads"))
    k.skip("hidden_act", "attention_dropout", "tokenize_function")
    width, inner, mlp = ("D", D), ("F", F), k.want("mlp_bias", False)
    path, seen = "model.vision_tower", words - k.need("num_visual_indicator_tokens")
    layer: tuple[Part, ...] = (
        *attention("attention", D, bias=k.want("qkv_bias", False)),
        matrix("ffn.gate_proj", width, inner, "vision", bias=mlp),
        matrix("ffn.up_proj", width, inner, "vision", bias=mlp),
        matrix("ffn.down_proj", inner, width, "vision", bias=mlp),
        Norm("rms_norm1", (width,)),
        Norm("rms_norm2", (width,)),
    )
    first = tower(
        "vision",
        path,
        *convolution("transformer.embeddings.patch_embedding", k.need("num_channels"), D, patch, patch),
        Tensor("transformer.embeddings.position_embedding.weight", (("P", rows), width), "vision"),
        Tensor("transformer.embeddings.position_ids", (("X", 1), ("P", rows)), "buffer", dtype="int64"),
        Norm("transformer.embeddings.rms_norm", (width,)),
        Norm("transformer.rms_norm", (width,)),
        matrix("head_linear", ("X", D * k.need("hidden_stride") ** 2), ("V", seen), "vision", bias=False),
        layer_norm("head_norm", seen),
    )
    layers = repeated("vision", f"{path}.transformer.encoder.layers", k.need("num_hidden_layers"), *layer)
    return words, first + layers


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/ovis2/modeling_ovis2.py",
)
