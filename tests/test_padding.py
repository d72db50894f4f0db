"""Batches that are padded to their own longest sample: the range between the mean length and the longest."""

from __future__ import annotations

from typing import Any

import pytest

import tonnage as tn
from tonnage.timeline import TIERS

ASKED: dict[str, Any] = {"gpu": "a100-80gb", "batch": 2, "suggest": False}


def ends(found: Any) -> dict[str, list[int]]:
    return dict(found.fullest.as_dict()["range"])


@pytest.mark.parametrize("more", [{}, {"objective": "dpo", "reference": "resident"}, {"recompute": "full"}])
def test_the_range_begins_at_the_mean_and_ends_at_the_longest(more: dict[str, Any]) -> None:
    longest, mean = (tn.train("llama-3.2-1b", seq=n, **ASKED, **more) for n in (1024, 256))
    found = tn.train("llama-3.2-1b", seq=1024, mean_length=256, **ASKED, **more)
    for tier in TIERS:
        assert found.fullest.tier(tier) == longest.fullest.tier(tier)
        assert ends(found)[tier] == [ends(mean)[tier][0], ends(longest)[tier][1]]
    assert all(0 <= c.low_bytes <= c.bytes <= c.high_bytes for c in found.components)
    assert found.workload["mean_length"] == 256
    assert any("begins at batches of 256 tokens" in told for told in found.caveats)


def test_a_run_that_fits_at_the_mean_alone_is_uncertain() -> None:
    asked = {**ASKED, "gpu": "24GiB", "batch": 8}
    verdicts = [tn.train("llama-3.2-1b", seq=n, **asked).fit.verdict for n in (256, 2048)]
    assert verdicts == ["fits", "does not fit"]
    assert tn.train("llama-3.2-1b", seq=2048, mean_length=256, **asked).fit.verdict == "uncertain"


def test_what_was_measured_on_padded_batches_lies_in_the_range() -> None:
    """LoRA of Llama 3.2 3B in peft's benchmark, at most 768 tokens: 22,292,725,760 bytes (accuracy, finetuning)."""
    found = tn.train(
        "llama-3.2-3b", gpu="l40s", precision="bf16", lora_rank=32, lora_targets=("q_proj", "v_proj"), batch=4, seq=768,
        mean_length=256, optimizer="adamw-foreach", stack_version="5.13.1", suggest=False,
    )  # fmt: skip
    low, high = ends(found)["reserved"]
    assert low < 22_292_725_760 < high


def test_a_mean_beyond_the_longest_is_refused() -> None:
    with pytest.raises(tn.TonnageError, match="mean_length = 300 is longer than the longest sample, seq = 200"):
        tn.train("llama-3.2-1b", seq=200, mean_length=300)


@pytest.mark.parametrize("gpu", ["4GiB", "24GiB"])
def test_a_suggested_change_is_answered_as_it_says(gpu: str) -> None:
    """Sequences shorter than the mean have that length as their mean."""
    said: dict[str, Any] = {"gpu": gpu, "seq": 2048, "batch": 16, "mean_length": 1000}
    found = tn.train("smollm2-135m", **said).fit
    assert found is not None
    assert found.suggestion is not None
    again = tn.train("smollm2-135m", **said | dict(found.suggestion.change))
    assert again.fit is not None
    assert again.fit.verdict == found.suggestion.verdict
