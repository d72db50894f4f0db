"""Qwen2-VL and Qwen2.5-VL: Qwen2 with positions in three dimensions behind a tower for images (arXiv:2409.12191)."""

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

PROCESSOR: Final = Bounds(least=56 * 56, most=28 * 28 * 16384)
"""As the releases' preprocessor_config.json have it (Qwen/Qwen2-VL-7B-Instruct, Qwen/Qwen2.5-VL-7B-Instruct)."""


def read(k: Keys) -> Model:
    """Build the model that ``Qwen2VLForConditionalGeneration`` or ``Qwen2_5_VLForConditionalGeneration`` builds."""
    kind = str(k.config["model_type"])
    text = language(k, "model.language_model", f"{kind}_text", like="qwen2", flat=True)
    sight = sighted(k, "model.visual", f"{kind}_vision", fixed=True)
    # Releases before transformers 5 state it beside the sizes of the text.
    tied = k.want("tie_word_embeddings", False) or text.tied
    model = headed(gridded(text.model), tied)
    eye = None if sight.tower is None else Merged(tower=sight.tower, processor=PROCESSOR)
    return model.but(model_type=kind, extra=model.extra + sight.tensors, eye=eye)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen2_vl/"
    "modeling_qwen2_vl.py",
)
