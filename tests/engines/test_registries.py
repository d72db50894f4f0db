"""Which models a release of an engine serves, held against its registry and its own refusals."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

import tonnage as tn
from tonnage.memory.pool.registries import ENGINES, support
from tonnage.rows import FOLDER

H100 = {"gpu": "h100-sxm-80gb", "context": 512, "suggest": False}
T5 = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 512, "d_kv": 64, "d_ff": 2048,
      "num_layers": 6, "num_heads": 8, "vocab_size": 32128}  # fmt: skip
SMOL = {"model_type": "smollm3", "architectures": ["SmolLM3ForCausalLM"], "hidden_size": 2048, "num_hidden_layers": 36,
        "intermediate_size": 11008, "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 128256,
        "max_position_embeddings": 65536}  # fmt: skip
OLMO = {"model_type": "olmo2", "architectures": ["Olmo2ForCausalLM"], "hidden_size": 4096, "num_hidden_layers": 32,
        "intermediate_size": 11008, "num_attention_heads": 32, "vocab_size": 100352,
        "max_position_embeddings": 4096}  # fmt: skip
BLOOM = {"model_type": "bloom", "architectures": ["BloomForCausalLM"], "hidden_size": 1024, "n_layer": 24, "n_head": 16,
         "vocab_size": 250880}  # fmt: skip


def answer(config: dict[str, Any], **said: Any) -> Any:
    return tn.serve({"config": config, "name": "it"}, **{**H100, **said})


@pytest.mark.parametrize(
    ("config", "said", "words"),
    [
        (T5, {"engine": "vllm"}, "vllm 0.33 does not serve T5ForConditionalGeneration; --engine tensorrt-llm or trans"),
        (T5, {"engine": "sglang"}, "sglang 0.5 does not serve T5ForConditionalGeneration"),
        (T5, {"engine": "tgi"}, "tgi 3.3 runs t5 by code that keeps no pool"),
        (T5, {"engine": "tensorrt-llm"}, "releases from 1.3 on do; --engine-version 1.3"),
        (BLOOM, {"engine": "sglang"}, "does not serve BloomForCausalLM; --engine vllm or transformers"),
        (BLOOM, {"engine": "tgi"}, "tgi 3.3 runs bloom by code that keeps no pool"),
        (SMOL, {"engine": "vllm", "engine_version": "0.6"}, "releases from 0.10 on do"),
        ({**OLMO, "architectures": ["OlmoWithAnotherHeadForCausalLM"]}, {"engine": "vllm"}, "OlmoWithAnotherHead"),
        # "Model architecture Phi3SmallForCausalLM was supported in vLLM until v0.9.2".
        ({**OLMO, "architectures": ["Phi3SmallForCausalLM"]}, {"engine": "vllm"}, "from 0.6 to before 0.10 do"),
    ],
)
def test_what_an_engine_does_not_serve_is_refused_by_name(
    config: dict[str, Any], said: dict[str, Any], words: str
) -> None:
    with pytest.raises(tn.UnsupportedError, match=re.escape(words)) as caught:
        answer(config, **said)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (SMOL, {"engine": "vllm"}),
        (OLMO, {"engine": "vllm", "engine_version": "0.26"}),
        (SMOL, {"engine": "sglang", "engine_version": "0.5.5"}),
        (SMOL, {"engine": "tgi"}),
    ],
)
def test_transformers_code_over_the_pool_is_told(config: dict[str, Any], said: dict[str, Any]) -> None:
    found = answer(config, **said)
    assert "by its Transformers backend" in found.caveats[0]
    assert found.capacity["tokens"] > 0


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (OLMO, {"engine": "vllm", "engine_version": "0.25"}),
        (OLMO, {"engine": "sglang"}),
        ({k: v for k, v in OLMO.items() if k != "architectures"}, {"engine": "vllm", "engine_version": "0.25"}),
    ],
)
def test_an_engines_own_code_needs_no_word(config: dict[str, Any], said: dict[str, Any]) -> None:
    found = answer(config, **said)
    assert not any("Transformers backend" in c for c in found.caveats)
    assert not any("architecture" in n for n in found.not_modelled)


def test_a_patch_release_is_told_apart() -> None:
    # GlmOcr is on none of the lists of 0.5.5 and on that of 0.5.12.
    model = tn.load({"config": {**OLMO, "architectures": ["GlmOcrForConditionalGeneration"]}, "name": "it"})
    assert support("sglang", model, (0, 5, 5)).how == "none"
    assert support("sglang", model, (0, 5, 12)).how == "own"


def test_a_head_is_turned_as_vllm_turns_it() -> None:
    # LlamaForSequenceClassification is on no list; vllm makes it of LlamaForCausalLM.
    model = tn.load("llama-3.1-8b", head="classify:2")
    assert support("vllm", model, (0, 33, 0)).how == "own"
    scored = tn.load({"config": {**OLMO, "architectures": ["Olmo2ForSequenceClassification"]}, "name": "it"})
    assert support("vllm", scored, (0, 25, 0)).how == "own"
    assert support("vllm", scored, (0, 9, 0)).how == "none"


def test_dimensions_alone_are_answered_with_the_word() -> None:
    found = answer({"model_type": "plain", "hidden": 768, "layers": 12, "heads": 12, "vocab": 50257}, engine="vllm")
    assert "whether this release has the model's architecture" in found.not_modelled


@pytest.mark.parametrize("engine", ENGINES)
def test_a_list_is_sorted_and_its_releases_grow(engine: str) -> None:
    with open(os.path.join(FOLDER, "served", f"{engine.replace('-', '_')}.txt"), encoding="utf-8") as file:
        rows = [line.split() for line in file if not line.startswith("#")]
    names = [row[0] for row in rows]
    assert len(set(names)) == len(names) > 30
    for row in rows:
        releases = [tuple(map(int, word.lstrip("-~!").split("."))) for word in row[1:]]
        assert releases == sorted(set(releases)), row
        assert row[1][0] != "-"


@pytest.mark.parametrize("text", ["0.5.-1", "0.5.", "0.5..1", "v", "0.5.1.2.3.4"])
def test_what_is_no_release_is_refused(text: str) -> None:
    with pytest.raises(tn.InputError, match="not a version"):
        answer(OLMO, engine="sglang", engine_version=text)


def test_an_empty_class_is_no_class() -> None:
    with pytest.raises(tn.TonnageError, match="architectures must be a list of class names"):
        answer({**OLMO, "architectures": [""]}, engine="vllm")
