"""Every type's small configs together, and what transformers builds of a config on the meta device."""

from __future__ import annotations

import random
from importlib.util import find_spec
from typing import Any

import torch
import transformers
from audiovisual import AUDIOVISUAL, LACKING
from composites import COMPOSITES, NEEDED, TIMM
from language import COMPLETE, CUT, LANGUAGE
from speech import SPEAKERS, SPEECH, STATED
from tables import Table

# The auto classes look for Evolla's config under an older name of its type, and do not find it.
for auto in (transformers.AutoModel, transformers.AutoModelForMultimodalLM):
    auto._model_mapping._reverse_config_mapping["EvollaConfig"] = "evolla"


def _all_reused(self: Any) -> list[str | None]:
    """An assistant of Gemma 4 reuses the keys and values of another model in every layer, which its config demands and
    this release's own check of them forbids: no assistant can be built."""
    if self.num_kv_shared_layers == self.num_hidden_layers:
        return ["reuse"] * self.num_hidden_layers
    return MODES[type(self)](self)


MODES = {}
for kind in (transformers.Gemma4TextConfig, transformers.Gemma4UnifiedTextConfig):
    MODES[kind] = kind.kv_sharing_modes.fget
    kind.kv_sharing_modes = property(_all_reused)

SUNG = ("musicgen", "musicgen_melody")
"""Types whose causal class is of another config than the auto classes look for."""
LAYERS = 4
DEPTHS = (
    "num_hidden_layers",
    "num_layers",
    "num_decoder_layers",
    "n_layer",
    "n_layers",
    "encoder_layers",
    "decoder_layers",
    "depth",
)
"""Keys that tell how many layers there are."""
COMPOSED: dict[str, Table] = {**COMPOSITES, **AUDIOVISUAL, **(TIMM if find_spec("timm") else {})}
UNBUILT = {"plain", "kimi_k3", "kimi_k3_text", "mimo", "nemotron_nas", "qwen", *(() if find_spec("timm") else TIMM)}
"""Families of our own, of code that a release brings itself, and those whose tower's library is not there."""
NO_DEFAULT = {"gemma4_assistant"}
"""Types whose config refuses its own defaults."""
PERTURBED: dict[str, Table] = {**LANGUAGE, **COMPOSED, **SPEECH}
"""For each model type the keys that are perturbed and the values they are drawn from; any combination is valid."""
TOWERS = {**COMPLETE, **SPEAKERS}
SHALLOW = {**CUT, **NEEDED, **LACKING, **STATED}
"""What else has to change when a model is cut to four layers."""


def cut(config: dict[str, Any]) -> dict[str, Any]:
    """The same config with a few layers."""
    depths = {k: config[k] for k in DEPTHS if isinstance(config.get(k), int)}
    config = {k: min(v, LAYERS) if k in depths else v for k, v in config.items()}
    for key, value in config.items():
        if isinstance(value, list) and len(value) in depths.values() and len(value) > LAYERS:
            config[key] = value[:LAYERS]
        elif isinstance(value, dict) and "model_type" in value and config["model_type"] in COMPOSED:
            config[key] = cut(value)
    return {**config, **SHALLOW.get(config["model_type"], {})}


def classes(model_type: str) -> dict[str, str]:
    """Its language models and what builds them: causal, masked, of sequence to sequence; else the bare model."""
    from transformers.models.auto import modeling_auto as auto

    if model_type in SUNG:
        return {auto.MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING_NAMES[model_type]: "AutoModelForTextToWaveform"}
    tables = {
        "CausalLM": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "MaskedLM": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "Seq2SeqLM": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        "SpeechSeq2Seq": auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
        **({"MultimodalLM": auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES} if model_type in COMPOSED else {}),
    }
    found: dict[str, str] = {}
    for kind, table in tables.items():
        if model_type in table:
            found.setdefault(table[model_type], f"AutoModelFor{kind}")
    return found or {auto.MODEL_MAPPING_NAMES[model_type]: "AutoModel"}


DEMANDS: dict[str, dict[str, Any]] = {
    "ReformerModelWithLMHead": {"is_decoder": True},
    "ReformerForMaskedLM": {"is_decoder": False},
}
"""What a class wants its config to say, which changes no tensor."""


def built(config: dict[str, Any]) -> Any:
    """transformers' model of a config, on the meta device: the class that it names, else the type's first."""
    kept = {k: v for k, v in config.items() if k not in ("model_type", "transformers_version", "architectures")}
    found = classes(config["model_type"])
    named = (config.get("architectures") or [None])[0]
    kept.update(DEMANDS.get(named if named in found else next(iter(found)), {}))
    reference = transformers.AutoConfig.for_model(config["model_type"], **kept)
    with torch.device("meta"):
        return getattr(transformers, found.get(named, next(iter(found.values())))).from_config(reference)


def of_class(config: dict[str, Any], auto: str, **more: Any) -> Any:
    """The class that an ``AutoModel...`` makes of a config, on the meta device."""
    kept = {k: v for k, v in config.items() if k != "model_type"}
    reference = transformers.AutoConfig.for_model(config["model_type"], **kept, **more)
    with torch.device("meta"):
        return getattr(transformers, auto).from_config(reference)


def drawn(family: str, seed: int) -> dict[str, Any]:
    """One config of the table; the same for the same seed."""
    rng = random.Random(f"{family} {seed}")
    chosen: dict[str, Any] = {"model_type": family}
    for key, values in PERTURBED[family].items():
        value = rng.choice(values)
        chosen.update({key: value} if isinstance(key, str) else zip(key, value, strict=True))
    return chosen
