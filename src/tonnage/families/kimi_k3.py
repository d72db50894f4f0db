"""Kimi K3: its language model behind a tower whose attention is wider than its residuals."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.layers import Norm
from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._language import headed, language
from tonnage.families._pieces import matrix
from tonnage.families._towers import convolution, feed_forward, repeated, sizes, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

VISION: Final[dict[str, Any]] = {
    "vt_hidden_size": 1024,
    "vt_intermediate_size": 4096,
    "vt_num_hidden_layers": 27,
    "vt_num_attention_heads": 12,
    "qkv_hidden_size": 1536,
    "patch_size": 14,
    "init_pos_emb_height": 64,
    "init_pos_emb_width": 64,
    "init_pos_emb_time": 4,
}
TOWER: Final = "vision_tower.encoder"


def read(k: Keys) -> Model:
    """Build the model that the released ``KimiK3ForConditionalGeneration`` builds."""
    text = language(k, "language_model.model", "kimi_linear", like="kimi_k3_text").model
    k.skip("image_placeholder", "ignore_index")
    joined, tensors = read_inner(k, "vision_config", VISION, _images)
    D = text.width
    tensors += tower(
        "vision",
        "mm_projector",
        matrix("proj.0", ("X", joined), ("X", joined), "vision", bias=False),
        matrix("proj.2", ("X", joined), ("D", D), "vision", bias=False),
        Norm("post_norm", (("D", D),)),
    )
    tied = k.want("tie_word_embeddings", False)
    return headed(text, tied, extra=tensors).but(model_type="kimi_k3")


def _images(k: Keys) -> tuple[int, tuple[Tensor, ...]]:
    """Elements of the patches that are joined, and tensors of the tower."""
    D, Q, patch = k.need("vt_hidden_size"), k.need("qkv_hidden_size"), k.need("patch_size")
    k.divides("qkv_hidden_size", "vt_num_attention_heads", Q, k.need("vt_num_attention_heads"))
    high, wide = sizes(k, "merge_kernel_size", (2, 2), many=2)
    k.refuse("norm_type", "rmsnorm")
    k.refuse("mlp_type", "mlp2")
    k.refuse("mm_projector_type", "patchmergerv2")
    for key in ("attn_bias", "linear_bias", "patch_embed_proj_bias"):
        k.refuse(key)
    k.skip("activation_func", "merge_type", "mm_hidden_size", "pos_emb_type", "pos_emb_interpolation_mode")
    k.skip("projector_hidden_act", "projector_ln_eps", "text_hidden_size", "video_attn_type")
    places = (("P", k.need("init_pos_emb_height")), ("P", k.need("init_pos_emb_width")), ("D", D))
    times = (("P", k.need("init_pos_emb_time")), ("D", D))
    first = tower(
        "vision",
        "vision_tower",
        *convolution("patch_embed.proj", 3, D, patch, patch, bias=False),
        Tensor("patch_embed.pos_emb.weight", places, "vision"),
        Tensor("patch_embed.pos_emb.time_weight", times, "buffer", dtype="fp32"),
        Norm("encoder.final_layernorm", (("D", D),)),
    )
    layer: tuple[Part, ...] = (
        Norm("norm0", (("D", D),)),
        Norm("norm1", (("D", D),)),
        matrix("wqkv", ("D", D), ("I", 3 * Q), "vision", bias=False),
        matrix("wo", ("I", Q), ("D", D), "vision", bias=False),
        *feed_forward("mlp", D, k.need("vt_intermediate_size"), up="fc0", down="fc1", bias=False),
    )
    return D * high * wide, first + repeated("vision", f"{TOWER}.blocks", k.need("vt_num_hidden_layers"), *layer)


FAMILY: Final = Family(
    read=read,
    source="https://huggingface.co/moonshotai/Kimi-K3/blob/main/modeling_kimi_k3.py",
)
