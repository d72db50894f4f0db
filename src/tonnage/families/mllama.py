"""Llama 3.2 Vision: Llama with layers between that attend to an image instead of the text (arXiv:2407.21783)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.ends import Head, Stem
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Model, Stack
from tonnage.families import Family
from tonnage.families._blocks import attention, gated, normed_before
from tonnage.families._composite import filled
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.families._towers import attention as square
from tonnage.families._towers import convolution, feed_forward, repeated, side, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

TEXT: Final[dict[str, Any]] = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "cross_attention_layers": None,
}
VISION: Final[dict[str, Any]] = {
    "hidden_size": 1280,
    "num_hidden_layers": 32,
    "num_global_layers": 8,
    "attention_heads": 16,
    "num_channels": 3,
    "intermediate_size": 5120,
    "vision_output_dim": 7680,
    "image_size": 448,
    "patch_size": 14,
    "max_num_tiles": 4,
}
CROSS: Final = (3, 8, 13, 18, 23, 28, 33, 38)
"""Layers that attend to the image where the config says nothing."""


def read(k: Keys) -> Model:
    """Build the model that ``MllamaForCausalLM`` builds: the language model alone."""
    if k.config["model_type"] == "mllama_text_model":
        return _text(k, "model")
    k.skip("vision_config")
    return filled(k, "text_config", TEXT, lambda inner: _text(inner, "model"))


def read_whole(k: Keys) -> Model:
    """Build ``MllamaForConditionalGeneration``, its tower included."""
    model = filled(k, "text_config", TEXT, lambda inner: _text(inner, "model.language_model"))
    width, tensors = filled(k, "vision_config", VISION, _tower)
    projector = matrix("model.multi_modal_projector", ("X", width), ("D", model.width), "vision")
    return model.but(extra=(*tensors, *projector.weights()))


def _text(k: Keys, path: str) -> Model:
    D, V, L = k.need("hidden_size"), k.need("vocab_size"), k.need("num_hidden_layers")
    chosen = k.optional("cross_attention_layers", list)
    crossing = set(CROSS if chosen is None else chosen)
    token, mlp = attention(k, D, K=8, bias=False, dropout=k.want("dropout", 0.0)), gated(k, D)
    own = normed_before(counted("a model that reads images", token), mlp, D)
    head = (("H", token.H),)
    # What is cached of an image does not grow with the text.
    image = counted(
        "a model that reads images",
        *token.but(name="cross_attn").matrices(),
        Norm("cross_attn.q_norm", head),
        Norm("cross_attn.k_norm", head),
        *(Tensor(f"cross_attn_{what}_gate", (("X", 1),), "attention") for what in ("attn", "mlp")),
    )
    cross = normed_before(image, mlp, D, kind="layer over the image")
    norm = Norm(f"{path}.norm", (("D", D),))
    # The embedding has more rows than the head, and shares nothing with it.
    k.skip("tie_word_embeddings")
    return Model(
        model_type="mllama",
        stacks=(
            Stack(
                name="decoder",
                path=f"{path}.layers",
                # Eight rows more, for the token of an image.
                stem=Stem(name=f"{path}.embed_tokens", V=V + 8, D=D, rotary=(Rotary(f"{path}.rotary_emb", token.H),)),
                layers=tuple(cross if index in crossing else own for index in range(L)),
                norm=norm,
            ),
        ),
        head=Head(name="lm_head", D=D, V=V),
        positions=k.want("max_position_embeddings", 131072),
    )


def _tower(k: Keys) -> tuple[int, tuple[Tensor, ...]]:
    """Width of the output and tensors of the tower: layers over tiles, then gated ones over the image."""
    D, F, patch, tiles = (
        k.need("hidden_size"),
        k.need("intermediate_size"),
        side(k, "patch_size"),
        k.need("max_num_tiles"),
    )
    rows = (side(k, "image_size") // patch) ** 2 + 1
    ratios = k.optional("supported_aspect_ratios", list)
    ids = (8 if ratios is None else len(ratios)) + 1
    k.divides("hidden_size", "attention_heads", D, k.need("attention_heads"))
    k.skip("hidden_act", "intermediate_layers_indices", "attention_dropout", "tie_word_embeddings")
    path = "model.vision_model"
    layer = (
        *square("self_attn", D, o="o_proj", bias=False),
        *feed_forward("mlp", D, F),
        layer_norm("input_layernorm", D),
        layer_norm("post_attention_layernorm", D),
    )
    gates = tuple(Tensor(f"gate_{name}", (("X", 1),), "vision") for name in ("attn", "ffn"))
    ends = tuple(
        part
        for name in ("pre_tile_positional_embedding", "post_tile_positional_embedding")
        for part in (
            Tensor(f"{name}.gate", (("X", 1),), "vision"),
            Tensor(f"{name}.embedding.weight", (("P", ids), ("D", tiles * D)), "vision"),
        )
    )
    between = "gated_positional_embedding"
    return k.need("vision_output_dim"), (
        *tower(
            "vision",
            path,
            *convolution("patch_embedding", k.need("num_channels"), D, patch, patch, bias=False),
            Tensor("class_embedding", (("D", D),), "vision"),
            Tensor(f"{between}.gate", (("X", 1),), "vision"),
            Tensor(f"{between}.embedding", (("P", rows), ("D", D)), "vision"),
            Tensor(f"{between}.tile_embedding.weight", (("P", ids), ("D", tiles * rows * D)), "vision"),
            *ends,
            layer_norm("layernorm_pre", D),
            layer_norm("layernorm_post", D),
        ),
        *repeated("vision", f"{path}.transformer.layers", k.need("num_hidden_layers"), *layer),
        *repeated("vision", f"{path}.global_transformer.layers", k.need("num_global_layers"), *layer, *gates),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/mllama/modeling_mllama.py",
    attributes={"image_token_index": "image_token_id"},
    classes={"seq2seq": read_whole, "none": read_whole},
)
