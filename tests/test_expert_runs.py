"""What a router may choose: a range where experts run in a loop, none where they run by grouped products.

tests/reference/test_experts_in_a_loop.py holds the ends of the range against real runs.
"""

from __future__ import annotations

from typing import Any

import pytest

import tonnage as tn
from tonnage.arch.experts_loop import spread
from tonnage.errors import InputError, UnsupportedError

SHAPE: dict[str, Any] = {"seq": 512, "replay": False, "suggest": False}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("imbalance", [1.0, 1.2, 2.0, 3.9, 8.0])
@pytest.mark.parametrize(("tokens", "used", "experts"), [(1, 2, 16), (7, 2, 16), (512, 8, 64), (4096, 1, 8)])
def test_every_token_is_spread(tokens: int, used: int, experts: int, imbalance: float, late: bool) -> None:
    found = spread(tokens, used, experts, min(imbalance, experts / used), late=late)
    assert sum(found) == tokens * used
    assert len(found) <= experts
    assert 0 < min(found) <= max(found) <= tokens


def test_all_tokens_at_the_same_experts_are_as_many_as_there_are_tokens() -> None:
    assert spread(4096, 2, 8, 4.0) == [4096, 4096]
    assert spread(4096, 2, 8, 4.0, late=True) == [4095, 4096, 1]
    # Half as much again as the mean of 1,024, and what is left.
    assert spread(4096, 2, 8, 1.5) == [512, 1536, 1536, 1536, 1536, 1536]


def test_the_loop_is_a_range_about_experts_that_are_even() -> None:
    result = tn.train("mixtral-8x7b", experts="eager", **SHAPE)
    rank = result.ranks[0]
    routing = [c for c in rank.components if c.name == "other:routing"]
    assert routing
    assert all((c.bytes, c.trust) == (0, "assumed") for c in routing)
    assert rank.tier("requested", "low_bytes") < rank.tier("requested") <= rank.tier("requested", "high_bytes")
    assert result.workload["experts"] == "eager"
    assert "--expert-imbalance 1 to 4" in " ".join(result.caveats)
    even = tn.train("mixtral-8x7b", experts="eager", expert_imbalance=1, **SHAPE)
    assert even.ranks[0].tier("requested") == rank.tier("requested")
    most = tn.train("mixtral-8x7b", experts="eager", expert_imbalance=4, **SHAPE).ranks[0]
    assert rank.tier("requested", "low_bytes") <= most.tier("requested") <= rank.tier("requested", "high_bytes")
    assert not any(c.name == "other:routing" for c in most.components)


def test_the_range_stays_where_the_step_is_played_through_the_allocator() -> None:
    ranks = [tn.train("mixtral-8x7b", experts="eager", **SHAPE | {"replay": on}).ranks[0] for on in (False, True)]
    ranges = [
        [(c.tier, c.low_bytes, c.bytes, c.high_bytes) for c in rank.components if c.name == "other:routing"]
        for rank in ranks
    ]
    assert ranges[0]
    assert ranges[0] == ranges[1]


def test_the_next_expert_s_gradient_is_made_whole_beside_the_sum() -> None:
    """``stack[e]`` hands back a gradient of the whole stack: of the larger one there are two at once."""
    loop = tn.train("mixtral-8x7b", experts="eager", recompute="full", **SHAPE).ranks[0]
    grouped = tn.train("mixtral-8x7b", recompute="full", **SHAPE).ranks[0]
    stack = 8 * 2 * 14336 * 4096 * 2
    assert 1 < (loop.tier("requested") - grouped.tier("requested")) / stack < 1.05


@pytest.mark.parametrize(
    ("model", "said", "message"),
    [
        ("llama-3.2-1b", {"experts": "eager"}, "llama has no experts"),
        ("llama-3.2-1b", {"expert_imbalance": 2}, "llama has no experts"),
        ("mixtral-8x7b", {"expert_imbalance": 2}, "their sums are fixed"),
        ("mixtral-8x7b", {"experts": "grouped_mm", "expert_imbalance": 2}, "their sums are fixed"),
        ("mixtral-8x7b", {"experts": "eager", "expert_imbalance": 4.5}, "4 times the mean"),
        ("mixtral-8x7b", {"experts": "eager", "expert_imbalance": 0.5}, "a number from 1 on"),
        ("mixtral-8x7b", {"experts": "eager", "expert_imbalance": "nan"}, "a number from 1 on"),
        ("mixtral-8x7b", {"experts": "batched_mm", "expert_imbalance": 2}, "matrices of its own"),
        ("mixtral-8x7b", {"experts": "sonicmoe"}, "experts is one of"),
    ],
)
def test_contradictions_are_named(model: str, said: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tn.train(model, **SHAPE, **said)


@pytest.mark.parametrize(
    ("model", "said", "message"),
    [
        ("gpt-oss-20b", {"experts": "eager", "quant": "nf4"}, "not modelled with quant"),
        ("mixtral-8x7b", {"experts": "batched_mm", "recompute": "moe_act"}, "not modelled with recompute"),
        ("mixtral-8x7b", {"experts": "eager", "lora_rank": 8}, "not modelled with lora_rank"),
        ("mixtral-8x7b", {"experts": "eager", "recompute": "moe_act"}, "not modelled with recompute"),
        ("mixtral-8x7b", {"experts": "eager", "kernels": "liger"}, "not modelled with kernels"),
    ],
)
def test_what_is_not_modelled_is_refused(model: str, said: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        tn.train(model, **SHAPE, **said)


def test_experts_of_transformers_4() -> None:
    """Modules of their own, each packed: Mixtral's modeling_mixtral.py of 4.48 (``MixtralBlockSparseTop2MLP``)."""
    said: dict[str, Any] = {"lora_rank": 8, "lora_targets": ["attention"], "seq": 64, "suggest": False}
    with pytest.raises(UnsupportedError, match=r"mixtral on transformers 4\.48"):
        tn.train("mixtral-8x7b", quant="nf4", stack_version="4.48", **said)
    now = tn.train("mixtral-8x7b", quant="nf4", **said)
    assert any("stacked experts are no linear modules" in c for c in now.caveats)
    old = tn.train("mixtral-8x7b", stack_version="4.48", gpu="400GiB", **said)
    assert old.fit is not None
    assert old.fit.verdict == "uncertain"
    assert any("ran one after the other" in c for c in old.caveats)
