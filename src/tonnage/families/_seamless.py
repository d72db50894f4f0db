"""What SeamlessM4T has beside texts: a conformer over speech, a model of units, a vocoder."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Stem
from tonnage.arch.model import Layer, Stack, Sublayer
from tonnage.arch.parts import Part
from tonnage.errors import ConfigError
from tonnage.families._hybrid import whole_numbers
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.families._towers import attention, batch_norm, convolution, feed_forward, repeated, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

SPEECH: Final = "speech_encoder"
VOICE: Final = "vocoder"
FIRST: Final = "seamless_m4t"


def speech_encoder(k: Keys, D: int) -> tuple[Stack, tuple[Tensor, ...]]:
    """The conformer's layers, and what stands around them."""
    F, N = k.size("speech_encoder_intermediate_size", 4096), k.size("speech_encoder_attention_heads", 16)
    k.divides("hidden_size", "speech_encoder_attention_heads", D, N)
    k.skip("speech_encoder_hidden_act", "speech_encoder_dropout", "speech_encoder_layerdrop", "adaptor_dropout")
    k.skip(
        "adaptor_stride",
        "adaptor_kernel_size",
        "num_adapter_layers",
        "speech_encoder_chunk_size",
        "speech_encoder_left_chunk_num",
    )
    k.skip("num_conv_pos_embeddings", "num_conv_pos_embedding_groups", "rotary_embedding_base")
    features = k.size("feature_projection_input_dim", 160)
    positions, buffers = _positions(k, D, N)
    stack = Stack(
        name="speech encoder",
        path=f"{SPEECH}.encoder.layers",
        stem=Stem(name="", V=k.need("vocab_size"), D=D, buffers=buffers),
        layers=(_conformer(k, D, F, positions),) * k.size("speech_encoder_layers", 24),
        norm=layer_norm(f"{SPEECH}.encoder.layer_norm", D),
    )
    around = tower(
        "audio",
        SPEECH,
        layer_norm("feature_projection.layer_norm", features),
        matrix("feature_projection.projection", ("X", features), ("D", D), "audio"),
        *_dense("intermediate_ffn", D, F),
        layer_norm("inner_layer_norm", D),
    )
    return stack, around + (_adapter(k, D, F) if k.want("add_adapter", True) else ())


def _positions(k: Keys, D: int, N: int) -> tuple[tuple[Part | Tensor, ...], tuple[Tensor, ...]]:
    """What a layer holds for positions, and what the encoder holds for all layers."""
    first, H = k.config["model_type"] == FIRST, D // N
    kind = k.optional("position_embeddings_type", str, "relative" if first else "relative_key")
    table, rows = f"{SPEECH}.encoder.embed_positions", k.size("max_source_positions", 4096) if first else 0
    left, right = (0, 0) if first else (k.want(f"{side}_max_position_embeddings", n) for side, n in SIDES)
    if kind == "relative" and first:
        biases = tuple(Tensor(f"self_attn.pos_bias_{x}", (("N", N), ("H", H)), "attention") for x in "uv")
        made = Tensor(f"{table}.pe", (("X", 1), ("P", 2 * rows - 1), ("D", D)), "buffer")
        return (matrix("self_attn.linear_pos", ("D", D), ("D", D), "attention", bias=False), *biases), (made,)
    if kind == "rotary" and first:
        return (), (Tensor(f"{table}.inv_freq", (("X", H // 2),), "buffer", dtype="fp32"),)
    if kind == "relative_key" and not first:
        axes = (("P", left + right + 1), ("H", H))
        return (Tensor("self_attn.distance_embedding.weight", axes, "position"),), ()
    if kind is not None:
        raise ConfigError(
            f"position_embeddings_type = {kind!r} is none of this model's",
            key="position_embeddings_type",
            value=kind,
            file=k.file,
        )
    return (), ()


SIDES: Final = (("left", 64), ("right", 8))


def _dense(name: str, D: int, F: int) -> tuple[Part, ...]:
    return feed_forward(name, D, F, "intermediate_dense", "output_dense")


def _conformer(k: Keys, D: int, F: int, positions: tuple[Part | Tensor, ...]) -> Layer:
    """Half a feed-forward block, attention, a convolution, the other half."""
    C, what = k.size("conv_depthwise_kernel_size", 31), "a conformer"
    path = "conv_module"
    parts: list[Part | Tensor] = [
        layer_norm(f"{path}.layer_norm", D),
        Tensor(f"{path}.pointwise_conv1.weight", (("I", 2 * D), ("D", D), ("C", 1)), "mixer"),
        Tensor(f"{path}.depthwise_conv.weight", (("D", D), ("X", 1), ("C", C)), "mixer"),
        Tensor(f"{path}.pointwise_conv2.weight", (("D", D), ("X", D), ("C", 1)), "mixer"),
    ]
    if k.config["model_type"] == FIRST:
        parts += batch_norm(f"{path}.batch_norm", D)
    else:
        parts.append(layer_norm(f"{path}.depthwise_layer_norm", D))
    token = (*attention("self_attn", D, q="linear_q", o="linear_out"), *positions)
    subs = (
        Sublayer(block=counted(what, *_dense("ffn1", D, F)), before=layer_norm("ffn1_layer_norm", D)),
        Sublayer(block=counted(what, *token), before=layer_norm("self_attn_layer_norm", D)),
        Sublayer(block=counted(what, *parts)),
        Sublayer(block=counted(what, *_dense("ffn2", D, F)), before=layer_norm("ffn2_layer_norm", D)),
    )
    return Layer(sublayers=(*subs[:3], subs[3].but(of_sum=layer_norm("final_layer_norm", D))), kind="conformer layer")


def _adapter(k: Keys, D: int, F: int) -> tuple[Tensor, ...]:
    """Layers that shorten the sequence."""
    C = k.size("adaptor_kernel_size", 8)
    return repeated(
        "audio",
        f"{SPEECH}.adapter.layers",
        k.size("num_adapter_layers", 1),
        layer_norm("residual_layer_norm", D),
        *convolution("residual_conv", D, 2 * D, C),
        layer_norm("self_attn_layer_norm", D),
        *convolution("self_attn_conv", D, 2 * D, C),
        *attention("self_attn", D, q="linear_q", o="linear_out"),
        layer_norm("ffn_layer_norm", D),
        *_dense("ffn", D, F),
    )


def voice(k: Keys, D: int) -> tuple[Tensor, ...]:
    """The model that makes units of the decoder's states, and the vocoder that makes sound of units."""
    k.skip("t2u_max_new_tokens", "t2u_variance_pred_dropout", "leaky_relu_slope", "var_pred_dropout", "vocoder_offset")
    return (*_units(k, D), *_vocoder(k))


def _units(k: Keys, D: int) -> tuple[Tensor, ...]:
    """An encoder without an embedding and a decoder, which in the second version convolves instead of crossing."""
    first, base = k.config["model_type"] == FIRST, "t2u_model.model"
    V, P = k.size("t2u_vocab_size", 10082), k.size("t2u_max_position_embeddings", 2048 if first else 4096)
    encoder, decoder = (k.size(f"t2u_{side}_ffn_dim", 8192) for side in ("encoder", "decoder"))
    for side in ("encoder", "decoder"):
        k.divides("hidden_size", f"t2u_{side}_attention_heads", D, k.size(f"t2u_{side}_attention_heads", 16))
    own = (*attention("self_attn", D), layer_norm("self_attn_layer_norm", D))
    crossing = (*attention("cross_attention", D), layer_norm("cross_attention_layer_norm", D))
    mlp = layer_norm("ffn_layer_norm", D)
    second: tuple[Part | Tensor, ...] = (*crossing, *feed_forward("ffn", D, decoder), mlp)
    if not first:
        convolves = (*convolution("conv1", D, D, 7), *convolution("conv2", D, D, 7))
        second = (*convolves, layer_norm("conv_layer_norm", D))
    table = "decoder.embed_tokens.weight"
    alias = f"{base}.{table}" if k.want("tie_word_embeddings", True) else None
    return (
        *repeated(
            "audio",
            f"{base}.encoder.layers",
            k.size("t2u_encoder_layers", 6),
            *own,
            *feed_forward("ffn", D, encoder),
            mlp,
        ),
        *repeated("audio", f"{base}.decoder.layers", k.size("t2u_decoder_layers", 6), *own, *second),
        *tower("audio", base, layer_norm("encoder.layer_norm", D), layer_norm("decoder.layer_norm", D)),
        Tensor(f"{base}.{table}", (("V", V), ("D", D)), "audio"),
        Tensor("t2u_model.lm_head.weight", (("V", V), ("D", D)), "audio", alias_of=alias),
        Tensor(f"{base}.decoder.embed_positions.weights", (("P", P + 2), ("D", D)), "buffer"),
        *(() if first else _characters(k, D, P, f"{base}.decoder")),
    )


def _characters(k: Keys, D: int, P: int, path: str) -> tuple[Tensor, ...]:
    """The second version's characters, and how long each of them is."""
    width, inner = k.size("t2u_variance_predictor_embed_dim", 1024), k.size("t2u_variance_predictor_hidden_dim", 256)
    return (
        *tower(
            "audio",
            path,
            Tensor("embed_char.weight", (("V", k.size("char_vocab_size", 10943)), ("D", D)), "audio"),
            Tensor("pos_emb_alpha", (("X", 1),), "audio"),
            Tensor("pos_emb_alpha_char", (("X", 1),), "audio"),
            *_lengths("duration_predictor", width, inner, k.size("t2u_variance_predictor_kernel_size", 3)),
        ),
        Tensor(f"{path}.embed_char_positions.weights", (("P", P + 2), ("D", D)), "buffer"),
    )


def _lengths(name: str, ins: int, inner: int, C: int) -> tuple[Part | Tensor, ...]:
    """How long a unit is: two convolutions and a number."""
    return (
        *convolution(f"{name}.conv1", ins, inner, C),
        layer_norm(f"{name}.ln1", inner),
        *convolution(f"{name}.conv2", inner, inner, C),
        layer_norm(f"{name}.ln2", inner),
        matrix(f"{name}.proj", ("D", inner), ("X", 1), "audio"),
    )


def _vocoder(k: Keys) -> tuple[Tensor, ...]:
    """HiFi-GAN over embeddings of units, language and speaker (arXiv:2010.05646)."""
    E, wide = k.size("unit_embed_dim", 1280), k.size("upsample_initial_channel", 512)
    language, speaker = k.size("lang_embed_dim", 256), k.size("spkr_embed_dim", 256)
    rates = whole_numbers(k, "upsample_rates") or [5, 4, 4, 2, 2]
    kernels = whole_numbers(k, "upsample_kernel_sizes") or [11, 8, 8, 4, 4]
    blocks = whole_numbers(k, "resblock_kernel_sizes") or [3, 7, 11]
    dilations = k.optional("resblock_dilation_sizes", list) or [[1, 3, 5]] * 3
    parts: list[Part | Tensor] = [*convolution("hifi_gan.conv_pre", E + language + speaker, wide, 7)]
    ups = list(zip(rates, kernels, strict=False))
    for index, (_, C) in enumerate(ups):
        ins, outs = wide // 2**index, wide // 2 ** (index + 1)
        axes = (("X", ins), ("D", outs), ("C", C))
        parts += [Tensor(f"hifi_gan.upsampler.{index}.weight", axes, "audio")]
        parts += [Tensor(f"hifi_gan.upsampler.{index}.bias", (("D", outs),), "audio")]
        for number, (size, steps) in enumerate(zip(blocks, dilations, strict=False)):
            path = f"hifi_gan.resblocks.{index * min(len(blocks), len(dilations)) + number}"
            for step in range(len(steps)):
                parts += convolution(f"{path}.convs1.{step}", outs, outs, size)
                parts += convolution(f"{path}.convs2.{step}", outs, outs, size)
    parts += convolution("hifi_gan.conv_post", wide // 2 ** len(ups), 1, 7)
    tables = (
        ("unit", k.size("unit_hifi_gan_vocab_size", 10000), E),
        ("speaker", k.size("vocoder_num_spkrs", 200), speaker),
        ("language", k.size("vocoder_num_langs", 36), language),
    )
    parts += [Tensor(f"{name}_embedding.weight", (("V", rows), ("D", D)), "audio") for name, rows, D in tables]
    parts += _lengths("dur_predictor", E, E, k.size("variance_predictor_kernel_size", 3))
    return tower("audio", VOICE, *parts)
