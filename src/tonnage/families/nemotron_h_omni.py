"""Nemotron 3 Nano Omni: Nemotron-H with its head behind C-RADIO's tower, and Parakeet's encoder where it hears."""

from __future__ import annotations

from typing import Final

from tonnage.arch.layers import Norm
from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._language import language
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import tower
from tonnage.families.towers import seen
from tonnage.keys import Keys
from tonnage.tensors import Role, Tensor

FRAMES: Final = {"video_temporal_patch_size": 2}
"""Of the tower where the config has none."""


def read(k: Keys) -> Model:
    """Build the model that ``NemotronH_Omni_Reasoning_V3`` builds."""
    # Released configs name the parts otherwise.
    text = language(k, "language_model", "nemotron_h", key=_key(k, "text_config", "llm_config"), whole=True)
    D = text.model.width
    _, tensors = seen(k, "vision_model", "radio", given=FRAMES)
    width = k.size(_key(k, "vision_hidden_size", "vit_hidden_size"), 1280)
    ratio = k.want("downsample_ratio", 0.5)
    if not 0 < ratio <= 1:
        key = f"{k.path}downsample_ratio"
        raise ConfigError(f"{key} = {ratio} is no share of a side", key=key, value=ratio, file=k.file)
    joined = width * int(1 / ratio) ** 2
    inner = k.size("projector_hidden_size", 4096)
    tensors += tower("vision", "multi_modal_projector", *_projector(joined, inner, D, "vision"))
    if text.config.get("num_nextn_predict_layers"):
        # Its training code puts a norm behind the tower wherever the language model predicts further tokens.
        tensors += tuple(layer_norm("vision_final_layernorm", width).weights())
    k.skip("force_image_size", "video_pruning_rate", "video_temporal_patch_size", "tie_word_embeddings")
    k.skip("text_config", "llm_config", "vision_hidden_size", "vit_hidden_size", "audio_config", "sound_config")
    return text.model.but(model_type="nemotron_h_omni", extra=text.model.extra + tensors + _sound(k, D))


def _key(k: Keys, name: str, released: str) -> str:
    return released if k.config.get(name) is None and k.config.get(released) is not None else name


def _projector(ins: int, inner: int, D: int, role: Role, *, bias: bool = False) -> tuple[Part, ...]:
    return (
        Norm("layer_norm", (("X", ins),)),
        matrix("linear_1", ("X", ins), ("F", inner), role, bias=bias),
        matrix("linear_2", ("F", inner), ("D", D), role, bias=bias),
    )


def _sound(k: Keys, D: int) -> tuple[Tensor, ...]:
    """The encoder of sound and its projection, where the config has one."""
    key = _key(k, "audio_config", "sound_config")
    own = k.inner(key)
    if own is None:
        return ()
    inner, bias = own.need("projection_hidden_size"), own.want("projection_bias", False)
    width, tensors = seen(
        k,
        "audio_tower",
        "parakeet_encoder",
        key=key,
        fixed=True,
        always={"attention_bias": False},
        less=("projection_hidden_size", "projection_bias", "projection_hidden_act", "sampling_rate"),
    )
    return tensors + tower("audio", "embed_audio", *_projector(width, inner, D, "audio", bias=bias))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/nemotron_h_omni/"
    "modeling_nemotron_h_omni.py",
)
