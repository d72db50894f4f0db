"""SpeechT5: one encoder and one decoder, and what turns speech or text into their inputs and back (arXiv:2110.07205).

``...ForSpeechToText`` hears and writes, ``...ForTextToSpeech`` reads and speaks, ``...ForSpeechToSpeech`` hears and
speaks; ``SpeechT5Model`` holds the layers alone.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem
from tonnage.arch.feedforward import Plain
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.families import Family
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.families._speech import frames, masked, projected, relative
from tonnage.families._towers import batch_norm, convolution, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

ENCODER: Final = "speecht5.encoder"
DECODER: Final = "speecht5.decoder"
POSTNET: Final = "speech_decoder_postnet"
OFFSET: Final = 2
"""Rows of a table of positions before that of the first one, besides those of the padding token."""


def read(k: Keys) -> Model:
    """Build the class that the config names; from speech to text where it names none."""
    name = str((k.config.get("architectures") or [""])[0])
    return _model(k, hears="ForText" not in name, speaks=name.endswith("ToSpeech"))


def bare(k: Keys) -> Model:
    """Build ``SpeechT5Model``, which has no inputs of its own."""
    model = _model(k, hears=True, speaks=False)
    stacks = tuple(s.but(stem=s.stem.but(name="", buffers=())) for s in model.stacks)
    shared = tuple(t for t in model.extra if t.role == "position")
    return model.but(stacks=stacks, head=None, extra=shared)


def _model(k: Keys, *, hears: bool, speaks: bool) -> Model:
    D, V = k.need("hidden_size"), k.need("vocab_size")
    k.skip("num_hidden_layers", "num_attention_heads", "encoder_layerdrop", "decoder_layerdrop", "scale_embedding")
    k.skip("speech_decoder_prenet_dropout", "speech_decoder_postnet_dropout", "feat_proj_dropout")
    k.skip("use_guided_attention_loss", *(f"guided_attention_loss_{name}" for name in ("num_heads", "sigma", "scale")))
    table = f"{DECODER}.prenet.embed_tokens"
    alias = f"{table}.weight" if k.want("tie_word_embeddings", True) else None
    # Every class reads the sizes of all parts, and holds some.
    sound, voice = _sound(k, D), (*_spoken(k, D), *_voiced(k, D))
    heard, written = _padded(k, f"{ENCODER}.prenet.pos_sinusoidal_embed", "speech", D), _text(k, table, D, V)
    norm = layer_norm(f"{ENCODER}.wrapped_encoder.layer_norm", D)
    source = Stem(name="", V=V, D=D, buffers=(heard,)) if hears else _read(k, D, V)
    target = Stem(name="", V=V, D=D, buffers=(_scaled(k, DECODER, "speech", D)[1],)) if speaks else written
    return Model(
        model_type="speecht5",
        stacks=(_stack(k, "encoder", source.but(norm=norm), D), _stack(k, "decoder", target, D)),
        head=_spectrogram(k, D) if speaks else Head(name="text_decoder_postnet.lm_head", D=D, V=V, alias_of=alias),
        positions=_longest(k, "speech" if speaks else "text"),
        causal=False,
        extra=(
            *(sound if hears else (_scaled(k, ENCODER, "text", D)[0],)),
            *(voice if speaks else ()),
            _distances(k, D),
        ),
    )


def _longest(k: Keys, kind: str) -> int:
    return k.size(f"max_{kind}_positions", 4000 if kind == "speech" else 450)


def _padded(k: Keys, path: str, kind: str, D: int) -> Tensor:
    """Fixed positions, those of the padding token before them."""
    rows = _longest(k, kind) + k.want("pad_token_id", 1) + 1 + OFFSET
    return Tensor(f"{path}.weights", (("P", rows), ("D", D)), "buffer")


def _scaled(k: Keys, side: str, kind: str, D: int) -> tuple[Tensor, Tensor]:
    """A number that is learned, and the fixed positions that it multiplies."""
    path = f"{side}.prenet.encode_positions"
    table = Tensor(f"{path}.pe", (("X", 1), ("P", _longest(k, kind)), ("D", D)), "buffer")
    return Tensor(f"{path}.alpha", (), "position"), table


def _text(k: Keys, table: str, D: int, V: int) -> Stem:
    """What the decoder has written."""
    positions = _padded(k, f"{DECODER}.prenet.embed_positions", "text", D)
    return Stem(name=table, V=V, D=D, dropout=k.want("positional_dropout", 0.1), buffers=(positions,))


def _read(k: Keys, D: int, V: int) -> Stem:
    """The text that is to be spoken."""
    return Stem(name=f"{ENCODER}.prenet.embed_tokens", V=V, D=D, buffers=(_scaled(k, ENCODER, "text", D)[1],))


def _sound(k: Keys, D: int) -> tuple[Tensor, ...]:
    """From the wave to the encoder's frames."""
    ins, convolutions = frames(k, "feature_encoder")
    parts = (*convolutions, *projected(ins, D), *masked(k, D), *relative(k, "pos_conv_embed.conv", D))
    return tower("audio", f"{ENCODER}.prenet", *parts)


def _distances(k: Keys, D: int) -> Tensor:
    """The table of distances that all layers of the encoder share."""
    H = k.divides("hidden_size", "encoder_attention_heads", D, k.need("encoder_attention_heads"))
    rows = 2 * k.size("encoder_max_relative_position", 160)
    return Tensor(f"{ENCODER}.wrapped_encoder.embed_positions.pe_k.weight", (("P", rows), ("H", H)), "position")


def _spoken(k: Keys, D: int) -> tuple[Tensor, ...]:
    """What has been spoken, and by whom, as the decoder's input."""
    bins, units = k.size("num_mel_bins", 80), k.size("speech_decoder_prenet_units", 256)
    count = k.want("speech_decoder_prenet_layers", 2)
    who = k.size("speaker_embedding_dim", 512) + D
    return (
        *tower(
            "audio",
            f"{DECODER}.prenet",
            *(matrix(f"layers.{i}", ("X", units if i else bins), ("F", units), "audio") for i in range(count)),
            matrix("final_layer", ("F", units), ("D", D), "audio"),
            matrix("speaker_embeds_layer", ("X", who), ("D", D), "audio"),
        ),
        _scaled(k, DECODER, "speech", D)[0],
    )


def _voiced(k: Keys, D: int) -> tuple[Tensor, ...]:
    """When the speech ends, and what mends the spectrogram."""
    bins, units = k.size("num_mel_bins", 80), k.size("speech_decoder_postnet_units", 256)
    count, C = k.want("speech_decoder_postnet_layers", 5), k.size("speech_decoder_postnet_kernel", 5)
    widths = (bins, *((units,) * (count - 1)), bins)
    layers = [
        part
        for i in range(count)
        for part in (
            *convolution(f"layers.{i}.conv", widths[i], widths[i + 1], C, bias=False),
            *batch_norm(f"layers.{i}.batch_norm", widths[i + 1]),
        )
    ]
    stops = matrix("prob_out", ("D", D), ("X", k.size("reduction_factor", 2)), "audio")
    return tower("audio", POSTNET, stops, *layers)


def _spectrogram(k: Keys, D: int) -> Head:
    """What the decoder tells of several frames."""
    frame = k.size("num_mel_bins", 80)
    return Head(name=f"{POSTNET}.feat_out", D=D, V=frame * k.size("reduction_factor", 2), bias=True)


def _stack(k: Keys, side: str, stem: Stem, D: int) -> Stack:
    """Layers whose norms stand behind the sums."""
    first = "attention" if side == "encoder" else "self_attn"
    own = _attention(k, side, first, D)
    dropout = k.want("hidden_dropout", 0.1)
    mlp = Plain(
        name="feed_forward",
        D=D,
        F=k.need(f"{side}_ffn_dim"),
        up="intermediate_dense",
        down="output_dense",
        act=k.want("hidden_act", "gelu"),
        inner_dropout=k.want("activation_dropout", 0.1),
    )
    seen = own.but(name="encoder_attn", causal=False, cross=True)
    distant = counted("SpeechT5's attention to distances", *own.matrices())
    blocks = (
        ((distant, "layer_norm"), (mlp, "final_layer_norm"))
        if side == "encoder"
        else ((own, "self_attn_layer_norm"), (seen, "encoder_attn_layer_norm"), (mlp, "final_layer_norm"))
    )
    subs = tuple(Sublayer(block=block, of_sum=layer_norm(norm, D), dropout=dropout) for block, norm in blocks)
    path = f"speecht5.{side}.wrapped_{side}.layers"
    return Stack(name=side, path=path, stem=stem, layers=(Layer(sublayers=subs),) * k.need(f"{side}_layers"))


def _attention(k: Keys, side: str, name: str, D: int) -> GroupedQuery:
    N = k.need(f"{side}_attention_heads")
    return GroupedQuery(
        name=name,
        D=D,
        N=N,
        K=N,
        H=k.divides("hidden_size", f"{side}_attention_heads", D, N),
        o="out_proj",
        bias=True,
        o_bias=True,
        rotary=None,
        causal=side == "decoder",
        dropout=k.want("attention_dropout", 0.1),
        scaled_queries=True,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/speecht5/modeling_speecht5.py",
    attributes={"num_attention_heads": "encoder_attention_heads", "num_hidden_layers": "encoder_layers"},
    classes={"none": bare},
)
