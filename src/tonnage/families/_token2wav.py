"""How Qwen2.5-Omni makes sound of its talker's codes: a diffusion transformer and BigVGAN (arXiv:2503.20215)."""

from __future__ import annotations

from tonnage.arch.layers import Rotary
from tonnage.arch.parts import Part
from tonnage.errors import ConfigError
from tonnage.families._composite import filled
from tonnage.families._omni import snake, upward
from tonnage.families._pieces import matrix
from tonnage.families._towers import convolution, repeated, sizes, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

Tensors = tuple[Tensor, ...]
CODES = 256
"""Elements that a diffusion step is told by."""
TAPS = 12
"""Width of the filters around an activation function."""


def token2wav(k: Keys, path: str) -> Tensors:
    """``Qwen2_5OmniToken2WavModel``."""
    return (
        *filled(k, "dit_config", {}, lambda inner: _diffusion(inner, f"{path}.code2wav_dit_model")),
        *filled(k, "bigvgan_config", {}, lambda inner: _vocoder(inner, f"{path}.code2wav_bigvgan_model")),
    )


def _linear(name: str, ins: int, outs: int) -> Part:
    return matrix(name, ("X", ins), ("D", outs), "audio")


def _diffusion(k: Keys, path: str) -> Tensors:
    D, N, H = k.size("hidden_size", 1024), k.size("num_attention_heads", 16), k.size("head_dim", 64)
    F, bins, codes = D * k.size("ff_mult", 2), k.size("mel_dim", 80), k.size("emb_dim", 512)
    speaker, out = k.size("enc_emb_dim", 192), k.size("enc_dim", 128)
    k.skip("max_position_embeddings", "block_size", "look_ahead_layers", "look_backward_layers", "repeats", "dropout")
    k.skip("enc_dilations", "num_mel_bins")
    first = tower(
        "audio",
        path,
        _linear("time_embed.time_mlp.0", CODES, D),
        _linear("time_embed.time_mlp.2", D, D),
        Tensor("text_embed.codec_embed.weight", (("V", k.size("num_embeds", 8193) + 1), ("D", codes)), "audio"),
        _linear("input_embed.proj", bins + out + speaker + codes, D),
        Rotary("rotary_embed", H),
        _linear("norm_out.linear", D, 2 * D),
        _linear("proj_out", D, bins),
    )
    layer = (
        _linear("attn_norm.linear", D, 6 * D),
        *(_linear(f"attn.to_{name}", D, N * H) for name in "qkv"),
        _linear("attn.to_out.0", N * H, D),
        _linear("ff.ff.0", D, F),
        _linear("ff.ff.3", F, D),
    )
    layers = repeated("audio", f"{path}.transformer_blocks", k.size("num_hidden_layers", 22), *layer)
    return first + layers + _speaker(k, f"{path}.input_embed.spk_encoder", bins, out)


def _speaker(k: Keys, path: str, bins: int, out: int) -> Tensors:
    """ECAPA-TDNN, which tells a voice (arXiv:2005.07143)."""
    channels = sizes(k, "enc_channels", (256, 256, 256, 256, 768))
    kernels = sizes(k, "enc_kernel_sizes", (5, 3, 3, 3, 1))
    if len(channels) != len(kernels):
        raise ConfigError(f"{k.path}enc_channels and {k.path}enc_kernel_sizes differ in length", key="enc_channels")
    scale, squeezed = k.size("enc_res2net_scale", 2), k.size("enc_se_channels", 64)
    attended, last = k.size("enc_attention_channels", 64), channels[-1]
    parts = [*convolution("blocks.0.conv", bins, channels[0], kernels[0])]
    for index in range(1, len(channels) - 1):
        ins, outs, name = channels[index - 1], channels[index], f"blocks.{index}"
        inner = outs // scale
        parts += convolution(f"{name}.tdnn1.conv", ins, outs, 1)
        for part in range(scale - 1):
            parts += convolution(f"{name}.res2net_block.blocks.{part}.conv", inner, inner, kernels[index])
        parts += convolution(f"{name}.tdnn2.conv", outs, outs, 1)
        parts += convolution(f"{name}.se_block.conv1", outs, squeezed, 1)
        parts += convolution(f"{name}.se_block.conv2", squeezed, outs, 1)
    parts += convolution("mfa.conv", last, last, kernels[-1])
    parts += convolution("asp.tdnn.conv", 3 * last, attended, 1)
    parts += convolution("asp.conv", attended, last, 1)
    parts += convolution("fc", 2 * last, out, 1)
    return tower("audio", path, *parts)


def _filtered(name: str, channels: int) -> Tensors:
    """An activation function between filters that double and halve the rate."""
    taps = (("X", 1), ("X", 1), ("C", TAPS))
    return (
        *snake(f"{name}.act", channels),
        *(Tensor(f"{name}.{part}.filter", taps, "buffer", dtype="fp32") for part in ("upsample", "downsample")),
    )


def _vocoder(k: Keys, path: str) -> Tensors:
    """BigVGAN (arXiv:2206.04658)."""
    C, bins = k.size("upsample_initial_channel", 1536), k.size("mel_dim", 80)
    widths = sizes(k, "resblock_kernel_sizes", (3, 7, 11))
    rates = sizes(k, "upsample_rates", (5, 3, 2, 2, 2, 2))
    kernels = sizes(k, "upsample_kernel_sizes", (11, 7, 4, 4, 4, 4))
    # A block has three convolutions whatever their spread.
    spread = k.optional("resblock_dilation_sizes", list)
    widths = widths if spread is None else widths[: len(spread)]
    parts = [*convolution("conv_pre", bins, C, 7)]
    for index, (_, kernel) in enumerate(zip(rates, kernels, strict=False)):
        parts += upward(f"ups.{index}.0", C >> index, C >> (index + 1), kernel)
    for index in range(len(rates)):
        outs = C >> (index + 1)
        for place, width in enumerate(widths):
            name = f"resblocks.{index * len(widths) + place}"
            for part in range(3):
                parts += convolution(f"{name}.convs1.{part}", outs, outs, width)
                parts += convolution(f"{name}.convs2.{part}", outs, outs, width)
            for part in range(6):
                parts += _filtered(f"{name}.activations.{part}", outs)
    last = C >> len(rates)
    parts += _filtered("activation_post", last)
    parts += convolution("conv_post", last, 1, 7, bias=False)
    return tower("audio", path, *parts)
