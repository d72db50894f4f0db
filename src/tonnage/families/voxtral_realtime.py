"""Voxtral Realtime: Mistral whose layers are told the delay, behind an encoder that hears as it goes."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.model import Model
from tonnage.arch.untraced import Untraced
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before
from tonnage.families._composite import read_inner
from tonnage.families._decoder import window_of
from tonnage.families._pieces import matrix
from tonnage.families._towers import convolution, repeated, tower
from tonnage.families.towers.whisper import D_MODEL, inert
from tonnage.keys import Keys
from tonnage.tensors import Tensor

TEXT: Final[dict[str, Any]] = {
    "vocab_size": 131072,
    "hidden_size": 3072,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "sliding_window": 8192,
}
AUDIO: Final[dict[str, Any]] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
RANK: Final = 32
"""Between the two matrices by which a layer is told the delay."""
PATH: Final = "model.language_model"


def read(k: Keys) -> Model:
    """Build the model that ``VoxtralRealtimeForConditionalGeneration`` builds."""
    model = read_inner(k, "text_config", TEXT, _text, less=("model_type",))
    D = model.width
    width, tensors = read_inner(k, "audio_config", AUDIO, _sound, aliases=D_MODEL, less=("model_type",))
    k.skip("projector_hidden_act", "audio_length_per_tok", "default_num_delay_tokens", "hidden_size")
    tensors += tower(
        "audio",
        "model",
        matrix(
            "multi_modal_projector.linear_1",
            ("X", width * k.size("downsample_factor", 4)),
            ("D", D),
            "audio",
            bias=False,
        ),
        matrix("multi_modal_projector.linear_2", ("D", D), ("D", D), "audio", bias=False),
        Tensor("time_embedding.inv_freq", (("X", D // 2),), "buffer", dtype="fp32"),
    )
    tied = k.want("tie_word_embeddings", True)
    assert model.head is not None
    head = model.head.but(alias_of=f"{PATH}.embed_tokens.weight" if tied else None)
    return model.but(model_type="voxtral_realtime", head=head, extra=tensors)


def _text(k: Keys) -> Model:
    D = k.need("hidden_size")
    token = attention(k, D, K=8, bias=False, window=window_of(k, 4096))
    inner = (("X", RANK),)
    told = tuple(
        t
        for name, ins, outs in (("linear1", (("D", D),), inner), ("linear2", inner, (("D", D),)))
        for t in Linear(f"ada_rms_norm.{name}", ins, outs, "norm").weights()
    )
    layer = normed_before(token, Untraced(block=gated(k, D), what="a layer that is told the delay", beside=told), D)
    k.skip("tie_word_embeddings")
    return decoder(k, D, (layer,) * k.need("num_hidden_layers"), width=token.H, positions=131072, path=PATH)


def _sound(k: Keys) -> tuple[int, tuple[Tensor, ...]]:
    D, F, N, H = (
        k.need("hidden_size"),
        k.need("intermediate_size"),
        k.need("num_attention_heads"),
        k.optional("head_dim", int, 64),
    )
    H = H or k.divides("hidden_size", "num_attention_heads", D, N)
    inert(k)
    k.skip("hidden_act", "max_position_embeddings", "sliding_window")
    width, inner, path = ("D", D), ("F", F), "model.audio_tower"
    first = tower(
        "audio",
        path,
        *convolution("embedder.conv1", k.size("num_mel_bins", 128), D, 3),
        *convolution("embedder.conv2", D, D, 3),
        Norm("norm", (width,)),
        Rotary("rotary_emb", H),
    )
    layer = (
        GroupedQuery(name="self_attn", D=D, N=N, K=N, H=H, bias=True, key_bias=False, o_bias=True),
        Norm("self_attn_layer_norm", (width,)),
        Norm("final_layer_norm", (width,)),
        matrix("mlp.gate_proj", width, inner, "audio", bias=False),
        matrix("mlp.up_proj", width, inner, "audio", bias=False),
        matrix("mlp.down_proj", inner, width, "audio"),
    )
    return D, first + repeated("audio", f"{path}.layers", k.need("num_hidden_layers"), *layer)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/voxtral_realtime/"
    "modeling_voxtral_realtime.py",
)
