"""Qwen3-VL, dense or with experts: Qwen3 with positions in three dimensions behind a tower (arXiv:2511.21631)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.arch.sight.merged import Merged
from tonnage.arch.sight.resized import Bounds
from tonnage.families import Family
from tonnage.families._grids import gridded
from tonnage.families._language import headed, language
from tonnage.families.towers import sighted
from tonnage.keys import Keys

PROCESSOR: Final = Bounds(least=256 * 256, most=4096 * 4096)
"""As the releases' preprocessor_config.json have it (Qwen/Qwen3-VL-8B-Instruct)."""


def read(k: Keys) -> Model:
    """Build the model that ``Qwen3VLForConditionalGeneration`` or its like with experts builds."""
    kind = str(k.config["model_type"]).replace("cosmos3_omni", "qwen3_vl")
    routed = kind == "qwen3_vl_moe"
    text = language(
        k,
        "model.language_model",
        f"{kind}_text",
        like="qwen3_moe" if routed else "qwen3",
        # The weights of a token's experts always add up to one.
        always={"norm_topk_prob": True} if routed else {},
        less=("norm_topk_prob",) if routed else (),
    )
    sight = sighted(k, "model.visual", f"{kind}_vision", fixed=True)
    inner = gridded(text.model, overwritten=True, handed=True)
    model = headed(inner, k.want("tie_word_embeddings", False))
    eye = None if sight.tower is None else Merged(tower=sight.tower, processor=PROCESSOR)
    return model.but(model_type=str(k.config["model_type"]), extra=model.extra + sight.tensors, eye=eye)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen3_vl/"
    "modeling_qwen3_vl.py",
)
