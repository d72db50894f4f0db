"""SigLIP 2's tower for images of any shape: a matrix over patches in place of the convolution (arXiv:2502.14786)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.sight.flexible import Flexible, Resized
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._siglip import encoder_layer, pooling
from tonnage.families._towers import side
from tonnage.families.towers import Sight, Tower
from tonnage.keys import Keys


def read(k: Keys, path: str) -> Sight:
    """``Siglip2VisionModel``, with its pooling head where the config has one."""
    D, F, rows = k.need("hidden_size"), k.need("intermediate_size"), k.need("num_patches")
    pixels = k.need("num_channels") * side(k, "patch_size") ** 2
    k.skip("spatial_merge_size")
    made = Flexible(
        patches=matrix(f"{path}.embeddings.patch_embedding", ("X", pixels), ("D", D), "vision"),
        places=Resized(f"{path}.embeddings.position_embedding", rows, D),
        path=f"{path}.encoder.layers",
        layer=encoder_layer(k, D, F, "gelu_pytorch_tanh"),
        count=k.need("num_hidden_layers"),
        behind=layer_norm(f"{path}.post_layernorm", D),
    )
    pools = k.want("vision_use_head", True)
    # The pooling head runs though nobody asks for it.
    return Sight(D, (*made.weights(), *(pooling(path, D, F) if pools else ())), None if pools else made)


_SIZES: Final[dict[str, Any]] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "patch_size": 16,
    "num_patches": 256,
}
_LARGE: Final[dict[str, Any]] = {
    **_SIZES,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "vision_use_head": False,
}

TOWER: Final = Tower(
    read=read,
    defaults={"cosmos3_edge_vision": _LARGE, "siglip2_vision_model": _SIZES},
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/siglip2/"
    "modeling_siglip2.py",
)
