"""Longformer and BigBird: the closed form of a step against a live trace of transformers' code, to the byte."""

from __future__ import annotations

from typing import Any, Final

import pytest
import test_trace_against_the_closed_form as closed
from tracing_cases import most_by_part, traced, traced_by_part

import tonnage as tn
from tonnage.tracing.levels import levels

SMALL: Final[dict[str, Any]] = {
    "model_type": "longformer", "architectures": ["LongformerForMaskedLM"], "vocab_size": 100, "hidden_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 130,
    "attention_window": [16, 16], "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    "type_vocab_size": 1, "sep_token_id": 2,
}  # fmt: skip
DROPS: Final = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
DEEP: Final = {"num_hidden_layers": 4, "attention_window": 16}
CASES: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "plain": ({}, {}),
    "one sequence": ({}, {"batch": 1}),
    "one sequence, mixed": ({}, {"batch": 1, "precision": "bf16-mixed"}),
    "windows of its own": ({"attention_window": [8, 16]}, {}),
    "a window as long as the text": ({"attention_window": [64, 64]}, {}),
    "three sequences": ({"num_attention_heads": 2, "attention_window": [32, 32]}, {"batch": 3, "seq": 96}),
    "one head": ({"num_attention_heads": 1}, {}),
    "dropout": (DROPS, {}),
    "bf16": ({}, {"precision": "bf16"}),
    "fp16, untied": (DROPS | {"tie_word_embeddings": False, "type_vocab_size": 2}, {"precision": "fp16"}),
    "mixed": (DROPS, {"precision": "bf16-mixed"}),
    "autocast": ({}, {"precision": "bf16-autocast"}),
    "recomputed": ({}, {"recompute": "full"}),
    "deep, recomputed": (DEEP, {"recompute": "full", "precision": "bf16"}),
    "mixed, recomputed": (DROPS, {"recompute": "full", "precision": "bf16-mixed"}),
    "outputs": ({}, {"retain": ["outputs"]}),
    "accumulated": ({}, {"accumulate": 4}),
    "first step": ({}, {"first_step": True}),
}
BLOCKS: Final[dict[str, Any]] = {
    "model_type": "big_bird", "architectures": ["BigBirdForMaskedLM"], "vocab_size": 100, "hidden_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 256,
    "block_size": 8, "num_random_blocks": 2, "attention_type": "block_sparse", "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0, "type_vocab_size": 2, "sep_token_id": 66,
}  # fmt: skip
SPARSE: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "plain": ({}, {}),
    "one random block": ({"num_random_blocks": 1}, {}),
    "small blocks": ({"block_size": 4}, {"seq": 256, "batch": 3}),
    "scaled, without biases, untied": (
        {"rescale_embeddings": True, "use_bias": False, "tie_word_embeddings": False}, {},
    ),
    "dropout": ({"hidden_dropout_prob": 0.1}, {}),
    "bf16": ({}, {"precision": "bf16"}),
    "fp16": ({"hidden_dropout_prob": 0.1}, {"precision": "fp16"}),
    "mixed": ({"hidden_dropout_prob": 0.1}, {"precision": "bf16-mixed"}),
    "mixed, one sequence": ({"num_attention_heads": 2}, {"precision": "bf16-mixed", "batch": 1}),
    "autocast": ({}, {"precision": "bf16-autocast"}),
    "recomputed": ({}, {"recompute": "full"}),
    "deep, recomputed": ({"num_hidden_layers": 4}, {"recompute": "full", "precision": "bf16"}),
    "mixed, recomputed": ({"hidden_dropout_prob": 0.1}, {"recompute": "full", "precision": "bf16-mixed"}),
    "outputs": ({}, {"retain": ["outputs"]}),
    "accumulated": ({}, {"accumulate": 4}),
    "first step": ({}, {"first_step": True}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_token_is_seen_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder asks its mask whether any is: a trace has no data to answer that."""
    import torch

    known = torch.Tensor.any

    def answered(self: Any, *args: Any, **how: Any) -> Any:
        found = known(self, *args, **how)
        found.item = lambda: False
        return found

    monkeypatch.setattr(torch.Tensor, "any", answered)


def parts(c: dict[str, Any], said: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, int], ...]:
    """The most that tensors take in each part: by the closed form, which holds the whole step, and traced. [byte]"""
    most = most_by_part(monkeypatch)
    result = tn.train({"config": c}, suggest=False, replay=True, **said)
    found = levels(traced(c, layers="all", **said))
    got = traced_by_part(found)
    tiers = [result.ranks[0].tier(tier) for tier in ("allocated", "reserved")]
    assert tiers[0] == found.samples[found.peak][1]
    assert abs(tiers[1] - found.reserved) <= closed.SMALL
    assert found.traced.told["trainable"] == result.model["trainable_parameters"]
    return most, got


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_longformer(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    more, asked = CASES[case]
    most, got = parts({**SMALL, **more}, {"precision": "fp32", "batch": 2, "seq": 64} | asked, monkeypatch)
    assert most == got


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", SPARSE)
def test_big_bird(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    more, asked = SPARSE[case]
    most, got = parts({**BLOCKS, **more}, {"precision": "fp32", "batch": 2, "seq": 128} | asked, monkeypatch)
    assert most == got


@pytest.mark.filterwarnings("ignore")
def test_big_bird_of_one_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lowest layer lets go of the mask of ones within its own pass, which is counted to the end of that."""
    most, got = parts(BLOCKS, {"precision": "fp32", "batch": 1, "seq": 128}, monkeypatch)
    assert most.pop("backward layer 0") - got.pop("backward layer 0") == 4 * 128
    assert most == got
