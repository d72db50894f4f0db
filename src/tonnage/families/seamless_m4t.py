"""SeamlessM4T and its second version: an encoder for text, one for speech, a decoder, and a voice (arXiv:2308.11596).

A class holds what it needs of these: ``...ForTextToText``, ``...ForSpeechToText``, with units and a vocoder
``...ForTextToSpeech`` and ``...ForSpeechToSpeech``; ``SeamlessM4TModel`` holds everything.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem
from tonnage.arch.feedforward import Plain
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.families import Family
from tonnage.families._pieces import layer_norm
from tonnage.families._seamless import speech_encoder, voice
from tonnage.keys import Keys
from tonnage.tensors import Tensor

POSITIONS: Final = {"seamless_m4t": 1024, "seamless_m4t_v2": 4096}
OFFSET: Final = 2
"""Rows of the table of positions before that of the first one."""
TABLE: Final = "shared.weight"


def read(k: Keys) -> Model:
    """Build the class that the config names; between texts where it names none."""
    name = str((k.config.get("architectures") or [""])[0])
    return _model(k, text="ForSpeech" not in name, speech="ForSpeech" in name, speaks=name.endswith("ToSpeech"))


def whole(k: Keys) -> Model:
    """Build ``SeamlessM4TModel``: the bare class has the head too."""
    model = _model(k, text=True, speech=True, speaks=True)
    assert model.head is not None
    return model.but(extra=(*model.extra, *model.head.weights()))


def _model(k: Keys, *, text: bool, speech: bool, speaks: bool) -> Model:
    D, V = k.need("hidden_size"), k.need("vocab_size")
    P = k.size("max_position_embeddings", POSITIONS[str(k.config["model_type"])])
    alias = TABLE if k.want("tie_word_embeddings", True) else None
    k.skip("encoder_layerdrop", "decoder_layerdrop", "scale_embedding", "max_new_tokens", "sampling_rate")
    # Every class reads the sizes of all parts, and holds some.
    encoders = (_text(k, "encoder", D, V, P, alias), speech_encoder(k, D))
    sound = voice(k, D)
    used = [stack for stack, held in zip((encoders[0], encoders[1][0]), (text, speech), strict=True) if held]
    return Model(
        model_type=str(k.config["model_type"]),
        stacks=(*used, _text(k, "decoder", D, V, P, alias)),
        head=Head(name="lm_head", D=D, V=V, alias_of=alias),
        positions=P,
        causal=False,
        extra=(
            Tensor(TABLE, (("V", V), ("D", D)), "embedding"),
            *(encoders[1][1] if speech else ()),
            *(sound if speaks else ()),
        ),
    )


def _text(k: Keys, side: str, D: int, V: int, P: int, alias: str | None) -> Stack:
    """The encoder or the decoder of text: norms before the blocks."""
    path, N, dropout = f"text_{side}", k.need(f"{side}_attention_heads"), k.want("dropout", 0.1)
    F, act = k.need(f"{side}_ffn_dim"), k.want("activation_function", "relu")
    own = GroupedQuery(
        name="self_attn",
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
        eager="uncast",
    )
    mlp = Plain(name="ffn", D=D, F=F, act=act, inner_dropout=k.want("activation_dropout", 0.0))
    subs = [Sublayer(block=own, before=layer_norm("self_attn_layer_norm", D), dropout=dropout)]
    if side == "decoder":
        cross = own.but(name="cross_attention", cross=True, causal=False)
        subs.append(Sublayer(block=cross, before=layer_norm("cross_attention_layer_norm", D), dropout=dropout))
    subs.append(Sublayer(block=mlp, before=layer_norm("ffn_layer_norm", D), dropout=dropout))
    positions = Tensor(f"{path}.embed_positions.weights", (("P", P + OFFSET), ("D", D)), "buffer")
    stem = Stem(
        name=f"{path}.embed_tokens", V=V, D=D, alias_of=alias, scaled=True, dropout=dropout, buffers=(positions,)
    )
    layers = (Layer(sublayers=tuple(subs)),) * k.need(f"{side}_layers")
    return Stack(name=side, path=f"{path}.layers", stem=stem, layers=layers, norm=layer_norm(f"{path}.layer_norm", D))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/seamless_m4t/"
    "modeling_seamless_m4t.py",
    classes={"none": whole},
)
