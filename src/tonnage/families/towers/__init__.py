"""Towers for images inside of other models: one module for each structure, found by the type of the nested config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tonnage.errors import UnsupportedError, nearest
from tonnage.families._composite import read_inner
from tonnage.keys import Keys
from tonnage.record import Record
from tonnage.registry import variant
from tonnage.tensors import Tensor

TYPES: Final[Mapping[str, str]] = {
    "audioflamingo3_encoder": "whisper",
    "blip_2_vision_model": "blip",
    "blip_vision_model": "blip",
    "clip_vision_model": "clip",
    "cohere_compass_vision": "qwen3_vl",
    "cosmos3_edge_vision": "siglip2",
    "deit": "vit",
    "donut-swin": "donut_swin",
    "exaone4_5_vision": "qwen2_5_vl",
    "glm4v_moe_vision": "glm4v",
    "glm4v_vision": "glm4v",
    "glm5_next_vision": "glm4v",
    "glm_ocr_vision": "glm4v",
    "glmasr_encoder": "glmasr",
    "idefics2_vision": "idefics",
    "idefics3_vision": "idefics",
    "idefics_vision": "clip",
    "instructblip_vision_model": "blip",
    "instructblipvideo_vision_model": "blip",
    "internvl_vision": "internvl",
    "kosmos_2_vision_model": "clip",
    "moss_transcribe_diarize_audio": "whisper",
    "muse_glimmer_vision": "muse",
    "muse_spark_vision": "muse",
    "parakeet_encoder": "parakeet",
    "pixtral": "pixtral",
    "qianfan_ocr_vision": "internvl",
    "qwen2_5_omni_audio_encoder": "omni_audio",
    "qwen2_5_omni_vision_encoder": "qwen2_5_vl",
    "qwen2_5_vl_vision": "qwen2_5_vl",
    "qwen2_audio_encoder": "whisper",
    "qwen2_vl_vision": "qwen2_vl",
    "qwen3_5_vision": "qwen3_vl",
    "qwen3_asr_encoder": "omni_audio",
    "qwen3_omni_moe_audio_encoder": "omni_audio",
    "qwen3_omni_moe_vision_encoder": "qwen3_vl",
    "qwen3_vl_moe_vision": "qwen3_vl",
    "qwen3_vl_vision": "qwen3_vl",
    "qwen4_exp_vision": "qwen3_vl",
    "radio": "radio",
    "sam_vision_model": "sam",
    "siglip2_vision_model": "siglip2",
    "siglip_vision_model": "siglip",
    "smolvlm_vision": "idefics",
    "timm_wrapper": "timm_wrapper",
    "unlimited_ocr_vision_encoder": "clip",
    "vit": "vit",
    "voxtral_encoder": "whisper",
    "wav2vec2": "wav2vec2",
}
"""Type of the nested config to module."""


class Sight(Record):
    """A tower that was read.

    Args:
        width: of what it sees.
        tensors: its own.
        tower: its pass; None where that is not modelled.
    """

    width: int
    tensors: tuple[Tensor, ...]
    tower: Any = None


def numbers(sight: Sight, layers: tuple[int, ...]) -> tuple[int, ...]:
    """By how many of the tower's layers each is made that is handed on; none where that is not modelled."""
    states = getattr(sight.tower, "count", -1) + 1
    # What the first layer is given is captured only beside others.
    if layers == (0,) or any(not -states <= n < states for n in layers):
        return ()
    return tuple(n % states for n in layers)


class Tower(Record):
    """How the config of a tower is read.

    Args:
        read: config, and path of the tower in the model around it, to the width of what the tower sees and its tensors,
            with its pass where that is modelled.
        defaults: what transformers fills in for a type.
        source: the code that is followed.
        attributes: transformers' ``attribute_map``: other names under which a key may stand.
    """

    read: Callable[[Keys, str], tuple[int, tuple[Tensor, ...]] | Sight]
    defaults: Mapping[str, Mapping[str, Any]]
    source: str
    attributes: Mapping[str, str] = {}


def seen(
    k: Keys,
    path: str,
    kind: str,
    *,
    key: str = "vision_config",
    given: Mapping[str, Any] | None = None,
    always: Mapping[str, Any] | None = None,
    fixed: bool = False,
    less: tuple[str, ...] = (),
) -> tuple[int, tuple[Tensor, ...]]:
    """Width and tensors, below ``path``, of the tower that a nested config describes; as ``sighted``."""
    found = sighted(k, path, kind, key=key, given=given, always=always, fixed=fixed, less=less)
    return found.width, found.tensors


def sighted(
    k: Keys,
    path: str,
    kind: str,
    *,
    key: str = "vision_config",
    given: Mapping[str, Any] | None = None,
    always: Mapping[str, Any] | None = None,
    fixed: bool = False,
    less: tuple[str, ...] = (),
) -> Sight:
    """The tower, below ``path``, that a nested config describes.

    Args:
        k: the config around it.
        path: of the module.
        kind: its type where the nested config names none.
        key: of the nested config.
        given: what the type around it fills in where there is no nested config at all.
        always: what it fills in where the nested config leaves it out.
        fixed: it is of this type whatever the nested config says.
        less: keys of the nested config that the tower does not read.

    Raises:
        UnsupportedError: no tower of this type is modelled.
    """
    stated = k.inner(key)
    config: Mapping[str, Any] = (given or {}) if stated is None else stated.config
    name = kind if fixed else config.get("model_type", kind)
    if not isinstance(name, str) or name not in TYPES:
        raise UnsupportedError(
            f"a tower of the type {name!r} is not modelled yet",
            key=f"{k.path}{key}.model_type",
            value=name,
            file=k.file,
            nearest=nearest(str(name), tuple(TYPES)),
        )
    tower = variant(__name__, TYPES[name], "TOWER", Tower)
    defaults = {"model_type": name, **tower.defaults[name], **(always or {}), **(config if stated is None else {})}
    # Every nested config once told whether a head is tied; a tower has none.
    less = (*less, "tie_word_embeddings", *(("model_type",) if fixed else ()))
    found = read_inner(k, key, defaults, lambda inner: tower.read(inner, path), aliases=tower.attributes, less=less)
    return found if isinstance(found, Sight) else Sight(*found)
