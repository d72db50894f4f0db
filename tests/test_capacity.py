"""Experts with a capacity: how tokens are spread, the range of what a router may do, what is refused.

tests/reference/test_trace_of_capacity.py holds the answers against Switch Transformers' own code.
"""

from __future__ import annotations

from typing import Any

import pytest

import tonnage as tn
from tonnage.arch.capacity import Shares, capped
from tonnage.errors import InputError, UnsupportedError
from tonnage.families import model_from

SWITCH: dict[str, Any] = {
    "model_type": "switch_transformers", "vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 3072,
    "expert_capacity": 64, "num_layers": 12, "num_sparse_encoder_layers": 6, "num_decoder_layers": 12,
    "num_sparse_decoder_layers": 6, "num_heads": 12, "num_experts": 8, "dropout_rate": 0.1,
}  # fmt: skip
"""The shape of google/switch-base-8."""
FILLED = [Shares(imbalance=64, fills=True, spares=True, upward=up) for up in (False, True)]
SPREAD = [Shares(), Shares(imbalance=1.5), Shares(imbalance=4.0), *FILLED]
SHAPE: dict[str, Any] = {"batch": 2, "seq": 256, "precision": "fp32", "replay": False, "suggest": False}


@pytest.mark.parametrize("shares", SPREAD)
@pytest.mark.parametrize(("sequences", "tokens", "experts"), [(1, 1, 8), (3, 7, 8), (2, 512, 64), (4, 60, 4)])
def test_every_token_is_spread_where_there_is_room(shares: Shares, sequences: int, tokens: int, experts: int) -> None:
    found = shares.counts(sequences, tokens, experts, tokens)
    assert [sum(row) for row in found] == [tokens] * sequences
    full = shares.counts(sequences, tokens, experts, 2)
    assert all(0 <= n <= 2 for row in full for n in row)
    if shares.fills:
        assert [sum(row) for row in full] == [min(tokens, 2 * experts)] * sequences


def test_a_token_over_the_capacity_goes_through_none() -> None:
    assert Shares(imbalance=8).counts(2, 256, 8, 64) == [[0] * 7 + [64]] * 2
    # 32 of each at the mean: none is dropped.
    assert Shares().counts(1, 256, 8, 64) == [[32] * 8]
    assert Shares().counts(1, 1024, 8, 64) == [[64] * 8]


def test_experts_without_tokens_have_no_gradient_and_no_state() -> None:
    even = tn.train({"config": SWITCH}, expert_imbalance=1, **SHAPE).ranks[0]
    one = tn.train({"config": SWITCH}, expert_imbalance=8, **SHAPE).ranks[0]
    state = [next(c.bytes for c in r.components if c.name == "optimizer_state") for r in (even, one)]
    # Seven of eight experts in twelve layers, two moments in fp32, a counter for each of two matrices.
    assert state[0] - state[1] == 12 * 7 * (2 * (2 * 768 * 3072 * 4) + 2 * 4)


def test_the_range_is_about_experts_that_are_even() -> None:
    result = tn.train({"config": SWITCH}, **SHAPE)
    rank = result.ranks[0]
    even = tn.train({"config": SWITCH}, expert_imbalance=1, **SHAPE).ranks[0]
    assert rank.tier("requested") == even.tier("requested") == even.tier("requested", "low_bytes")
    assert rank.tier("requested", "low_bytes") < rank.tier("requested") <= rank.tier("requested", "high_bytes")
    assert "64 tokens of a sequence at most" in " ".join(result.caveats)


def test_the_router_is_in_its_own_format() -> None:
    half = tn.train({"config": SWITCH}, **SHAPE | {"precision": "bf16"}, expert_imbalance=1).ranks[0]
    weights = next(c.bytes for c in half.components if c.name == "weights")
    assert weights == 2 * 619_339_008 + 2 * 12 * 8 * 768


def test_a_mask_that_is_taken_for_numbers_runs_two_experts() -> None:
    config = {
        "model_type": "nllb-moe", "vocab_size": 256, "d_model": 64, "encoder_layers": 4, "decoder_layers": 4,
        "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "num_experts": 128, "expert_capacity": 64, "max_position_embeddings": 512,
    }  # fmt: skip
    result = tn.train({"config": config}, **SHAPE)
    told = " ".join(result.caveats)
    assert "expert 1 for each that is sent" in told
    # Of 128 experts in two layers, 126 of a matrix up and one down with their biases.
    assert f"no gradient reaches {2 * 126 * (2 * 64 * 96 + 64 + 96):,} parameters" in told
    block = capped(model_from(config))[0]
    # 512 tokens, all of which have room: each goes 127 times through expert 0 and once through expert 1.
    assert block.hit(2, 256) == [(0, 127 * 512), (1, 512)]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"experts": "grouped_mm"}, "modules of their own"),
        ({"experts": "batched_mm"}, "modules of their own"),
        ({"expert_imbalance": 9}, "8 times the mean"),
    ],
)
def test_contradictions_are_named(said: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tn.train({"config": SWITCH}, **SHAPE | said)


@pytest.mark.parametrize(
    "said",
    [
        {"lora_rank": 8},
        {"lora_rank": 8, "lora_targets": ["all-linear"]},
        {"lora_rank": 8, "lora_targets": ["wi"]},
        {"adapter": "dora", "lora_rank": 8, "lora_targets": ["q"]},
        {"eval_batch": 4},
        {"quant": "nf4"},
        {"precision": "fp16"},
    ],
)
def test_what_is_not_modelled_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match="not modelled with experts that have a capacity"):
        tn.train({"config": SWITCH}, **SHAPE | said)
