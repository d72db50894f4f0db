"""The catalogue of named models: complete rows, unambiguous names, and JSON that says what the TOML says."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tonnage import api

DATA = Path(__file__).parent.parent / "src" / "tonnage" / "data"
TOML: dict[str, Any] = tomllib.loads((DATA / "catalogue.toml").read_text(encoding="utf-8"))
JSON: dict[str, Any] = json.loads((DATA / "catalogue.json").read_text(encoding="utf-8"))

PAPER_ONLY = {"gpt-3-175b", "opt-175b"}
"""Architectures of a paper; no public repository holds their config."""

TYPES = {
    *("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text"),
    *("phi", "phi3", "gpt2", "gpt_neo", "gptj", "gpt_neox", "opt", "bloom", "falcon", "mpt", "deepseek_v2"),
    *("deepseek_v3", "olmo", "olmo2", "olmoe", "granite", "starcoder2", "stablelm", "cohere", "cohere2", "gpt_oss"),
    *("glm4", "smollm3", "mamba", "mamba2", "jamba", "bert", "t5", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava"),
    *("paligemma", "mistral3", "qwen3_5", "qwen3_5_moe", "qwen3_next", "deepseek_v32", "deepseek_v4", "gemma3"),
    *("gemma4", "kimi_k2", "kimi_k25", "kimi_k3", "nemotron_h", "nemotron-nas", "mimo", "glm_moe_dsa", "glm4_moe"),
    *("glm4_moe_lite", "minimax_m2", "minimax_m3_vl", "mllama", "exaone4", "exaone4_5", "lfm2_vl", "olmo3", "voxtral"),
    *("llama4", "qwen3_vl_moe", "gemma3n"),
}
"""Every one of them has at least one real model."""

DEPTH = {"num_hidden_layers", "n_layer", "n_layers", "num_layers"}
WIDTH = {"hidden_size", "n_embd", "d_model"}
HEADS = {"num_attention_heads", "n_head", "n_heads", "num_heads"}
WITHOUT_HEADS = {"mamba"}


def test_json_equals_toml() -> None:
    models = {
        name: {
            "config": row["config"] | dict.fromkeys(row.get("nulls", [])),
            "parameters": row["parameters"],
            "hub": row["hub"],
            "source": row["source"],
        }
        for name, row in TOML.items()
    }
    assert JSON["rows"] == models
    assert JSON["head"]["aliases"] == {alias.lower(): name for name, row in TOML.items() for alias in row["aliases"]}
    assert set(JSON) == {"head", "rows"}


@pytest.mark.parametrize("name", TOML)
def test_row_is_complete(name: str) -> None:
    row = TOML[name]
    assert set(row) - {"nulls"} == {"hub", "aliases", "parameters", "source", "config"}
    assert row["source"]
    assert row["parameters"] > 0
    assert row["hub"] == "" if name in PAPER_ONLY else re.fullmatch(r"[\w.-]+/[\w.-]+", row["hub"])
    config = row["config"]
    assert config["model_type"] in TYPES
    assert len(config["architectures"]) == 1
    # A language model behind a tower states its sizes in a config of its own, or leaves them to its defaults.
    text = config.get("text_config", config)
    if text is config or "hidden_size" in text:
        assert len(DEPTH & set(text)) == 1
        assert len(WIDTH & set(text)) == 1
        assert len(HEADS & set(text)) == (config["model_type"] not in WITHOUT_HEADS)
        assert text["vocab_size"] > 0
    assert not set(config) & set(row.get("nulls", []))


def test_every_model_type_has_a_row() -> None:
    assert {row["config"]["model_type"] for row in TOML.values()} == TYPES


@pytest.mark.parametrize("name", TOML)
def test_name_is_lower_case_with_dashes(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9.]+(-[a-z0-9.]+)*", name)


def test_names_and_aliases_are_unique_whatever_their_case() -> None:
    spellings = [*TOML, *(alias for row in TOML.values() for alias in row["aliases"])]
    assert [text for text, times in Counter(map(str.lower, spellings)).items() if times > 1] == []


def test_every_hub_id_is_an_alias_of_its_row() -> None:
    assert [name for name, row in TOML.items() if row["hub"] and row["hub"] not in row["aliases"]] == []


def test_counts_that_others_published() -> None:
    """Totals of the released safetensors, in the repositories that hold nothing but weights."""
    published = {
        "llama-3.1-8b": 8_030_261_248,
        "qwen2.5-7b": 7_615_616_512,
        "gemma-2-9b": 9_241_705_984,
        "mixtral-8x7b": 46_702_792_704,
        "deepseek-v2": 235_741_434_880,
        "phi-2": 2_779_683_840,
        "olmoe-1b-7b": 6_919_161_856,
        "mamba-370m": 371_516_416,
    }
    assert {name: JSON["rows"][name]["parameters"] for name in published} == published


@pytest.mark.parametrize("name", TOML)
def test_parameters_are_those_of_the_config(name: str) -> None:
    assert api.load(name).parameters.total == TOML[name]["parameters"]
