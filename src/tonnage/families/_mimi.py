"""Mimi, a codec of sound: convolutions and layers of attention on both sides of codebooks (arXiv:2410.00037).

Its codebooks are buffers: training by gradients does not change them.
"""

from __future__ import annotations

from math import ceil, prod

from tonnage.arch.layers import Rotary
from tonnage.arch.parts import Part
from tonnage.families._blocks import attention
from tonnage.families._omni import upward
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import convolution, repeated, sizes, tower
from tonnage.keys import Keys
from tonnage.record import Record
from tonnage.tensors import Tensor

Tensors = tuple[Tensor, ...]


class _Net(Record):
    """What both sides share.

    Args:
        filters: channels next to the sound.
        ratios: by which the decoder raises the rate, one after the other.
        blocks: residual blocks at every rate.
        kernel: of the first convolution.
        last: of the last one.
        inner: of a residual block.
        compress: how many times narrower it is inside.
        shortcut: its input goes through a convolution as well.
    """

    filters: int
    ratios: tuple[int, ...]
    blocks: int
    kernel: int
    last: int
    inner: int
    compress: int
    shortcut: bool


def mimi(k: Keys, path: str) -> Tensors:
    """``MimiModel`` below ``path``."""
    D, sound = k.size("hidden_size", 512), k.size("audio_channels", 1)
    net = _Net(
        filters=k.size("num_filters", 64),
        ratios=sizes(k, "upsampling_ratios", (8, 6, 5, 4)),
        blocks=k.size("num_residual_layers", 1),
        kernel=k.size("kernel_size", 7),
        last=k.size("last_kernel_size", 3),
        inner=k.size("residual_kernel_size", 3),
        compress=k.size("compress", 2),
        shortcut=k.want("use_conv_shortcut", False),
    )
    step, groups = _step(k, net.ratios), k.size("upsample_groups", 512)
    layers = _layers(k, D)
    k.skip("dilation_growth_rate", "use_causal_conv", "pad_mode", "trim_right_ratio", "sliding_window", "use_streaming")
    k.skip("layer_scale_initial_scale", "max_position_embeddings", "attention_dropout", "tie_word_embeddings")
    found = _quantizer(k, f"{path}.quantizer", D)
    if _whole(k, "encoder_config"):
        ends = (*_kept("downsample", D, D, 2 * step, bias=False),) if step > 1 else ()
        found += tower("audio", f"{path}.encoder", *_encoder(net, D, sound), *ends)
        found += layers(f"{path}.encoder.encoder_transformer")
    if _whole(k, "decoder_config"):
        width = (("D", D), ("X", D // groups), ("C", 2 * step))
        ends = (Tensor("upsample.conv.weight", width, "audio"),) if step > 1 else ()
        found += tower("audio", f"{path}.decoder", *_decoder(net, D, sound), *ends)
        found += layers(f"{path}.decoder.decoder_transformer")
    return found


def _whole(k: Keys, key: str) -> bool:
    """Whether a half is there: a null leaves it out."""
    k.skip(key)
    return k.config.get(key, key) is not None


def _step(k: Keys, ratios: tuple[int, ...]) -> int:
    """Frames that the codebooks see as one."""
    rate = ceil(k.size("sampling_rate", 24000) / prod(ratios))
    told = k.optional("frame_rate", float)
    return 2 if told is None else int(rate / told)


def _kept(name: str, ins: int, outs: int, kernel: int, *, bias: bool = True) -> Tensors:
    """A convolution that keeps its step, reach and padding as buffers."""
    numbers = ("stride", "kernel_size", "padding_total")
    return (
        *convolution(f"{name}.conv", ins, outs, kernel, bias=bias),
        *(Tensor(f"{name}.{part}", (), "buffer", dtype="int64") for part in numbers),
    )


def _residual(name: str, net: _Net, C: int) -> Tensors:
    inner = C // net.compress
    return (
        *_kept(f"{name}.block.1", C, inner, net.inner),
        *_kept(f"{name}.block.3", inner, C, 1),
        *(_kept(f"{name}.shortcut", C, C, 1) if net.shortcut else ()),
    )


def _encoder(net: _Net, D: int, sound: int) -> Tensors:
    path, index, C = "encoder_seanet.layers", 1, net.filters
    parts = [*_kept(f"{path}.0", sound, C, net.kernel)]
    for ratio in reversed(net.ratios):
        for _ in range(net.blocks):
            parts += _residual(f"{path}.{index}", net, C)
            index += 1
        parts += _kept(f"{path}.{index + 1}", C, 2 * C, 2 * ratio)
        index, C = index + 2, 2 * C
    return (*parts, *_kept(f"{path}.{index + 1}", C, D, net.last))


def _decoder(net: _Net, D: int, sound: int) -> Tensors:
    path, index, C = "decoder_seanet.layers", 1, net.filters << len(net.ratios)
    parts = [*_kept(f"{path}.0", D, C, net.kernel)]
    for ratio in net.ratios:
        parts += upward(f"{path}.{index + 1}.conv", C, C // 2, 2 * ratio)
        index, C = index + 2, C // 2
        for _ in range(net.blocks):
            parts += _residual(f"{path}.{index}", net, C)
            index += 1
    return (*parts, *_kept(f"{path}.{index + 1}", net.filters, sound, net.last))


class _Attention(Record):
    """The layers of attention that either side has.

    Args:
        depth: how many.
        layer: one of them.
        rotary: elements of a head.
    """

    depth: int
    layer: tuple[Part | Tensor, ...]
    rotary: int

    def __call__(self, path: str) -> Tensors:
        """The tensors below ``path``."""
        return tower("audio", path, Rotary("rotary_emb", self.rotary)) + repeated(
            "audio", f"{path}.layers", self.depth, *self.layer
        )


def _layers(k: Keys, D: int) -> _Attention:
    given = Keys({"num_attention_heads": 8, "num_key_value_heads": 8, **k.config}, file=k.file, path=k.path)
    token, F = attention(given, D), k.size("intermediate_size", 2048)
    k.skip("num_attention_heads", "num_key_value_heads", "head_dim", "attention_bias", "hidden_act")
    layer: tuple[Part | Tensor, ...] = (
        token,
        matrix("mlp.fc1", ("D", D), ("F", F), "audio", bias=False),
        matrix("mlp.fc2", ("F", F), ("D", D), "audio", bias=False),
        layer_norm("input_layernorm", D),
        layer_norm("post_attention_layernorm", D),
        *(Tensor(f"{name}_layer_scale.scale", (("D", D),), "audio") for name in ("self_attn", "mlp")),
    )
    return _Attention(depth=k.size("num_hidden_layers", 8), layer=layer, rotary=token.H)


def _quantizer(k: Keys, path: str, D: int) -> Tensors:
    """Codebooks one after the other, those for what is said apart from those for how it sounds."""
    rows, width = k.size("codebook_size", 2048), k.optional("codebook_dim", int, 256) or D
    inner, books = k.size("vector_quantization_hidden_dimension", 256), k.size("num_quantizers", 32)
    said = k.size("num_semantic_quantizers", 1)
    book = (
        Tensor("codebook.initialized", (("X", 1),), "buffer", dtype="fp32"),
        Tensor("codebook.cluster_usage", (("V", rows),), "buffer", dtype="fp32"),
        Tensor("codebook.embed_sum", (("V", rows), ("D", width)), "buffer", dtype="fp32"),
    )
    found: Tensors = ()
    for name, number in (("semantic", said), ("acoustic", books - said)):
        at = f"{path}.{name}_residual_vector_quantizer"
        if inner != D:
            found += tower("audio", at, *convolution("input_proj", D, inner, 1, bias=False))
            found += tower("audio", at, *convolution("output_proj", inner, D, 1, bias=False))
        found += repeated("audio", f"{at}.layers", number, *book)
    return found
