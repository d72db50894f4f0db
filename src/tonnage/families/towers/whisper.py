"""Whisper's encoder: two convolutions, fixed positions, layers whose keys have no bias (arXiv:2212.04356)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.parts import Part
from tonnage.families._pieces import layer_norm
from tonnage.families._towers import attention, convolution, feed_forward, repeated, tower
from tonnage.families.towers import Tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

D_MODEL: Final = {
    "hidden_size": "d_model",
    "intermediate_size": "encoder_ffn_dim",
    "num_attention_heads": "encoder_attention_heads",
    "num_hidden_layers": "encoder_layers",
}
"""Other names of keys, with which Whisper began."""


def read(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """``Qwen2AudioEncoder``, ``VoxtralEncoder`` and their like."""
    D, N, F = k.need("hidden_size"), k.need("num_attention_heads"), k.need("intermediate_size")
    k.divides("hidden_size", "num_attention_heads", D, N)
    inert(k)
    first = tower(
        "audio",
        path,
        *convolution("conv1", k.need("num_mel_bins"), D, 3),
        *convolution("conv2", D, D, 3),
        Tensor("embed_positions.weight", (("P", k.need("max_source_positions")), ("D", D)), "audio"),
        layer_norm("layer_norm", D),
    )
    return D, first + repeated("audio", f"{path}.layers", k.need("num_hidden_layers"), *layer(D, F))


def inert(k: Keys) -> None:
    """Keys that change no tensor."""
    k.skip("activation_function", "attention_dropout", "activation_dropout", "dropout", "scale_embedding")
    k.skip("encoder_layerdrop", "layerdrop", "vocab_size", "num_key_value_heads", "head_dim")


def layer(D: int, F: int, *, key_bias: bool = False) -> tuple[Part, ...]:
    """A layer of Whisper's encoder."""
    return (
        *attention("self_attn", D, key_bias=key_bias),
        layer_norm("self_attn_layer_norm", D),
        *feed_forward("", D, F),
        layer_norm("final_layer_norm", D),
    )


_SIZES: Final[dict[str, Any]] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "num_mel_bins": 128,
    "max_source_positions": 1500,
}

TOWER: Final = Tower(
    read=read,
    defaults={
        **dict.fromkeys(("audioflamingo3_encoder", "qwen2_audio_encoder", "voxtral_encoder"), _SIZES),
        "moss_transcribe_diarize_audio": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_mel_bins": 80,
            "max_source_positions": 1500,
        },
    },
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen2_audio/"
    "modeling_qwen2_audio.py",
    attributes=D_MODEL,
)
