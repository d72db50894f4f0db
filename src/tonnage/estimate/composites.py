"""Which parts of a model that sees or hears are not trained, by parts of the names of its modules.

Reference: https://github.com/hiyouga/LLaMA-Factory/blob/v0.9.5/src/llamafactory/model/model_utils/visual.py
(COMPOSITE_MODELS, get_forbidden_modules, patch_target_modules), model_utils/misc.py (find_all_linear_modules) and
model/adapter.py; the types that it registers and that are read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tonnage.arch.model import Model
from tonnage.errors import InputError
from tonnage.record import Record
from tonnage.workload.training import Train


class Composite(Record):
    """Parts of names.

    Args:
        vision: of the towers.
        projector: of what stands behind them.
        language: of the language model.
        conflicts: of modules that no adapter is put beside.
    """

    vision: tuple[str, ...] = ("vision_tower",)
    projector: tuple[str, ...] = ("multi_modal_projector",)
    language: tuple[str, ...] = ("language_model", "lm_head")
    conflicts: tuple[str, ...] = ()


_PATCHED: Final = Composite(
    vision=("visual.patch_embed", "visual.blocks"), projector=("visual.merger",), conflicts=("patch_embed",)
)
_PLACED: Final = _PATCHED.but(vision=("visual.pos_embed", *_PATCHED.vision))
_STACKED: Final = _PLACED.but(vision=(*_PLACED.vision, "visual.deepstack_merger_list"))
COMPOSITES: Final[Mapping[str, Composite]] = {
    **dict.fromkeys(
        ("gemma3", "internvl", "llava", "llava_next", "llava_next_video", "paligemma", "video_llava"), Composite()
    ),
    **dict.fromkeys(("glm4v", "glm4v_moe", "glm_ocr", "qwen2_vl", "qwen2_5_vl"), _PATCHED),
    **dict.fromkeys(("qwen3_vl", "qwen3_vl_moe"), _STACKED),
    **dict.fromkeys(("qwen3_5", "qwen3_5_moe"), _PLACED.but(projector=("model.visual.merger",))),
    **dict.fromkeys(("llama4", "mllama"), Composite(vision=("vision_model",))),
    "gemma3n": Composite(
        vision=("vision_tower", "audio_tower"), conflicts=("timm_model", "subsample_conv_projection")
    ),
    "gemma4": Composite(
        vision=("vision_tower", "audio_tower"), projector=("model.embed_vision", "model.embed_audio"),
        conflicts=("per_layer_projection_norm",),
    ),
    "mistral3": Composite(projector=("model.multi_modal_projector",)),
    "qwen2_audio": Composite(vision=("audio_tower",)),
}  # fmt: skip


def composite(model: Model) -> Composite | None:
    """The parts of a model of this type; None where it is not known to have any."""
    return COMPOSITES.get(model.whole_type or model.model_type)


def forbidden(model: Model, w: Train) -> tuple[str, ...]:
    """Parts of the names of what is not trained.

    Raises:
        InputError: a part is named, and the type is not known to have it.
    """
    named = [part for part in w.freeze if part != "none"]
    if not named:
        return ()
    found = composite(model)
    if found is None:
        raise InputError(
            f"freeze = {', '.join(named)}: parts of {model.whole_type or model.model_type} are not known so",
            key="freeze", value=", ".join(named), hint="--train-only names what is trained",
        )  # fmt: skip
    out = tuple(name for part in named for name in getattr(found, part))
    return (*out, *found.conflicts) if w.adapts else out


def hit(name: str, parts: tuple[str, ...]) -> bool:
    """Whether one of these parts stands in a name."""
    return any(part in name for part in parts)
