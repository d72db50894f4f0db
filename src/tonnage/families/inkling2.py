"""Inkling 2: its language model behind a tower whose neighbouring patches are merged."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.layers import Rotary
from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._language import headed, language
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import attention, feed_forward, repeated, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

VISION: Final[dict[str, Any]] = {
    "hidden_size": 1024,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "num_channels": 3,
    "patch_size": 20,
    "spatial_merge_size": 2,
    "posemb_grid_size": 32,
    "projection_hidden_dim": 4096,
    "text_hidden_size": 4608,
}
TEXT: Final[dict[str, Any]] = {
    "hidden_size": 4608,
    "num_hidden_layers": 48,
    "num_attention_heads": 48,
    "vocab_size": 201024,
}
TOWER: Final = "model.vision_tower"


def read(k: Keys) -> Model:
    """Build ``Inkling2ForConditionalGeneration``."""
    text = language(k, "model.language_model", "inkling2_text", fixed=True, always=TEXT)
    names = {"patch_size": "native_patch_size", "spatial_merge_size": "adapter_merge_size"}
    tensors = read_inner(k, "vision_config", VISION, _vision, aliases=names, less=("model_type",))
    k.skip("tie_word_embeddings")
    return headed(text.model, False, extra=tensors)


def _vision(k: Keys) -> tuple[Tensor, ...]:
    D, N = k.need("hidden_size"), k.need("num_attention_heads")
    H = k.divides("hidden_size", "num_attention_heads", D, N)
    F = k.optional("intermediate_size") or int(D * k.want("mlp_ratio", 4.0))
    bias, inner, width = k.want("projector_bias", False), k.need("projection_hidden_dim"), ("D", D)
    pixels, rows = k.need("num_channels") * k.need("patch_size") ** 2, k.need("posemb_grid_size") ** 2
    k.skip("hidden_act", "attention_dropout", "layer_scale_init_value", "mlp_ratio")
    layer: tuple[Part | Tensor, ...] = (
        *(Tensor(f"lambda_{index}", (width,), "vision") for index in (1, 2)),
        *attention("self_attn", D),
        *feed_forward("mlp", D, F),
        layer_norm("layernorm_before", D),
        layer_norm("layernorm_after", D),
    )
    merged = ("X", D * k.need("spatial_merge_size") ** 2)
    first = tower(
        "vision",
        TOWER,
        *(Tensor(f"embeddings.{name}_embedding", (width,), "vision") for name in ("class", "cls_position")),
        matrix("embeddings.patch_embedding", ("X", pixels), width, "vision", bias=False),
        Tensor("embeddings.position_embedding.weight", (("P", rows), width), "vision"),
        layer_norm("pre_layernorm", D),
        matrix("merger.linear_1", merged, ("F", inner), "vision", bias=bias),
        matrix("merger.linear_2", ("F", inner), ("X", k.need("text_hidden_size")), "vision", bias=bias),
        Rotary("rotary_emb", H // 2),
    )
    return first + repeated("vision", f"{TOWER}.layers", k.need("num_hidden_layers"), *layer)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/inkling2/"
    "modeling_inkling2.py",
)
