"""HunyuanOCR: Hunyuan's dense model with positions in several dimensions behind a tower (arXiv:2511.19575)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.layers import Norm
from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.families import Family
from tonnage.families._blocks import decoder, gated, normed_before
from tonnage.families._composite import filled, read_inner
from tonnage.families._hunyuan import hunyuan_attention
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.families._towers import attention as square
from tonnage.families._towers import convolution, feed_forward, repeated, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

TEXT: Final[dict[str, Any]] = {
    "vocab_size": 290943,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
NAMES: Final = {"head_dim": "attention_head_dim", "vocab_size": "org_vocab_size"}
VISION: Final[dict[str, Any]] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
}
PATH: Final = "model.language_model"
TOWER: Final = "model.vision_tower"


def read(k: Keys) -> Model:
    """Build the model that ``HunYuanVLForConditionalGeneration`` builds."""
    # The first release has the keys of the language model beside those around it.
    flat = k.config.get("text_config") is None and k.config.get("hidden_size") is not None
    model = _text(k) if flat else read_inner(k, "text_config", TEXT, _text, aliases=NAMES)
    k.skip("text_config", "im_start_id", "im_end_id", "im_newline_id")
    assert model.head is not None
    tied = k.want("tie_word_embeddings", True) or model.head.alias_of is not None
    tensors = filled(k, "vision_config", VISION, lambda inner: _images(inner, model.width))
    head = model.head.but(alias_of=f"{PATH}.embed_tokens.weight" if tied else None)
    return model.but(model_type="hunyuan_vl", head=head, extra=tensors)


def _text(k: Keys) -> Model:
    D = k.need("hidden_size")
    # A null width of a head is what the class itself falls over.
    token = hunyuan_attention(k, D)
    block = counted("attention with positions in several dimensions", token)
    layer = normed_before(block, gated(k, D), D)
    return decoder(k, D, (layer,) * k.need("num_hidden_layers"), width=token.H, positions=2048, tied=True, path=PATH)


def _images(k: Keys, text: int) -> tuple[Tensor, ...]:
    """Patches, layers of attention, and two convolutions and a matrix that join neighbours."""
    D, patch, merged = k.need("hidden_size"), k.size("patch_size", 16), k.size("spatial_merge_size", 2)
    rows = (k.size("max_image_size", 2048) // patch) ** 2 + 1
    k.divides("hidden_size", "num_attention_heads", D, k.need("num_attention_heads"))
    k.skip("hidden_act", "interpolate_mode", "attention_dropout", "num_key_value_heads", "out_hidden_size")
    k.skip("temporal_patch_size", "img_max_token_num", "min_image_size", "max_vit_seq_len", "text_hidden_size")
    k.skip("hidden_dropout", "anyres_vit_max_image_size", "anyres_vit_two_views", "anyres_pooling_size")
    merger: tuple[Part | Tensor, ...] = (
        Tensor("image_newline", (("D", 4 * D),), "vision"),
        *(Tensor(f"image_{name}", (("D", text),), "vision") for name in ("begin", "end", "sep")),
        *convolution("proj_conv", D, 2 * D, merged, merged),
        *convolution("proj_out", 2 * D, 4 * D, 1, 1),
        matrix("mlp", ("X", 4 * D), ("D", text), "vision"),
        Norm("before_rms", (("D", D),)),
        Norm("after_rms", (("D", text),)),
    )
    layer = (
        layer_norm("layer_norm1", D),
        layer_norm("layer_norm2", D),
        *square("self_attn", D, o="o_proj"),
        *feed_forward("mlp", D, k.need("intermediate_size")),
    )
    return (
        *tower(
            "vision",
            f"{TOWER}.embeddings",
            *convolution("patch_embedding", k.size("num_channels", 3), D, patch, patch),
            Tensor("position_embedding.weight", (("P", rows), ("D", D)), "vision"),
        ),
        *repeated("vision", f"{TOWER}.layers", k.need("num_hidden_layers"), *layer),
        *tower("vision", f"{TOWER}.patch_merger", *merger),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/hunyuan_vl/"
    "modeling_hunyuan_vl.py",
)
