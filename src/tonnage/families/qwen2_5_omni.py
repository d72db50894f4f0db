"""Qwen2.5-Omni: Qwen2.5 that reads text, images and sound, beside one that speaks (arXiv:2503.20215).

What the talker caches while it speaks is not counted.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._composite import filled
from tonnage.families._language import language
from tonnage.families._omni import heard, thinker
from tonnage.families._pieces import matrix
from tonnage.families._token2wav import token2wav
from tonnage.keys import Keys
from tonnage.tensors import Tensor

KIND: Final = "qwen2_5_omni"
SPOKEN: Final = ("embedding_size", "position_id_per_seconds", "seconds_per_chunk", "spatial_merge_size")
"""Keys of the talker beside those of its layers."""


def read(k: Keys) -> Model:
    """Build ``Qwen2_5OmniForConditionalGeneration``, or its thinker alone."""
    if k.config["model_type"] == "qwen2_5_omni_thinker":
        return thinker(k, KIND, "qwen2").but(model_type="qwen2_5_omni_thinker")
    model = filled(k, "thinker_config", {}, lambda inner: thinker(inner, KIND, "qwen2", "thinker."))
    speaks = k.want("enable_audio_output", True)
    k.skip("enable_talker", "talker_config", "token2wav_config", "tie_word_embeddings")
    if speaks:
        wave = filled(k, "token2wav_config", {}, lambda inner: token2wav(inner, "token2wav"))
        model = model.but(extra=(*model.extra, *_talker(k), *wave))
    return model.but(model_type=KIND)


def _talker(k: Keys) -> tuple[Tensor, ...]:
    """Qwen2 over the thinker's hidden states, whose embedding may be of another width."""
    inner = k.inner("talker_config")
    E = 3584 if inner is None else inner.size("embedding_size", 3584)
    model = language(k, "talker.model", f"{KIND}_talker", key="talker_config", like="qwen2", less=SPOKEN).model
    D, V, stack = model.width, model.vocabulary, model.decoder
    model = model.but(stacks=(stack.but(stem=stack.stem.but(width=E)),))
    matrices = (
        matrix("talker.thinker_to_talker_proj", ("X", E), ("D", D), "audio"),
        matrix("talker.codec_head", ("D", D), ("V", V), "audio", bias=False),
    )
    whole = (*(t for stack in model.stacks for t in stack.weights()), *(t for part in matrices for t in part.weights()))
    return heard("audio", whole)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen2_5_omni/"
    "modeling_qwen2_5_omni.py",
    attributes={
        "image_token_id": "image_token_index",
        "video_token_id": "video_token_index",
        "audio_token_id": "audio_token_index",
    },
)
