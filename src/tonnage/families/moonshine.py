"""Moonshine and its streaming form: convolutions over the wave, an encoder, a decoder with gates (arXiv:2410.15608)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem, Table
from tonnage.arch.feedforward import Plain
from tonnage.arch.layers import Rotary
from tonnage.arch.model import Block, Layer, Model, Stack, Sublayer
from tonnage.arch.parts import Part, Parts
from tonnage.families import Family
from tonnage.families._composite import filled
from tonnage.families._decoder import heads, rotary_width
from tonnage.families._experts import even
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.families._speech import PATH, reader
from tonnage.families._towers import convolution, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

ENCODER: Final = "model.encoder"
STREAMING: Final[dict[str, Any]] = {
    "hidden_size": 320,
    "intermediate_size": 1280,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}
"""Defaults of ``MoonshineStreamingEncoderConfig``."""


def read(k: Keys) -> Model:
    """Build the model that ``MoonshineForConditionalGeneration`` or ``MoonshineStreaming...`` builds."""
    streams = k.config["model_type"] == "moonshine_streaming"
    D, V, F = k.need("hidden_size"), k.need("vocab_size"), k.need("intermediate_size")
    k.skip("pad_head_dim_to_multiple_of", "hidden_act", "num_hidden_layers", "sample_rate", "frame_ms")
    table, P = f"{PATH}.embed_tokens", k.size("max_position_embeddings", 4096 if streams else 512)
    if streams:
        encoder, around = filled(k, "encoder_config", STREAMING, _streaming)
        own = _attention(k, D, *heads(k), o_bias=False)
        layers = k.need("num_hidden_layers")
    else:
        encoder, around = _encoder(k, D, V, F)
        # The class builds the decoder with the encoder's numbers of heads, whatever the config says of its own.
        own = _attention(k, D, *_heads(k), o_bias=False)
        layers = k.need("decoder_num_hidden_layers")
        k.skip("encoder_hidden_act", "decoder_hidden_act", "decoder_num_attention_heads", "decoder_num_key_value_heads")
        k.skip("num_attention_heads", "num_key_value_heads")
    wide = encoder.stem.D
    stem = Stem(
        name=table,
        V=V,
        D=D,
        rotary=(Rotary(f"{PATH}.rotary_emb", _turned(k, own.H, 0.8 if streams else 0.9)),),
        tables=(Table(name=f"{PATH}.pos_emb", rows=P, width=wide),) if streams else (),
    )
    between = matrix(f"{PATH}.proj", ("X", wide), ("D", D), "attention", bias=False)
    tied = k.want("tie_word_embeddings", not streams)
    return Model(
        model_type=str(k.config["model_type"]),
        stacks=(encoder, reader(k, own, _gated(D, F), layers, bias=False, stem=stem)),
        head=Head(name="proj_out", D=D, V=V, alias_of=f"{table}.weight" if tied else None),
        positions=P,
        causal=False,
        extra=(*around, *(between.weights() if wide != D else ())),
    )


def _turned(k: Keys, H: int, share: float) -> int:
    return even(rotary_width(k, H, share))


def _gated(D: int, F: int) -> Parts:
    """One matrix for gate and up, and one down, all with biases."""
    up = Tensor("mlp.fc1.weight", (("X", 2), ("F", F), ("D", D)), "feed_forward", (2, 1))
    bias = Tensor("mlp.fc1.bias", (("X", 2), ("F", F)), "feed_forward", (2,))
    return counted("Moonshine", up, bias, matrix("mlp.fc2", ("F", F), ("D", D), "feed_forward"))


def _attention(k: Keys, D: int, N: int, K: int, *, o_bias: bool) -> GroupedQuery:
    """Grouped heads; the decoder's output has no bias."""
    H, bias = k.optional("head_dim") or k.divides("hidden_size", "heads", D, N), k.want("attention_bias", False)
    dropout = k.want("attention_dropout", 0.0)
    return GroupedQuery(name="self_attn", D=D, N=N, K=K, H=H, bias=bias, o_bias=o_bias and bias, dropout=dropout)


def _heads(k: Keys) -> tuple[int, int]:
    N = k.need("encoder_num_attention_heads")
    K = k.optional("encoder_num_key_value_heads") or N
    k.divides("encoder_num_attention_heads", "encoder_num_key_value_heads", N, K)
    return N, K


def _encoder(k: Keys, D: int, V: int, F: int) -> tuple[Stack, tuple[Tensor, ...]]:
    """Layers over three convolutions of the wave."""
    own = _attention(k, D, *_heads(k), o_bias=False).but(causal=False)
    mlp = Plain(name="mlp", D=D, F=F, act=k.want("encoder_hidden_act", "gelu"))
    norms = [layer_norm(f"{name}_layernorm", D, bias=False) for name in ("input", "post_attention")]
    blocks: tuple[Block, ...] = (own, mlp)
    layer = Layer(sublayers=tuple(Sublayer(block=b, before=n) for b, n in zip(blocks, norms, strict=True)))
    waves: tuple[Part | Tensor, ...] = (
        *convolution("conv1", 1, D, 127, bias=False),
        *convolution("conv2", D, 2 * D, 7),
        *convolution("conv3", 2 * D, D, 3),
        layer_norm("groupnorm", D),
    )
    stack = Stack(
        name="encoder",
        path=f"{ENCODER}.layers",
        stem=Stem(name="", V=V, D=D, rotary=(Rotary(f"{ENCODER}.rotary_emb", _turned(k, own.H, 0.9)),)),
        layers=(layer,) * k.need("encoder_num_hidden_layers"),
        norm=layer_norm(f"{ENCODER}.layer_norm", D, bias=False),
    )
    return stack, tower("audio", ENCODER, *waves)


def _streaming(k: Keys) -> tuple[Stack, tuple[Tensor, ...]]:
    """Layers within windows over frames of a few milliseconds, without positions."""
    D, F = k.need("hidden_size"), k.need("intermediate_size")
    k.skip("max_position_embeddings", "sliding_windows")
    own = _attention(k, D, *heads(k), o_bias=True).but(causal=False, rotary=None)
    mlp = Plain(name="mlp", D=D, F=F, act=k.want("hidden_act", "gelu"))
    frame = round(k.size("sample_rate", 16000) * k.want("frame_ms", 5.0) / 1000)

    def scale(name: str) -> Tensor:
        return Tensor(f"{name}.gamma", (("D", D),), "norm")

    layer = Layer(
        sublayers=(
            Sublayer(block=counted("Moonshine", own, scale("input_layernorm"))),
            Sublayer(block=counted("Moonshine", mlp, scale("post_attention_layernorm"))),
        )
    )
    waves = tower(
        "audio",
        ENCODER,
        Tensor("embedder.comp.log_k", (), "audio"),
        *convolution("embedder.conv1", D, 2 * D, 5),
        *convolution("embedder.conv2", 2 * D, D, 5),
        matrix("embedder.linear", ("X", frame), ("D", D), "audio", bias=False),
        scale("final_norm"),
    )
    stem = Stem(name="", V=1, D=D)
    layers = (layer,) * k.need("num_hidden_layers")
    return Stack(name="encoder", path=f"{ENCODER}.layers", stem=stem, layers=layers), waves


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/moonshine/"
    "modeling_moonshine.py",
)
