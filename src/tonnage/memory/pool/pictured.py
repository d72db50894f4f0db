"""What SGLang leaves free for encoders of pictures and sound: a part of the static fraction, by release.

Read in sgl-project/sglang 0.4.4 python/sglang/srt/model_executor/model_runner.py, 0.4.9 to 0.5.12
python/sglang/srt/server_args.py ``adjust_mem_fraction_for_vlm``, 0.5.23 arg_groups/memory_hook.py and
cuda_graph_hook.py; configs/model_config.py of each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.memory.pool.registries import Release

ENCODERS: Final = ("vision", "audio")
UNASKED: Final[Mapping[str, Release]] = {
    "Gemma3ForConditionalGeneration": (0, 4, 5), "Llama4ForConditionalGeneration": (0, 4, 5),
    "Step3VLForConditionalGeneration": (0, 5), "InklingForConditionalGeneration": (0, 5, 13),
}  # fmt: skip
"""Classes that read text alone unless ``--enable-multimodal`` is said, from which release on."""
EARLY: Final[Mapping[str, Release]] = {
    "MllamaForConditionalGeneration": (0, 4), "Qwen2VLForConditionalGeneration": (0, 4),
    "Qwen2_5_VLForConditionalGeneration": (0, 4), "Gemma3ForConditionalGeneration": (0, 4, 5),
    "Gemma3nForConditionalGeneration": (0, 4, 5), "Llama4ForConditionalGeneration": (0, 4, 5),
    "LlavaForConditionalGeneration": (0, 4, 5), "Mistral3ForConditionalGeneration": (0, 4, 5),
    "Phi4MMForCausalLM": (0, 4, 5), "Qwen2AudioForConditionalGeneration": (0, 4, 5),
    "KimiVLForConditionalGeneration": (0, 4, 5), "Glm4vForConditionalGeneration": (0, 5),
    "Glm4vMoeForConditionalGeneration": (0, 5), "InternS1ForConditionalGeneration": (0, 5),
    "Step3VLForConditionalGeneration": (0, 5), "Qwen3OmniMoeForConditionalGeneration": (0, 5, 1),
    "Qwen3VLForConditionalGeneration": (0, 5, 1), "Qwen3VLMoeForConditionalGeneration": (0, 5, 1),
}  # fmt: skip
"""Classes that releases until 0.5.5 know as reading more than text; later ones know every class with encoders."""
REPLAYED: Final = frozenset((
    "Cohere2VisionForConditionalGeneration", "Glm5NextForConditionalGeneration",
    "InternS2MobiusForConditionalGeneration", "KimiK25ForConditionalGeneration", "KimiK3ForConditionalGeneration",
    "MiniMaxM3SparseForCausalLM", "MiniMaxM3SparseForConditionalGeneration", "MuseGlimmerForConditionalGeneration",
    "MuseSparkForConditionalGeneration", "PaddleOCRVLForConditionalGeneration", "Qwen3_5ForConditionalGeneration",
    "Qwen3_5MoeForConditionalGeneration", "Qwen4ExpForConditionalGeneration",
))  # fmt: skip
"""Classes with encoders whose prefill runs in CUDA graphs in 0.5.23."""
LATER: Final = (0, 5, 6)
ALL_GRAPHS: Final = (0, 5, 13)
LAYERS, WIDTH = 24, 1024
"""Of the encoder that others are compared with, ViT-L/14; also what stands for a key that a config lacks."""


def sees(model: Model, said: Mapping[str, Any], release: Release) -> bool:
    """Whether a release serves the model's encoders."""
    if said.get("language_model_only") or not any(t.role in ENCODERS for t in model.extra):
        return False
    name = model.class_name
    if name in UNASKED and release >= UNASKED[name] and not said.get("enable_multimodal"):
        return False
    return release >= LATER or (name in EARLY and release >= EARLY[name])


def eager(model: Model, release: Release) -> bool:
    """Whether prompts of a model with encoders run without CUDA graphs."""
    return release < ALL_GRAPHS or model.class_name not in REPLAYED


def lowered(fraction: float, model: Model, *, asked: bool, release: Release) -> float:
    """The static fraction that is left with encoders.

    Args:
        fraction: without them.
        model: whose encoders.
        asked: whether the fraction was said; only releases before 0.4.9 lower that.
        release: of the engine.
    """
    if release < (0, 4, 5):
        return fraction * 0.95
    if asked:
        return fraction
    if release < (0, 5):
        return fraction * 0.9
    if model.sight is None:
        return fraction
    layers, width = _size(model)
    ratio = layers * width**2 / (LAYERS * WIDTH**2)
    return fraction * 0.95 * max(0.8, min(1.05, 1 - 0.1 * (ratio - 1)))


def _size(model: Model) -> tuple[int, int]:
    """Layers and width that the engine reads of ``vision_config``: towers of blocks name their layers otherwise."""
    assert model.sight is not None
    layers, width = model.sight
    names = [t.name for t in model.extra if t.role == "vision"]
    if layers is None:
        found = {int(m[1]) for n in names if (m := re.search(r"\.layers?\.(\d+)\.", n))}
        layers = max(found) + 1 if found and not any(".blocks." in n for n in names) else LAYERS
    return layers, WIDTH if width is None else width
