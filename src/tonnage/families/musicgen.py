"""MusicGen: a decoder of several codebooks at once behind T5's encoder, and a codec of sound (arXiv:2306.05284).

MusicGen Melody hears a melody as well, and puts text and melody before the codes instead of attending to them.
"""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem
from tonnage.arch.feedforward import Plain
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.errors import ConfigError, UnsupportedError
from tonnage.families import Family
from tonnage.families._composite import filled
from tonnage.families._encodec import encodec
from tonnage.families._language import language
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.keys import Keys
from tonnage.tensors import Tensor

DECODER: Final[dict[str, Any]] = {
    "vocab_size": 2048,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "ffn_dim": 4096,
}
PATH: Final = "decoder.model.decoder"


def read(k: Keys) -> Model:
    """Build ``MusicgenForConditionalGeneration`` or ``MusicgenMelodyForConditionalGeneration``."""
    melody = str(k.config["model_type"]) == "musicgen_melody"
    text = language(k, "text_encoder", "t5", key="text_encoder")
    if text.model.model_type != "t5":
        key = f"{k.path}text_encoder.model_type"
        raise UnsupportedError(
            f"an encoder of the type {text.model.model_type!r} is not modelled", key=key, value=text.model.model_type
        )
    encoder, table = text.model.stacks[0], "text_encoder.encoder.embed_tokens.weight"
    sound = filled(k, "audio_encoder", {"model_type": "encodec"}, lambda inner: _sound(inner))
    stack, head, projected = filled(k, "decoder", DECODER, lambda inner: _decoder(inner, melody))
    D, seen = stack.stem.D, encoder.stem.D
    extra = [t for t in text.model.extra if t.name == table]
    if seen != D and projected:
        extra += matrix("enc_to_dec_proj", ("X", seen), ("D", D), "attention").weights()
    if melody:
        chroma = k.size("num_chroma", 12)
        if chroma != D:
            extra += matrix("audio_enc_to_dec_proj", ("X", chroma), ("D", D), "attention").weights()
        k.skip("chroma_length")
    k.skip("tie_word_embeddings", "tie_encoder_decoder")
    return Model(
        model_type="musicgen_melody" if melody else "musicgen",
        stacks=(encoder, stack),
        head=head,
        positions=None,
        extra=(*extra, *sound),
        causal=False,
    )


def _sound(k: Keys) -> tuple[Tensor, ...]:
    k.refuse("model_type", "encodec")
    return encodec(k, "audio_encoder")


def _decoder(k: Keys, melody: bool) -> tuple[Stack, Head, bool]:
    """The decoder, its heads, and whether what it attends to is brought to its width."""
    D, V, N = k.need("hidden_size"), k.need("vocab_size"), k.need("num_attention_heads")
    books, rows, P = k.size("num_codebooks", 4), V + 1, k.size("max_position_embeddings", 2048)
    channels = k.size("audio_channels", 1)
    if channels > 2:
        key = f"{k.path}audio_channels"
        raise ConfigError(f"{key} = {channels}: one or two", key=key, value=channels, file=k.file)
    k.skip("model_type", "layerdrop", "activation_dropout", "scale_embedding", "add_cross_attention", "dropout")
    k.skip("tie_word_embeddings")
    own = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=N,
        H=k.divides("hidden_size", "num_attention_heads", D, N),
        o="out_proj",
        rotary=None,
        dropout=k.want("attention_dropout", 0.0),
    )
    blocks = (own,) if melody else (own, own.but(name="encoder_attn", cross=True, causal=False))
    act = k.want("activation_function", "gelu")
    mlp = Plain(name="", D=D, F=k.need("ffn_dim"), act=act, bias=False)
    what = "a decoder of several codebooks"
    subs = tuple(
        Sublayer(block=counted(what, block), before=layer_norm(f"{block.name}_layer_norm", D)) for block in blocks
    )
    layer = Layer(sublayers=(*subs, Sublayer(block=mlp, before=layer_norm("final_layer_norm", D))))
    beside = (
        *(Tensor(f"{PATH}.embed_tokens.{i}.weight", (("V", rows), ("D", D)), "embedding") for i in range(1, books)),
        Tensor(f"{PATH}.embed_positions.weights", (("P", P), ("D", D)), "buffer"),
    )
    stack = Stack(
        name="decoder",
        path=f"{PATH}.layers",
        stem=Stem(name=f"{PATH}.embed_tokens.0", V=V, rows=rows, D=D, buffers=beside),
        layers=(layer,) * k.need("num_hidden_layers"),
        norm=layer_norm(f"{PATH}.layer_norm", D),
    )
    further = (Tensor(f"decoder.lm_heads.{i}.weight", (("V", V), ("D", D)), "head") for i in range(1, books))
    head = Head(name="decoder.lm_heads.0", D=D, V=V, extra=tuple(further))
    return stack, head, melody or k.optional("cross_attention_hidden_size") is None


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/musicgen/"
    "modeling_musicgen.py",
)
