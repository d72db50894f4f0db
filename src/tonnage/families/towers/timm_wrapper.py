"""Towers that timm builds: FastViT (FastVLM, arXiv:2412.13303) and the Perception Encoder (arXiv:2504.13181).

Reference: https://github.com/huggingface/pytorch-image-models/blob/v1.0.31/timm/models, ``fastvit.py`` and ``eva.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from tonnage.arch.parts import Part
from tonnage.errors import ConfigError, UnsupportedError, nearest
from tonnage.families._composite import read_inner
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import batch_norm, convolution, feed_forward, repeated, sizes, tower
from tonnage.families.towers import Tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor


class Perception(NamedTuple):
    """A Perception Encoder: patch, widths, layers and heads, side of its images, a vector of its own before them."""

    patch: int
    D: int
    F: int
    layers: int
    heads: int
    image: int
    token: bool = True


PERCEPTION: Final = {
    "vit_pe_core_tiny_patch16_384": Perception(16, 192, 768, 12, 3, 384),
    "vit_pe_core_small_patch16_384": Perception(16, 384, 1536, 12, 6, 384),
    "vit_pe_core_base_patch16_224": Perception(16, 768, 3072, 12, 12, 224),
    "vit_pe_core_large_patch14_336": Perception(14, 1024, 4096, 24, 16, 336),
    "vit_pe_core_gigantic_patch14_448": Perception(14, 1536, 8960, 50, 16, 448, token=False),
}
FASTVIT: Final = {
    "fastvit_mci3": ((96, 2), (192, 12), (384, 24), (768, 4), (1536, 2)),
    "fastvit_mci4": ((128, 2), (256, 12), (512, 24), (1024, 4), (2048, 4)),
}
"""Width and blocks of every stage; the last two attend."""


def read(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """``TimmWrapperModel``, whose model timm builds by its name."""
    name, path = k.need("architecture", str), f"{path}.timm_model"
    k.skip("do_pooling", "num_classes", "label_names", "pretrained_cfg", "global_pool")
    if name in FASTVIT:
        read_inner(k, "model_args", {}, _inferring)
        return k.need("hidden_size"), tuple(_fastvit(path, FASTVIT[name]))
    if name in PERCEPTION:
        k.skip("hidden_size")
        return read_inner(k, "model_args", {}, lambda inner: _perception(inner, path, PERCEPTION[name]))
    known = (*FASTVIT, *PERCEPTION)
    raise UnsupportedError(
        f"timm's {name} is not modelled yet",
        key=f"{k.path}architecture",
        value=name,
        file=k.file,
        nearest=nearest(name, known),
    )


def _inferring(k: Keys) -> None:
    if not k.want("inference_mode", False):
        key = f"{k.path}inference_mode"
        raise UnsupportedError(f"{key} = False: branches of training are not modelled", key=key, value=False)


def _perception(k: Keys, path: str, known: Perception) -> tuple[int, tuple[Tensor, ...]]:
    """Layers over patches with a scale behind each block; without the pooling of a classifier."""
    # The class around reads the width here.
    D, L, N = k.need("embed_dim"), k.size("depth", known.layers), k.size("num_heads", known.heads)
    F, H = int(D * (known.F / known.D)), k.divides("embed_dim", "num_heads", D, N)
    if k.want("global_pool", "map") != "":
        key = f"{k.path}global_pool"
        raise UnsupportedError(f"{key}: only '' is modelled", key=key, value=k.config.get("global_pool"), file=k.file)
    rows, columns = _square(k, "img_size", known.image), _square(k, "ref_feat_shape", 1)
    if rows % known.patch or not columns:
        key = f"{k.path}img_size"
        raise ConfigError(f"{key}: {known.patch} does not divide {rows}", key=key, value=rows, file=k.file)
    patches, width = (rows // known.patch) ** 2, ("D", D)
    token, scaled = k.want("class_token", known.token), k.optional("init_values", float)
    found: list[Part | Tensor] = [
        Tensor("pos_embed", (("X", 1), ("P", patches + token), width), "vision"),
        *convolution("patch_embed.proj", 3, D, known.patch, known.patch, bias=False),
        layer_norm("norm_pre", D),
        Tensor("rope.bands", (("X", H // 4),), "buffer", dtype="fp32"),
        Tensor("rope.pos_embed", (("P", patches), ("X", 2 * H)), "buffer"),
    ]
    if token:
        found.append(Tensor("cls_token", (("X", 1), ("B", 1), width), "vision"))
    if k.want("use_post_transformer_norm", True):
        found.append(layer_norm("norm", D))
    layer = (
        *((Tensor(f"gamma_{i}", (width,), "vision") for i in (1, 2)) if scaled else ()),
        layer_norm("norm1", D),
        matrix("attn.qkv", width, ("D", 3 * D), "vision"),
        matrix("attn.proj", width, width, "vision"),
        layer_norm("norm2", D),
        *feed_forward("mlp", D, F),
    )
    return D, (*tower("vision", path, *found), *repeated("vision", f"{path}.blocks", L, *layer))


def _square(k: Keys, key: str, default: int) -> int:
    """One number, or two equal ones."""
    if isinstance(k.config.get(key), list):
        found = sizes(k, key, (default,))
        if len(set(found)) == 1:
            return found[0]
        name = k.path + key
        raise ConfigError(f"{name} = {list(found)} is not square", key=name, value=list(found), file=k.file)
    return k.size(key, default)


def _fastvit(path: str, stages: tuple[tuple[int, int], ...]) -> Iterator[Tensor]:
    """FastViT with its branches joined, as it is run."""
    D = stages[0][0]
    yield from tower(
        "vision",
        f"{path}.stem",
        *convolution("0.reparam_conv", 3, D, 3, 3),
        *convolution("1.reparam_conv", 1, D, 3, 3),
        *convolution("2.reparam_conv", D, D, 1, 1),
    )
    for index, (C, blocks) in enumerate(stages):
        below, attends = f"{path}.stages.{index}", index > 2
        if index:
            yield from tower(
                "vision",
                f"{below}.downsample.proj",
                *convolution("0.reparam_conv", 1, C, 7, 7),
                *convolution("1.reparam_conv", C, C, 1, 1),
            )
        if attends:
            yield from tower("vision", below, *convolution("pos_emb.reparam_conv", 1, C, 7, 7))
        yield from repeated("vision", f"{below}.blocks", blocks, *_block(C, attends))
    last, squeezed = 2 * stages[-1][0], 2 * stages[-1][0] // 16
    yield from tower(
        "vision",
        f"{path}.final_conv",
        *convolution("se.fc1", last, squeezed, 1, 1),
        *convolution("se.fc2", squeezed, last, 1, 1),
        *convolution("reparam_conv", 1, last, 3, 3),
    )


def _block(C: int, attends: bool) -> tuple[Part | Tensor, ...]:
    """Attention or a convolution of every channel, then a feed-forward behind another one."""
    sides = ("D", C)
    mixer: tuple[Part | Tensor, ...] = (
        (
            layer_norm("norm", C),
            matrix("token_mixer.qkv", sides, ("D", 3 * C), "vision", bias=False),
            matrix("token_mixer.proj", sides, sides, "vision"),
        )
        if attends
        else convolution("token_mixer.reparam_conv", 1, C, 3, 3)
    )
    scales = ("layer_scale_1", "layer_scale_2") if attends else ("layer_scale",)
    return (
        *mixer,
        *convolution("mlp.conv.conv", 1, C, 7, 7, bias=False),
        *batch_norm("mlp.conv.bn", C),
        *convolution("mlp.fc1", C, 4 * C, 1, 1),
        *convolution("mlp.fc2", 4 * C, C, 1, 1),
        *(Tensor(f"{name}.gamma", (sides, ("X", 1), ("X", 1)), "vision") for name in scales),
    )


TOWER: Final = Tower(
    read=read,
    defaults={"timm_wrapper": {}},
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/timm_wrapper/"
    "modeling_timm_wrapper.py",
)
