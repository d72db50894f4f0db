"""LayoutLMv3: an encoder of tokens, of where on their page they stand, and of its patches (arXiv:2204.08387)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Table
from tonnage.arch.model import Model
from tonnage.errors import UnsupportedError
from tonnage.families import Family
from tonnage.families._encoder import attention, classifier, encoder, only_encoder, places, stem, unrun
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import convolution, side, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

BASE: Final = "layoutlmv3"


def read(k: Keys) -> Model:
    """Build the model that ``LayoutLMv3Model`` builds."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 512)
    only_encoder(k)
    k.skip("max_rel_pos", "max_rel_2d_pos", "position_embedding_type", "second_input_size")
    if not k.want("text_embed", True):
        raise UnsupportedError(
            "text_embed = False: a model without text is not modelled", key="text_embed", value=False
        )
    rows, across, down = (
        k.size("max_2d_position_embeddings", 1024),
        k.size("coordinate_size", 128),
        k.size("shape_size", 128),
    )
    sides = tuple(
        Table(name=f"{BASE}.embeddings.{x}_position_embeddings", rows=rows, width=across if x in "xy" else down)
        for x in "xyhw"
    )
    near, spatial = k.want("has_relative_attention_bias", True), k.want("has_spatial_attention_bias", True)
    bins = {"rel_pos_bias": k.size("rel_pos_bins", 32)} if near else {}
    wide = k.size("rel_2d_pos_bins", 64)
    bins |= {f"rel_pos_{x}_bias": wide for x in "xy"} if spatial else {}
    k.skip("rel_pos_bins")
    biases = (matrix(f"{BASE}.encoder.{x}", ("X", n), ("N", N), "position", bias=False) for x, n in bins.items())
    return encoder(
        k,
        BASE,
        stem(k, BASE, D, P=P, type_ids=False, extra=sides),
        (unrun(k, D, "a model of pages", attention(k, D, N)),) * k.need("num_hidden_layers"),
        None,
        positions=places(k, P),
        classifier=classifier(D),
        extra=(*(t for bias in biases for t in bias.weights()), *_patches(k, D, boxes=near or spatial)),
    )


def _patches(k: Keys, D: int, *, boxes: bool) -> tuple[Tensor, ...]:
    """Patches, their positions, and where on the page they stand, for biases of attention."""
    size, patch, channels = (
        k.size("input_size", 224),
        side(k, "patch_size") if "patch_size" in k.config else 16,
        k.size("num_channels", 3),
    )
    if not k.want("visual_embed", True):
        return ()
    rows, width = (size // patch) ** 2 + 1, ("D", D)
    found: tuple[Tensor, ...] = tower(
        "vision",
        BASE,
        *convolution("patch_embed.proj", channels, D, patch, patch),
        Tensor("cls_token", (("X", 1), ("B", 1), width), "vision"),
        Tensor("pos_embed", (("X", 1), ("P", rows), width), "vision"),
        layer_norm("LayerNorm", D),
        layer_norm("norm", D),
    )
    box = Tensor(f"{BASE}.visual_bbox", (("P", rows), ("X", 4)), "buffer", dtype="int64")
    return (*found, box) if boxes else found


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/layoutlmv3/"
    "modeling_layoutlmv3.py",
)
