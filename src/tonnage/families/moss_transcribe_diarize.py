"""MOSS-Transcribe-Diarize: Qwen 3 behind Whisper's encoder, whose frames are merged before they are projected."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.layers import Norm
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated
from tonnage.families._composite import filled
from tonnage.families._decoder import used_window, windows
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.families._towers import attention as square
from tonnage.families._towers import convolution, feed_forward, repeated, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

AUDIO: Final[dict[str, Any]] = {
    "num_mel_bins": 80,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "hidden_size": 1024,
    "max_source_positions": 1500,
}
TEXT: Final[dict[str, Any]] = {
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131072,
}
PATH: Final = "model.language_model"


def read(k: Keys) -> Model:
    """Build the model that ``MossTranscribeDiarizeForConditionalGeneration`` builds."""
    k.skip("audio_chunk_size", "projector_hidden_act")
    tied, bias, merged = (
        k.want("tie_word_embeddings", True),
        k.want("projector_bias", True),
        k.size("audio_merge_size", 4),
    )
    model = filled(k, "text_config", TEXT, _text)
    width, tensors = filled(k, "audio_config", AUDIO, _tower)
    assert model.head is not None
    D = model.width
    projector = tower(
        "audio",
        "model.multi_modal_projector",
        matrix("linear_1", ("X", width * merged), ("D", D), "audio", bias=bias),
        matrix("linear_2", ("D", D), ("D", D), "audio", bias=bias),
        layer_norm("norm", D),
    )
    return model.but(
        model_type="moss_transcribe_diarize",
        head=model.head.but(alias_of=f"{PATH}.embed_tokens.weight" if tied else None),
        extra=tensors + projector,
    )


def _text(k: Keys) -> Model:
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    window, first = used_window(k), k.want("max_window_layers", 28)
    seen = windows(k, L, window, lambda i: i >= first)
    token, mlp = attention(k, D, K=32, H=128), gated(k, D)
    head = (("H", token.H),)
    token = token.but(q_norm=Norm("self_attn.q_norm", head), k_norm=Norm("self_attn.k_norm", head))
    norm = (("D", D),)
    layers = {
        tokens: Layer(
            sublayers=(
                Sublayer(
                    block=counted("a model that reads sound", token.but(window=tokens)),
                    before=Norm("input_layernorm", norm),
                ),
                Sublayer(block=mlp, before=Norm("post_attention_layernorm", norm)),
            )
        )
        for tokens in set(seen)
    }
    return decoder(k, D, tuple(layers[tokens] for tokens in seen), width=token.H, positions=32768, path=PATH)


def _tower(k: Keys) -> tuple[int, tuple[Tensor, ...]]:
    """Width and tensors of Whisper's encoder."""
    D, F = k.need("hidden_size"), k.need("intermediate_size")
    k.divides("hidden_size", "num_attention_heads", D, k.need("num_attention_heads"))
    k.skip("activation_function", "attention_dropout", "activation_dropout", "dropout", "num_key_value_heads")
    path = "model.audio_tower"
    first = tower(
        "audio",
        path,
        *convolution("conv1", k.need("num_mel_bins"), D, 3),
        *convolution("conv2", D, D, 3),
        Tensor("embed_positions.weight", (("P", k.need("max_source_positions")), ("D", D)), "audio"),
        layer_norm("layer_norm", D),
    )
    return D, first + repeated(
        "audio",
        f"{path}.layers",
        k.need("num_hidden_layers"),
        *square("self_attn", D, key_bias=False),
        layer_norm("self_attn_layer_norm", D),
        *feed_forward("", D, F),
        layer_norm("final_layer_norm", D),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/moss_transcribe_diarize/"
    "modeling_moss_transcribe_diarize.py",
)
