"""Nemotron 3.5 Transcribe: Nemotron-H behind an encoder of sound that is told who speaks."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.families import Family
from tonnage.families._composite import filled
from tonnage.families._decoder import heads, rotary_width
from tonnage.families._language import headed, language
from tonnage.families._omni import heard, upward
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import convolution, feed_forward, repeated, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

Tensors = tuple[Tensor, ...]

TEXT: Final[dict[str, Any]] = {
    "hidden_size": 2688,
    "intermediate_size": 1856,
    "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
    "mamba_num_heads": 64,
    "max_position_embeddings": 262144,
    "moe_intermediate_size": 1856,
    "moe_shared_expert_intermediate_size": 3712,
    "n_routed_experts": 128,
    "num_experts_per_tok": 6,
    "num_key_value_heads": 2,
}
ASR: Final = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 10}
SPEAKERS: Final = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 31, "num_attention_heads": 8}
WORDS: Final = {"hidden_size": 1280, "intermediate_size": 640, "num_hidden_layers": 2, "num_attention_heads": 16}
TOWER: Final = "model.audio_tower"


def read(k: Keys) -> Model:
    """Build the model that ``Nemotron3_5TranscribeForConditionalGeneration`` builds."""
    text = language(k, "model.language_model", "nemotron_h", given=TEXT).model
    width, tensors = filled(k, "audio_config", {}, _audio)
    tensors += tower("audio", "model", matrix("multi_modal_projector", ("X", width), ("D", text.width), "audio"))
    tensors += filled(k, "word_timestamp_config", WORDS, _words)
    # The class ties nothing, whatever the config says.
    k.skip("tie_word_embeddings")
    model = headed(text, tied=False, extra=tensors)
    return model.but(model_type="nemo_speechlm", fp32=(*model.fp32, "audio_tower", "multi_modal_projector"))


def _layers(k: Keys, path: str, factor: float, *, normed: bool) -> tuple[int, Tensors]:
    """Width and tensors of layers of attention between norms; values have a head for every query."""
    D, (N, K) = k.need("hidden_size"), heads(k)
    H = k.divides("hidden_size", "num_attention_heads", D, N)
    k.skip("hidden_act", "max_position_embeddings", "attention_dropout")
    head = (("H", H),)
    token = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        o_bias=True,
        q_norm=Norm("self_attn.q_norm", head, "layer", bias=True) if normed else None,
        k_norm=Norm("self_attn.k_norm", head, "layer", bias=True) if normed else None,
    )
    if K != N:
        k.refuse("num_key_value_heads")
    layer: tuple[Part, ...] = (
        token,
        layer_norm("layer_norm1", D),
        layer_norm("layer_norm2", D),
        *feed_forward("mlp", D, k.need("intermediate_size")),
    )
    ends = tower(
        "audio",
        path,
        layer_norm("input_layer_norm", D),
        layer_norm("layer_norm", D),
        Rotary("rotary_emb", rotary_width(k, H, factor)),
    )
    return D, ends + repeated("audio", f"{path}.layers", k.need("num_hidden_layers"), *layer)


def _stacked(k: Keys, path: str, factor: float, *, normed: bool) -> tuple[int, Tensors]:
    """The same behind a matrix over frames that are joined."""
    D, tensors = _layers(k, path, factor, normed=normed)
    ins = k.size("num_mel_bins", 128) * k.size("subsampling_factor", 8)
    return D, tensors + tower("audio", path, matrix("embedder.projection", ("X", ins), ("D", D), "audio", bias=False))


def _audio(k: Keys) -> tuple[int, Tensors]:
    width, hears = filled(k, "asr_config", ASR, lambda inner: _stacked(inner, f"{TOWER}.asr_encoder", 0.5, normed=True))
    speakers, tells = filled(k, "diarization_config", {}, _diarization)
    k.skip("speaker_activity_threshold")
    ends = tower(
        "audio",
        TOWER,
        layer_norm("asr_norm", width),
        layer_norm("speaker_norm", speakers),
        Tensor("speaker_embedding.weight", (("X", speakers), ("D", width)), "buffer", dtype="fp32"),
    )
    return width, hears + tells + ends


def _diarization(k: Keys) -> tuple[int, Tensors]:
    """Speakers, and the tensors of what tells them apart."""
    path = f"{TOWER}.diarization_model"
    sees = f"{path}.model.audio_tower"
    D, tensors = filled(k, "audio_config", SPEAKERS, lambda inner: _stacked(inner, sees, 1.0, normed=False))
    W, speakers, rate = filled(k, "head_config", {}, _head)
    k.skip("streaming_config", "chunk_length", "chunk_right_context", "chunk_left_context", "fifo_length")
    k.skip("speaker_cache_update_period")
    return speakers, tensors + tower(
        "audio",
        path,
        Tensor("silence_embeds", (("D", D),), "audio"),
        matrix("model.proj", ("X", D), ("D", W), "audio"),
        *convolution("model.upsampler.conv", W, W * rate, 3),
        matrix("classifier.dense", ("D", W), ("D", W), "audio"),
        matrix("classifier.out_proj", ("D", W), ("X", speakers), "audio"),
    )


def _head(k: Keys) -> tuple[int, int, int]:
    k.skip("audio_hidden_size")
    return k.size("hidden_size", 192), k.size("num_speakers", 8), k.size("subsampling_factor", 8)


def _words(k: Keys) -> Tensors:
    """What tells when a word was said."""
    path = "model.word_timestamp_encoder"
    D, tensors = _layers(k, path, 0.5, normed=True)
    raised = tower("audio", path, *upward("upsampler", D, D, k.size("upsampling_factor", 2)))
    k.skip("residual_scale")
    return tensors + raised + heard("audio", convolution("word_timestamp_head", D, k.size("vocab_size", 23863), 1))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/nemotron3_5_transcribe/"
    "modeling_nemotron3_5_transcribe.py",
)
