"""What models that write down speech share: a decoder that reads an encoder, wav2vec 2.0's way from waves to frames."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Stem
from tonnage.arch.layers import Norm
from tonnage.arch.model import Block, Layer, Stack, Sublayer
from tonnage.arch.parts import Part
from tonnage.errors import ConfigError
from tonnage.families._hybrid import whole_numbers
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import convolution
from tonnage.keys import Keys
from tonnage.tensors import Tensor

PATH: Final = "model.decoder"


def reader(k: Keys, own: GroupedQuery, mlp: Block, layers: int, *, bias: bool, stem: Stem, path: str = PATH) -> Stack:
    """A decoder of Moonshine's and Canary's kind: norms before attention, cross attention and the feed-forward block.

    Args:
        k: the config.
        own: self-attention; cross attention is the same without positions.
        mlp: the feed-forward block.
        layers: how many.
        bias: whether norms have one.
        stem: what feeds it.
        path: of the module.
    """
    D = own.D
    cross = own.but(name="encoder_attn", causal=False, cross=True, rotary=None)
    names = ("input_layernorm", "post_attention_layernorm", "final_layernorm")
    norms: tuple[Norm, ...] = tuple(layer_norm(name, D, bias=bias) for name in names)
    subs = tuple(Sublayer(block=b, before=norm) for b, norm in zip((own, cross, mlp), norms, strict=True))
    return Stack(
        name="decoder",
        path=f"{path}.layers",
        stem=stem,
        layers=(Layer(sublayers=subs),) * layers,
        norm=layer_norm(f"{path}.norm", D, bias=bias),
    )


FRAMES: Final[dict[str, Any]] = {
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
}
"""Defaults of wav2vec 2.0's convolutions (arXiv:2006.11477)."""


def frames(k: Keys, encoder: str) -> tuple[int, tuple[Part | Tensor, ...]]:
    """Channels and tensors of the convolutions over the wave, in the module ``encoder``."""
    channels, kernels, steps = (whole_numbers(k, key) or FRAMES[key] for key in FRAMES)
    if not len(channels) == len(kernels) == len(steps) or not channels:
        raise ConfigError(
            f"{k.path}conv_dim, conv_kernel and conv_stride differ in length", key=f"{k.path}conv_dim", file=k.file
        )
    kind, bias = k.want("feat_extract_norm", "group"), k.want("conv_bias", False)
    if kind not in ("group", "layer"):
        key = f"{k.path}feat_extract_norm"
        raise ConfigError(f"{key} = {kind!r} is neither group nor layer", key=key, value=kind, file=k.file)
    k.skip("num_feat_extract_layers", "feat_extract_activation")
    parts: list[Part | Tensor] = []
    for index, (outs, C) in enumerate(zip(channels, kernels, strict=True)):
        path = f"{encoder}.conv_layers.{index}"
        parts += convolution(f"{path}.conv", channels[index - 1] if index else 1, outs, C, bias=bias)
        if kind == "layer" or not index:
            parts.append(layer_norm(f"{path}.layer_norm", outs))
    return channels[-1], tuple(parts)


def projected(ins: int, D: int) -> tuple[Part, ...]:
    """Frames of ``ins`` channels to the width of the layers."""
    path = "feature_projection"
    return layer_norm(f"{path}.layer_norm", ins), matrix(f"{path}.projection", ("X", ins), ("D", D), "audio")


def masked(k: Keys, D: int) -> tuple[Tensor, ...]:
    """What stands for a masked frame, where any is masked."""
    shares = k.want("mask_time_prob", 0.05), k.want("mask_feature_prob", 0.0)
    k.skip("apply_spec_augment", "mask_time_length", "mask_time_min_masks")
    k.skip("mask_feature_length", "mask_feature_min_masks")
    return (Tensor("masked_spec_embed", (("D", D),), "audio"),) if max(shares) > 0 else ()


def relative(k: Keys, path: str, D: int) -> tuple[Tensor, ...]:
    """A convolution for positions, whose weight is a direction and a length (weight normalisation)."""
    C, groups = k.size("num_conv_pos_embeddings", 128), k.size("num_conv_pos_embedding_groups", 16)
    within = k.divides("hidden_size", "num_conv_pos_embedding_groups", D, groups)
    return (
        Tensor(f"{path}.bias", (("D", D),), "audio"),
        Tensor(f"{path}.parametrizations.weight.original0", (("X", 1), ("X", 1), ("C", C)), "audio"),
        Tensor(f"{path}.parametrizations.weight.original1", (("D", D), ("X", within), ("C", C)), "audio"),
    )
