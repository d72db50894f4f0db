"""Janus: a language model that reads images through a tower and draws them as tokens (arXiv:2501.17811)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._language import headed, language
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import convolution, feed_forward, repeated, side, tower
from tonnage.families._vq import VQ, decoder, encoder, widths
from tonnage.keys import Keys
from tonnage.tensors import Tensor

VISION: Final[dict[str, Any]] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_channels": 3,
    "image_size": 384,
    "patch_size": 16,
}
TOKENS: Final[dict[str, Any]] = {**VQ, "embed_dim": 8, "num_embeddings": 16384}


def read(k: Keys) -> Model:
    """Build ``JanusForConditionalGeneration``."""
    text = language(k, "model.language_model", "llama")
    tensors = read_inner(k, "vision_config", VISION, _vision, less=("model_type",))
    tokens = read_inner(k, "vq_config", TOKENS, _tokens, less=("model_type", "num_patches"))
    return headed(text.model, k.want("tie_word_embeddings", True), extra=tensors + tokens)


def _vision(k: Keys) -> tuple[Tensor, ...]:
    """SigLIP's tower with another output matrix, and what brings it to the language model."""
    D, patch, outs = k.need("hidden_size"), side(k, "patch_size"), k.size("projection_dim", 2048)
    rows = (side(k, "image_size") // patch) ** 2
    k.divides("hidden_size", "num_attention_heads", D, k.need("num_attention_heads"))
    k.skip("hidden_act", "attention_dropout", "hidden_dropout_rate", "projection_dropout", "num_image_tokens")
    bias, normed, width = k.want("attention_bias", True), k.want("use_qk_norm", False), ("D", D)
    layer: tuple[Part, ...] = (
        *(matrix(f"self_attn.{x}_proj", width, width, "vision", bias=bias) for x in "qkv"),
        matrix("self_attn.projection_layer", width, width, "vision"),
        *(layer_norm(f"self_attn.{x}_norm", D) for x in "qk" if normed),
        *feed_forward("mlp", D, int(D * k.want("mlp_ratio", 4.0))),
        layer_norm("layer_norm1", D),
        layer_norm("layer_norm2", D),
    )
    path = "model.vision_model"
    first = tower(
        "vision",
        path,
        *convolution("embeddings.patch_embedding", k.need("num_channels"), D, patch, patch),
        Tensor("embeddings.position_embedding.weight", (("P", rows), width), "vision"),
        Tensor("embeddings.position_ids", (("X", 1), ("P", rows)), "buffer", dtype="int64"),
        layer_norm("post_layernorm", D),
    )
    layers = repeated("vision", f"{path}.encoder.layers", k.need("num_hidden_layers"), *layer)
    return first + layers + tower("vision", "model.aligner", *_aligner(D, outs, k.size("depth", 2)))


def _aligner(ins: int, outs: int, depth: int) -> tuple[Part, ...]:
    further = (matrix(f"hidden_layers.{i}", ("D", outs), ("D", outs), "vision") for i in range(depth - 1))
    return matrix("fc1", ("X", ins), ("D", outs), "vision"), *further


def _tokens(k: Keys) -> tuple[Tensor, ...]:
    """The tokenizer of images, its way back, and the head that draws."""
    last, D, rows = len(widths(k)) - 1, k.need("embed_dim"), k.need("num_embeddings")
    outs, wide = k.size("projection_dim", 2048), k.size("image_token_embed_dim", 2048)
    k.skip("dropout", "hidden_act")
    return (
        *encoder(k, "model.vqmodel", lambda level: level == last),
        *decoder(k, "model.vqmodel"),
        Tensor("model.generation_embeddings.weight", (("P", rows), ("D", D)), "vision"),
        *tower("vision", "model.generation_aligner", *_aligner(D, outs, k.size("num_hidden_layers", 2))),
        *tower(
            "vision",
            "model.generation_head",
            matrix("proj_out", ("D", wide), ("X", outs), "vision"),
            matrix("vision_head", ("X", outs), ("V", rows), "vision"),
        ),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/janus/modeling_janus.py",
)
