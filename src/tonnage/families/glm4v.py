"""GLM-4.1V to 4.6V and GLM-OCR: GLM-4, dense or with experts, with positions in three dimensions (arXiv:2507.01006)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.errors import UnsupportedError
from tonnage.families import Family
from tonnage.families._grids import gridded
from tonnage.families._language import DEFAULTS, headed, language
from tonnage.families.towers import seen
from tonnage.keys import Keys

LIKE: Final = {"glm4v_moe_text": "glm4_moe", "glm4v_text": "glm4", "glm_ocr_text": "glm4"}
"""The language model's type, and the family that has its structure."""

OPEN: Final = ("glm46v", "glmga")
"""Types whose language model is what its own config says."""


def read(k: Keys) -> Model:
    """Build ``Glm4vForConditionalGeneration``, its like with experts, or ``GlmOcrForConditionalGeneration``."""
    kind = str(k.config["model_type"])
    stated = k.config.get("text_config")
    config: Mapping[str, Any] = stated if isinstance(stated, Mapping) else {}
    name, sees = f"{kind}_text", f"{kind}_vision"
    if kind in OPEN:
        name, sees = str(config.get("model_type", "glm4v_text")), "glm4v_vision"
    if name not in LIKE:
        raise UnsupportedError(
            f"a language model of the type {name!r} is not modelled here", key="text_config.model_type", value=name
        )
    text = language(k, "model.language_model", name, like=LIKE[name], always=_fixed(name, config))
    _, tensors = seen(k, "model.visual", sees, fixed=kind not in OPEN)
    tied = k.want("tie_word_embeddings", False) or (kind not in OPEN and text.tied)
    model = gridded(text.model, style="rebound", handed=name == "glm4v_moe_text")
    return headed(model, tied, extra=tensors).but(model_type=kind)


def _fixed(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from GLM-4's defaults: heads that divide the width, all of which is turned."""
    if name == "glm4v_moe_text":
        return {}
    sizes = {**DEFAULTS[name], **config}
    D, N = sizes.get("hidden_size"), sizes.get("num_attention_heads")
    # What is no number is refused where the config is read.
    head = {"head_dim": D // N} if isinstance(D, int) and isinstance(N, int) and N > 0 else {}
    return {**head, "attention_bias": name == "glm4v_text", "partial_rotary_factor": 1.0}


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/glm4v/modeling_glm4v.py",
)
