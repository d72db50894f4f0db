"""UDOP: T5 over words, their places on a page and its image, biased by distance in three ways (arXiv:2212.02623)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.errors import UnsupportedError
from tonnage.families import Family, family_of
from tonnage.families._language import unpassed
from tonnage.families._towers import convolution, side
from tonnage.keys import Keys
from tonnage.tensors import Tensor

KINDS: Final = ("1d", "horizontal", "vertical")
FIRST: Final = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"


def read(k: Keys) -> Model:
    """Build ``UdopForConditionalGeneration``, which ties whatever its config says."""
    k.skip("tie_word_embeddings", "max_bbox_length", "output_past")
    model = family_of("t5", file=k.file).read(k)
    D, N = model.width, k.need("num_attention_heads")
    rows, biases = k.size("max_2d_position_embeddings", 1024), _biases(k)
    patch = side(k, "patch_size") if "patch_size" in k.config else k.size("patch_size", 16)
    k.skip("image_size", "is_encoder_decoder")
    patches = convolution("patch_embed.proj", k.size("num_channels", 3), D, patch, patch)
    found = list(patches)
    found += [
        Tensor(f"encoder.cell_2d_embedding.{at}_position_embeddings.weight", (("P", rows), ("D", D)), "position")
        for at in "xy"
    ]
    for stack in ("encoder", "decoder"):
        if stack == "encoder":
            found += [
                Tensor(f"encoder.embed_patches.{t.name.removeprefix('patch_embed.')}", t.axes, t.role, alias_of=t.name)
                for t in patches
            ]
        else:
            found += [t.renamed(f"decoder.embed_patches.{t.name.removeprefix('patch_embed.')}") for t in patches]
        for index, stated in enumerate(biases):
            name = f"{stack}.relative_bias.biases.{index}.relative_attention_bias.weight"
            # The first is the encoder's own table, and as long.
            alias = FIRST if index == 0 else None
            buckets = k.size("relative_attention_num_buckets", 32) if index == 0 else stated
            found.append(Tensor(name, (("X", buckets), ("N", N)), "position", alias_of=alias))
    head = model.head
    assert head is not None
    model = model.but(model_type="udop", head=head.but(alias_of="shared.weight"), extra=(*model.extra, *found))
    return unpassed(model, "UDOP, whose scores are biased by places on a page")


def _biases(k: Keys) -> list[int]:
    """Rows of the tables of distances."""
    stated: list[Any] | None = k.optional("relative_bias_args", list)
    found: list[int] = []
    for one in [{"type": kind} for kind in KINDS] if stated is None else stated:
        if not isinstance(one, dict) or one.get("type") not in KINDS or set(one) - {"type"}:
            raise UnsupportedError(
                f"relative_bias_args: {one!r} is not modelled", key="relative_bias_args", value=one, file=k.file
            )
        found.append(32)
    return found


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/udop/modeling_udop.py",
    attributes={"hidden_size": "d_model", "num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"},
)
