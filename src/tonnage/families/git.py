"""GIT: BERT's layers over the tokens of an image, from CLIP's tower, and of a text (arXiv:2205.14100)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.ends import Head
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._composite import filled
from tonnage.families._encoder import attention, encoder, feed_forward, stem
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.families._towers import clip_layer, convolution, repeated, side, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

VISION: Final[dict[str, Any]] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
}


def read(k: Keys) -> Model:
    """Build the model that ``GitForCausalLM`` builds, its tower included."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 1024)
    V, tied = k.need("vocab_size"), k.want("tie_word_embeddings", False)
    images = k.optional("num_image_with_embedding") or 0
    width, tensors = filled(k, "vision_config", VISION, _tower)
    layer = Layer(
        sublayers=(
            Sublayer(
                block=counted("a model that reads images", attention(k, D, N, causal=True)),
                of_sum=layer_norm("attention.output.LayerNorm", D),
            ),
            Sublayer(block=feed_forward(k, D), of_sum=layer_norm("output.LayerNorm", D)),
        )
    )
    projection = tower(
        "vision",
        "git.visual_projection.visual_projection",
        matrix("0", ("X", width), ("D", D), "vision"),
        layer_norm("1", D),
    )
    times = tuple(
        Tensor(f"git.img_temporal_embedding.{index}", (("X", 1), ("B", 1), ("D", width)), "vision")
        for index in range(images)
    )
    alias = "git.embeddings.word_embeddings.weight" if tied else None
    return encoder(
        k,
        "git",
        stem(k, "git", D, P=P, types=None, type_ids=False),
        (layer,) * k.need("num_hidden_layers"),
        Head(name="output", D=D, V=V, bias=True, alias_of=alias),
        positions=P,
        causal=True,
        extra=tensors + projection + times,
    )


def _tower(k: Keys) -> tuple[int, tuple[Tensor, ...]]:
    """Width and tensors of CLIP's tower."""
    D, F, patch = k.need("hidden_size"), k.need("intermediate_size"), side(k, "patch_size")
    rows = (side(k, "image_size") // patch) ** 2 + 1
    k.skip("hidden_act", "attention_dropout", "dropout", "projection_dim")
    k.divides("hidden_size", "num_attention_heads", D, k.need("num_attention_heads"))
    path = "git.image_encoder.vision_model"
    first = tower(
        "vision",
        path,
        Tensor("embeddings.class_embedding", (("D", D),), "vision"),
        *convolution("embeddings.patch_embedding", k.need("num_channels"), D, patch, patch, bias=False),
        Tensor("embeddings.position_embedding.weight", (("P", rows), ("D", D)), "vision"),
        Tensor("embeddings.position_ids", (("X", 1), ("P", rows)), "buffer", dtype="int64"),
        layer_norm("pre_layrnorm", D),
        layer_norm("post_layernorm", D),
    )
    return D, first + repeated("vision", f"{path}.encoder.layers", k.need("num_hidden_layers"), *clip_layer(D, F))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/git/modeling_git.py",
)
