"""Mimi, a codec of sound: convolutions and layers of attention on both sides of codebooks (arXiv:2410.00037).

Its codebooks are buffers: training by gradients does not change them.
"""

from __future__ import annotations

from math import ceil, prod

from tonnage.arch.layers import Rotary
from tonnage.arch.parts import Part
from tonnage.families._blocks import attention
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._seanet import Tensors, decoder, encoder, kept, net
from tonnage.families._towers import convolution, repeated, tower
from tonnage.keys import Keys
from tonnage.record import Record
from tonnage.tensors import Tensor


def mimi(k: Keys, path: str) -> Tensors:
    """``MimiModel`` below ``path``."""
    D, sound = k.size("hidden_size", 512), k.size("audio_channels", 1)
    sea = net(k, filters=64, ratios=(8, 6, 5, 4), last=3, shortcut=False)
    step, groups = _step(k, sea.ratios), k.size("upsample_groups", 512)
    layers = _layers(k, D)
    k.skip("sliding_window", "use_streaming")
    k.skip("layer_scale_initial_scale", "max_position_embeddings", "attention_dropout", "tie_word_embeddings")
    found = _quantizer(k, f"{path}.quantizer", D)
    if _whole(k, "encoder_config"):
        ends = (*kept("downsample", D, D, 2 * step, bias=False),) if step > 1 else ()
        found += tower("audio", f"{path}.encoder", *encoder("encoder_seanet.layers", sea, D, sound), *ends)
        found += layers(f"{path}.encoder.encoder_transformer")
    if _whole(k, "decoder_config"):
        width = (("D", D), ("X", D // groups), ("C", 2 * step))
        ends = (Tensor("upsample.conv.weight", width, "audio"),) if step > 1 else ()
        found += tower("audio", f"{path}.decoder", *decoder("decoder_seanet.layers", sea, D, sound), *ends)
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
