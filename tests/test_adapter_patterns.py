"""Target modules as a regular expression over full names."""

import time

import pytest

import tonnage as tn
from tonnage.errors import InputError, UnsupportedError
from tonnage.memory.adapter_patterns import compiled


def asked(model: str, *targets: str) -> tuple[str, ...]:
    result = tn.train(model, batch=1, seq=16, lora_rank=4, lora_targets=targets)
    return tuple(c.why for c in result.fullest.components if c.name in ("weights", "gradients"))


@pytest.mark.parametrize(
    ("model", "pattern", "names"),
    [
        ("llama-3.2-1b", r".*self_attn\.(q|v)_proj", ("q_proj", "v_proj")),
        ("llama-3.2-1b", r"model\.layers\.\d+\.mlp\.(gate|up|down)_proj", ("gate_proj", "up_proj", "down_proj")),
        ("gpt2", r".*\.c_attn", ("c_attn",)),
        # utils/transformers_weight_conversion.py: what it matches of release 4 stands for the stacked parameters
        ("qwen3-30b-a3b", r".*\.(gate|up|down)_proj", ("gate_proj", "up_proj", "down_proj")),
        ("qwen3-30b-a3b", r".*self_attn.*", ("q_proj", "k_proj", "v_proj", "o_proj")),
    ],
)
def test_a_pattern_means_what_it_matches(model: str, pattern: str, names: tuple[str, ...]) -> None:
    assert asked(model, pattern) == asked(model, *names)


def test_names_may_have_dots_beside_stacked_experts() -> None:
    # the experts' up_proj is a parameter; that of the shared expert is a module, and has a name of its own
    result = tn.train("qwen2-57b-a14b", batch=1, seq=16, lora_rank=4, lora_targets=["shared_expert.up_proj"])
    assert "shared_expert" not in result.workload["lora_targets"]
    each = 28 * 4 * (3584 + 20480)
    assert any(f"{each:,} trained" in c.why for c in result.fullest.components)


def test_layers_that_are_alike_are_not_told_apart() -> None:
    with pytest.raises(UnsupportedError, match="in some layers alone"):
        asked("llama-3.2-1b", r"model\.layers\.[0-3]\.self_attn\.q_proj")


def test_a_pattern_stands_alone() -> None:
    with pytest.raises(InputError, match="takes alone"):
        asked("llama-3.2-1b", r".*q_proj", "v_proj")


@pytest.mark.parametrize("pattern", [r"(.*)*x", ".*" * 9, "a" * 501 + "$", "(", "[a"])
def test_patterns_of_strangers_cost_little(pattern: str) -> None:
    begun = time.perf_counter()
    with pytest.raises(InputError, match="expression"):
        compiled(pattern)
    assert time.perf_counter() - begun < 0.1


def test_nothing_matched_is_told() -> None:
    with pytest.raises(InputError, match="no matrix"):
        asked("llama-3.2-1b", r".*vision.*")
