"""Parakeet's encoder: a conformer behind convolutions that lower the rate (arXiv:2305.05084)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.parts import Part
from tonnage.errors import ConfigError
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import batch_norm, convolution, repeated, tower
from tonnage.families.towers import Tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

NORMS: Final = ("norm_feed_forward1", "norm_self_att", "norm_conv", "norm_feed_forward2", "norm_out")


def read(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """``ParakeetEncoder``."""
    D, F, N = k.need("hidden_size"), k.need("intermediate_size"), k.need("num_attention_heads")
    H = k.divides("hidden_size", "num_attention_heads", D, N)
    bias, biased = k.want("attention_bias", True), k.want("convolution_bias", True)
    k.skip("hidden_act", "dropout", "dropout_positions", "layerdrop", "activation_dropout", "attention_dropout")
    k.skip("max_position_embeddings", "scale_input", "num_key_value_heads")
    width, inner, kernel = ("D", D), ("F", F), k.size("conv_kernel_size", 9)
    parts: list[Part | Tensor] = []
    for name in ("feed_forward1", "feed_forward2"):
        parts.append(matrix(f"{name}.linear1", width, inner, "audio", bias=bias))
        parts.append(matrix(f"{name}.linear2", inner, width, "audio", bias=bias))
    parts += [matrix(f"self_attn.{x}_proj", width, width, "audio", bias=bias) for x in "qkvo"]
    parts.append(matrix("self_attn.relative_k_proj", width, width, "audio", bias=False))
    parts += [Tensor(f"self_attn.bias_{x}", (("N", N), ("H", H)), "audio") for x in "uv"]
    layer = (
        *parts,
        *convolution("conv.pointwise_conv1", D, 2 * D, 1, bias=biased),
        *convolution("conv.depthwise_conv", 1, D, kernel, bias=biased),
        *batch_norm("conv.norm", D),
        *convolution("conv.pointwise_conv2", D, D, 1, bias=biased),
        *(layer_norm(name, D) for name in NORMS),
    )
    first = tower(
        "audio",
        path,
        *_subsampling(k, D),
        Tensor("encode_positions.inv_freq", (("X", D // 2),), "buffer", dtype="fp32"),
    )
    return D, first + repeated("audio", f"{path}.layers", k.need("num_hidden_layers"), *layer)


def _subsampling(k: Keys, D: int) -> tuple[Part | Tensor, ...]:
    factor, C, kernel = k.size("subsampling_factor", 8), k.size("subsampling_conv_channels", 256), 3
    kernel, step = k.size("subsampling_conv_kernel_size", kernel), k.size("subsampling_conv_stride", 2)
    times, bins = factor.bit_length() - 1, k.size("num_mel_bins", 80)
    if times < 1:
        key = f"{k.path}subsampling_factor"
        raise ConfigError(f"{key} = {factor} does not lower the rate", key=key, value=factor, file=k.file)
    parts: list[Part | Tensor] = [*convolution("subsampling.layers.0", 1, C, kernel, kernel)]
    for index in range(times - 1):
        parts += convolution(f"subsampling.layers.{2 + 3 * index}", 1, C, kernel, kernel)
        parts += convolution(f"subsampling.layers.{3 + 3 * index}", C, C, 1, 1)
    left = bins // step**times
    return (*parts, matrix("subsampling.linear", ("X", C * left), ("D", D), "audio"))


TOWER: Final = Tower(
    read=read,
    defaults={
        "parakeet_encoder": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 8,
        }
    },
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/parakeet/"
    "modeling_parakeet.py",
)
