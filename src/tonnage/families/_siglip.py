"""SigLIP's tower, as models of images and text nest it (arXiv:2303.15343)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Plain
from tonnage.arch.model import Layer, Sublayer
from tonnage.arch.sight.towers import Patches, Places, Upright
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import feed_forward, side, tower
from tonnage.families.towers import Sight
from tonnage.keys import Keys
from tonnage.tensors import Tensor

SIGLIP: Final[dict[str, Any]] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "vision_use_head": True,
}
"""Defaults of ``SiglipVisionConfig``."""


def siglip(k: Keys, path: str) -> Sight:
    """``SiglipVisionModel`` below ``path``, with its pooling head where the config has one."""
    D, F, patch = k.need("hidden_size"), k.need("intermediate_size"), side(k, "patch_size")
    image = side(k, "image_size")
    rows = (image // patch) ** 2
    k.skip("layer_norm_eps")
    made = Upright(
        patches=Patches(f"{path}.embeddings.patch_embedding", k.need("num_channels"), D, patch),
        places=Places(f"{path}.embeddings.position_embedding", rows, D),
        path=f"{path}.encoder.layers",
        layer=encoder_layer(k, D, F, "gelu_pytorch_tanh"),
        count=k.need("num_hidden_layers"),
        behind=layer_norm(f"{path}.post_layernorm", D),
        image=image,
    )
    indices = Tensor(f"{path}.embeddings.position_ids", (("X", 1), ("P", rows)), "buffer", dtype="int64")
    pools = k.want("vision_use_head", True)
    tensors = (*made.weights(indices), *(pooling(path, D, F) if pools else ()))
    # The pooling head runs though nobody asks for it.
    return Sight(D, tensors, None if pools else made)


def encoder_layer(k: Keys, D: int, F: int, act: str) -> Layer:
    """A layer of CLIP's or SigLIP's tower, with their default activation function."""
    N = k.need("num_attention_heads")
    attention = GroupedQuery(
        name="self_attn", D=D, N=N, K=N, H=k.divides("hidden_size", "num_attention_heads", D, N), o="out_proj",
        bias=True, o_bias=True, rotary=None, causal=False, dropout=k.optional("attention_dropout", float, 0.0) or 0.0,
    )  # fmt: skip
    mlp = Plain(name="mlp", D=D, F=F, act=k.optional("hidden_act", str, act) or act)
    return Layer(
        sublayers=tuple(
            Sublayer(block=block, before=layer_norm(f"layer_norm{n}", D)) for n, block in ((1, attention), (2, mlp))
        )
    )


def pooling(path: str, D: int, F: int) -> tuple[Tensor, ...]:
    """One learned query that attends to all patches."""
    return tower(
        "vision",
        f"{path}.head",
        Tensor("probe", (("X", 1), ("T", 1), ("D", D)), "vision"),
        Tensor("attention.in_proj_weight", (("X", 3), ("D", D), ("D", D)), "vision", (2, 1)),
        Tensor("attention.in_proj_bias", (("X", 3), ("D", D)), "vision", (2,)),
        matrix("attention.out_proj", ("D", D), ("D", D), "vision"),
        layer_norm("layernorm", D),
        *feed_forward("mlp", D, F),
    )
