"""Qwen-Omni's encoders of sound: Whisper's with fixed positions, and one behind convolutions in two dimensions."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.parts import Part
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import convolution, repeated, tower
from tonnage.families.towers import Tower
from tonnage.families.towers.whisper import D_MODEL, inert, layer
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """``Qwen2_5OmniAudioEncoder``, ``Qwen3OmniMoeAudioEncoder`` or ``Qwen3ASREncoder``, which leaves out the end."""
    kind, D = k.config["model_type"], k.need("hidden_size")
    N, F, out = k.need("num_attention_heads"), k.need("intermediate_size"), k.need("output_dim")
    k.divides("hidden_size", "num_attention_heads", D, N)
    inert(k)
    k.skip("n_window", "n_window_infer", "conv_chunksize", "max_source_positions", "max_position_embeddings")
    first = kind == "qwen2_5_omni_audio_encoder"
    rows = k.need("max_position_embeddings" if kind == "qwen3_asr_encoder" else "max_source_positions")
    places = (("P", rows), ("X", D))
    return out, (
        *tower(
            "audio",
            path,
            Tensor("positional_embedding.positional_embedding", places, "buffer", dtype="fp32"),
            layer_norm("ln_post", D),
            *(_first(k, D, out) if first else _second(k, D, None if kind == "qwen3_asr_encoder" else out)),
        ),
        *repeated("audio", f"{path}.layers", k.need("num_hidden_layers"), *layer(D, F, key_bias=not first)),
    )


def _first(k: Keys, D: int, out: int) -> tuple[Part | Tensor, ...]:
    return (
        *convolution("conv1", k.need("num_mel_bins"), D, 3),
        *convolution("conv2", D, D, 3),
        Tensor("audio_bos_eos_token.weight", (("X", 2), ("D", out)), "audio"),
        matrix("proj", ("X", D), ("D", out), "audio"),
    )


def _second(k: Keys, D: int, out: int | None) -> tuple[Part | Tensor, ...]:
    channels, bins = k.need("downsample_hidden_size"), k.need("num_mel_bins")
    for _ in range(3):
        bins = (bins + 1) // 2
    end: tuple[Part, ...] = ()
    if out is not None:
        end = (matrix("proj1", ("X", D), ("X", D), "audio"), matrix("proj2", ("X", D), ("D", out), "audio"))
    return (
        *convolution("conv2d1", 1, channels, 3, 3),
        *convolution("conv2d2", channels, channels, 3, 3),
        *convolution("conv2d3", channels, channels, 3, 3),
        matrix("conv_out", ("X", channels * bins), ("D", D), "audio", bias=False),
        *end,
    )


_SIZES: Final[dict[str, Any]] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "num_mel_bins": 128,
    "max_source_positions": 1500,
    "output_dim": 3584,
}

TOWER: Final = Tower(
    read=read,
    defaults={
        "qwen2_5_omni_audio_encoder": _SIZES,
        "qwen3_asr_encoder": {
            **_SIZES,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "downsample_hidden_size": 480,
            "max_position_embeddings": 13,
        },
        "qwen3_omni_moe_audio_encoder": {**_SIZES, "downsample_hidden_size": 480},
    },
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen3_omni_moe/"
    "modeling_qwen3_omni_moe.py",
    attributes=D_MODEL,
)
