"""Audio Flamingo 3 and Music Flamingo: Qwen2 behind Whisper's encoder and two matrices (arXiv:2507.08128)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tonnage.arch.layers import Rotary
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._language import headed, language
from tonnage.families._pieces import matrix
from tonnage.families._towers import tower
from tonnage.families.towers import seen
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build ``AudioFlamingo3ForConditionalGeneration`` or ``MusicFlamingoForConditionalGeneration``."""
    kind = str(k.config["model_type"])
    text = language(k, "model.language_model", "qwen2").model
    width, tensors = seen(k, "model.audio_tower", "audioflamingo3_encoder", key="audio_config", fixed=True)
    D, bias = text.width, k.want("projector_bias", True)
    # The class ties nothing, whatever the config says.
    k.skip("projector_hidden_act", "tie_word_embeddings", "vocab_size")
    tensors += tower(
        "audio",
        "model.multi_modal_projector",
        matrix("linear_1", ("X", width), ("D", D), "audio", bias=bias),
        matrix("linear_2", ("D", D), ("D", D), "audio", bias=bias),
    )
    if kind == "musicflamingo":
        tensors += _times(k, width)
    return headed(text, tied=False, extra=tensors).but(model_type=kind)


def _times(k: Keys, width: int) -> tuple[Tensor, ...]:
    """Angles by which the frames are turned, for windows and for the frames inside of one."""
    stated = k.config.get("rope_parameters")
    rope = Keys(stated if isinstance(stated, Mapping) else {}, file=k.file, path="rope_parameters.")
    turned = int(width * rope.want("partial_rotary_factor", k.want("partial_rotary_factor", 0.2)))
    # The number of rows is the base of the angles.
    rows = int(rope.want("rope_theta", k.want("rope_theta", 1200.0)))
    k.skip("audio_frame_step", "max_position_embeddings", "head_dim")
    angles = Tensor("position_angles", (("P", rows), ("X", turned // 2 * 2)), "buffer", dtype="fp32")
    return tower("audio", "model", Rotary("pos_emb", turned)) + tower("audio", "model.pos_emb", angles)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/audioflamingo3/"
    "modeling_audioflamingo3.py",
)
