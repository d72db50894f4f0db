"""What would make it fit."""

from __future__ import annotations

from typing import Any

import pytest

import tonnage as tn
from tonnage.estimate.result import Suggestion


def suggestion(model: str, **said: Any) -> Suggestion:
    fit = tn.train(model, **said).fit
    assert fit is not None
    assert fit.suggestion is not None
    return fit.suggestion


def verdict(model: str, said: dict[str, Any], change: dict[str, Any]) -> tuple[str, int]:
    again = tn.train(model, suggest=False, **{**said, **change})
    assert again.fit is not None
    return again.fit.verdict, again.fullest.tier("device")


CASES: list[tuple[str, dict[str, Any], set[str], tuple[str, ...]]] = [
    ("llama-3.1-8b", {"gpu": "l4", "lora_rank": 16}, {"recompute"}, ()),
    ("llama-3.1-8b", {"gpu": "h100-sxm-80gb", "seq": 32768}, {"recompute", "kernels"}, ()),
    ("gpt2", {"gpu": "4GiB", "batch": 16}, {"recompute", "batch", "accumulate", "optimizer"}, ("optimizer",)),
    ("llama-3.1-8b", {"gpu": "rtx-4090"}, {"recompute", "lora_rank", "lora_targets"}, ("lora_rank",)),
    (
        "llama-3.1-70b",
        {"gpu": "h100-sxm-80gb"},
        {"recompute", "lora_rank", "lora_targets", "quant"},
        ("lora_rank", "quant"),
    ),
]


@pytest.mark.parametrize(("model", "said", "keys", "alters"), CASES)
def test_the_least_that_is_enough(model: str, said: dict[str, Any], keys: set[str], alters: tuple[str, ...]) -> None:
    """It fits with the change to the byte that is told, and not with a part of it."""
    found = suggestion(model, **said)
    assert set(found.change) == keys
    assert found.alters == alters
    assert verdict(model, said, dict(found.change)) == ("fits", found.device_bytes)
    parts = [{"batch", "accumulate"}, {"lora_rank", "lora_targets", "quant"}]
    for key in found.change:
        part = next((part for part in parts if key in part), {key})
        left = {name: value for name, value in found.change.items() if name not in part}
        # A suggestion is what fits without the replay of the allocator, which may show that less is enough.
        assert verdict(model, said | {"replay": False}, left)[0] != "fits"


def test_a_change_is_told_as_its_flags() -> None:
    text = suggestion("llama-3.1-8b", gpu="rtx-4090").text
    assert text.endswith("(--recompute full --lora-rank 16 --lora-targets all-linear)")


def test_nothing_is_suggested_where_nothing_helps() -> None:
    found = tn.train("llama-3.1-70b", gpu="8GiB")
    assert found.fit is not None
    assert found.fit.suggestion is None
    assert any("nor do several at once" in c for c in found.caveats)


def test_a_served_model_may_be_quantized() -> None:
    fit = tn.serve("llama-3.1-70b", gpu="h100-sxm-80gb").fit
    assert fit is not None
    assert fit.suggestion is not None
    assert fit.suggestion.change == {"quant": "nf4"}
