"""Parts of models that see which LLaMA-Factory does not train."""

from __future__ import annotations

from typing import Any

import pytest

import tonnage as tn
from tonnage.errors import InputError

# Elements of rank 8 beside seven matrices of a layer: its widths in and out, added up.
QWEN = 28 * 8 * ((3584 + 3584) * 2 + (3584 + 512) * 2 + (3584 + 18944) * 3)
GEMMA = 18 * 8 * ((2048 + 2048) * 2 + (2048 + 256) * 2 + (2048 + 16384) * 3)


@pytest.mark.parametrize(("name", "adapted"), [("qwen2.5-vl-7b", QWEN), ("paligemma-3b-pt-224", GEMMA)])
@pytest.mark.parametrize(
    "said", [{"stack": "llama-factory"}, {"freeze": ["vision", "projector"], "lora_targets": ["all-linear"]}]
)
def test_adapters_are_beside_the_language_model_alone(name: str, adapted: int, said: dict[str, Any]) -> None:
    result = tn.train(name, seq=64, lora_rank=8, suggest=False, **said)
    assert result.model["trainable_parameters"] == adapted


def test_a_type_that_is_not_registered_is_adapted_whole() -> None:
    """LFM2-VL is none of LLaMA-Factory's composite models."""
    told = tn.train("lfm2.5-vl-1.6b", seq=64, lora_rank=8, stack="llama-factory", suggest=False)
    assert told.model["trainable_parameters"] > 10_000_000
    assert "fc1" in told.workload["lora_targets"]


def test_the_whole_language_model_is_trained() -> None:
    model = tn.load("paligemma-3b-pt-224")
    sees = sum(t.numel for t in model.weights() if t.role == "vision")
    result = tn.train("paligemma-3b-pt-224", seq=64, stack="llama-factory", suggest=False)
    assert result.model["trainable_parameters"] == model.parameters.total - sees
    whole = tn.train("paligemma-3b-pt-224", seq=64, stack="llama-factory", freeze=["none"], suggest=False)
    assert whole.model["trainable_parameters"] == model.parameters.total


@pytest.mark.parametrize(
    ("name", "said", "why"),
    [
        ("llama-3.2-1b", {"freeze": ["vision"]}, "are not known so"),
        ("paligemma-3b-pt-224", {"freeze": ["language", "vision", "projector"]}, "nothing is left"),
        ("paligemma-3b-pt-224", {"freeze": ["tower"]}, "tower"),
    ],
)
def test_what_cannot_be_frozen_is_refused(name: str, said: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        tn.train(name, seq=64, suggest=False, **said)
