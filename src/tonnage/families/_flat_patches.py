"""Pix2Struct's tower: flat patches with the number of their row and column (arXiv:2210.03347)."""

from __future__ import annotations

from tonnage.arch.layers import Norm
from tonnage.arch.parts import Part
from tonnage.families._pieces import matrix
from tonnage.families._towers import repeated, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def flat_patches(k: Keys, path: str, F: int, H: int, rows: int) -> tuple[int, tuple[Tensor, ...]]:
    """Width and tensors below ``path``: layers ``F`` wide within, heads of ``H``, so many rows and columns."""
    D, N, pixels = k.need("hidden_size"), k.need("num_attention_heads"), k.need("patch_embed_hidden_size")
    width, heads = ("D", D), ("X", N * H)
    k.skip("dense_act_fn", "dropout_rate", "attention_dropout")
    layer: tuple[Part, ...] = (
        *(matrix(f"attention.{name}", width, heads, "vision", bias=False) for name in ("query", "key", "value")),
        matrix("attention.output", heads, width, "vision", bias=False),
        *(matrix(f"mlp.wi_{index}", width, ("F", F), "vision", bias=False) for index in (0, 1)),
        matrix("mlp.wo", ("F", F), width, "vision", bias=False),
        Norm("pre_mlp_layer_norm", (width,)),
        Norm("pre_attention_layer_norm", (width,)),
    )
    first = tower(
        "vision",
        path,
        matrix("embeddings.patch_projection", ("X", pixels), width, "vision"),
        *(Tensor(f"embeddings.{at}_embedder.weight", (("P", rows), width), "vision") for at in ("row", "column")),
        Norm("layernorm", (width,)),
    )
    return D, first + repeated("vision", f"{path}.encoder.layer", k.need("num_hidden_layers"), *layer)
