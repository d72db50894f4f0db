"""ExecuTorch: what its export plans and stores, against real exports; what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from tonnage.memory.planned.decoder import Decoder, lives
from tonnage.memory.planned.greedy import Life, arena, arenas

ROWS = [json.loads(line) for line in Path("accuracy/cases/executorch.jsonl").read_text().splitlines()]


def served(model: Any, **said: Any) -> Any:
    return tn.serve(tn.load(model), engine="executorch", suggest=False, **said)


def total(result: Any, *names: str) -> int:
    return sum(c.bytes for c in result.components if c.name in names)


@pytest.mark.parametrize("row", [r for r in ROWS if r["exactness"] == "exact"], ids=lambda r: r["id"])
def test_real_exports_are_met_to_the_byte(row: dict[str, Any]) -> None:
    said = {k: v for k, v in row["workload"].items() if k not in ("task", "engine")}
    result = served(row["model"]["config"], **said)
    names = ("weights",) if row["measured"]["counter"] == "weights" else ("kv_cache", "activations")
    assert total(result, *names) == row["measured"]["value"]


@pytest.mark.parametrize("row", [r for r in ROWS if r["exactness"] != "exact"], ids=lambda r: r["id"])
def test_what_a_process_holds_is_within_the_range(row: dict[str, Any]) -> None:
    said = {k: v for k, v in row["workload"].items() if k not in ("task", "engine")}
    rank = served(row["model"]["config"], **said).fullest
    assert rank.tier("device", "low_bytes") <= row["measured"]["value"] <= rank.tier("device", "high_bytes")


def test_the_planner_puts_the_largest_first() -> None:
    # exir/memory_planning.py: 64 alone, 48 beside it, 16 into what 64 left free, 32 behind the 16 that lives with it.
    assert arena([Life(64, 0, 1), Life(48, 1, 3), Life(16, 2, 3), Life(32, 2, 3)]) == 64 + 48
    # A tensor whose last step is another's first never shares with it.
    assert arena([Life(64, 0, 2), Life(64, 2, 3)]) == 128
    assert arena([Life(64, 0, 2), Life(64, 3, 4)]) == 64
    assert arena([]) == 0


def test_no_plan_is_smaller_than_what_lives_at_once() -> None:
    d = Decoder(
        tokens=127, width=256, layers=4, heads=4, kv_heads=2, head=64, inner=704, vocabulary=1000, element=4,
        halves=True, turned=64, head_norms=True,
    )  # fmt: skip
    found = lives(d)
    least = max(sum(each.bytes for each in found if each.born <= at <= each.dies) for at in range(found[-1].dies + 1))
    low, likely, high = arenas(found)
    assert least <= low <= likely <= high


def test_halves_keep_a_table_for_every_layer() -> None:
    """Each layer's cosines and sines are laid out before the first layer runs; pairs share one table."""

    def grows(halves: bool) -> int:
        sizes = [
            arena(lives(Decoder(
                tokens=1023, width=256, layers=n, heads=4, kv_heads=2, head=64, inner=256, vocabulary=100, element=4,
                halves=halves, turned=64, head_norms=False,
            )))
            for n in (20, 40)
        ]  # fmt: skip
        return sizes[1] - sizes[0]

    # 20 layers x 2 x 1,023 x 64 x 4 B = 10,475,520 B, a little of which finds room elsewhere.
    assert 8_000_000 < grows(True) <= 10_475_520 + 20 * 16
    assert grows(False) <= 20 * 16


def test_a_tied_head_is_stored_twice() -> None:
    # meta-llama/Llama-3.2-1B: 1,235,814,400 parameters, the table of 128,256 x 2,048 once more.
    assert total(served("llama-3.2-1b"), "weights") == 4 * (1235814400 + 128256 * 2048)


def test_what_does_not_divide_into_groups_is_left() -> None:
    # Qwen2.5-0.5B: 896 columns are 7 groups of 128 and no groups of 256, so all but 24 down projections of 4,864 stay.
    result = served("qwen2.5-0.5b", qmode="8da4w", group_size=256)
    assert any("145 matrices stay in fp32" in text for text in result.caveats)
    assert not any("stay in fp32" in text for text in served("qwen2.5-0.5b", qmode="8da4w").caveats)


def test_without_a_backend_equal_constants_are_one() -> None:
    result = served("llama-3.2-1b", backend="portable", dtype="bf16")
    assert total(result, "weights") == 2 * 1235814400
    assert total(result, "kv_cache") == 16 * 2 * 128 * 8 * 64 * 2


def test_defaults_are_the_exports_own() -> None:
    result = served("llama-3.2-1b")
    assert (result.workload["context"], result.workload["max_seq_length"]) == (128, 128)
    assert total(result, "kv_cache") == 16 * 2 * 128 * 8 * 64 * 4
    assert any("128 where nothing is said" in text for text in result.caveats)


@pytest.mark.parametrize(
    ("said", "words", "code"),
    [
        ({"max_seq_length": 512, "context": 256}, "max_context_length 256 must be >= max_seq_len 512", 2),
        ({"max_seq_length": 3}, "traces 3 tokens", 2),
        ({"group_size": 64}, "without a qmode", 2),
        ({"qmode": "8da4w", "group_size": 48}, "32, 64, 128", 2),
        ({"embedding_quantize": "3,32"}, "2, 4 or 8 bits", 2),
        ({"embedding_quantize": "4"}, "<bitwidth>,<groupsize>", 2),
        ({"embedding_quantize": "4,48"}, "rows of 2,048", 2),
        ({"qmode": "int8"}, "qmode is one of 8da4w", 2),
        ({"kv_bits": 8}, "executorch has no such setting", 2),
        ({"backend": "coreml"}, "its own compiler's", 3),
        ({"concurrency": 2}, "one sequence on one device", 3),
        ({"gpus": 2}, "one sequence on one device", 3),
        ({"dtype": "bf16"}, "computes in fp32", 3),
        ({"backend": "portable", "qmode": "8da4w"}, "llama in fp32 or bf16, nothing packed", 3),
        ({"kv_dtype": "fp8"}, "fp32, or int8", 2),
        ({"quant": "nf4"}, "recipes of its own", 3),
    ],
)
def test_what_is_refused(said: dict[str, Any], words: str, code: int) -> None:
    with pytest.raises(tn.TonnageError, match=words) as refused:
        served("llama-3.2-1b", **said)
    assert refused.value.exit_code == code
    assert "\n" not in str(refused.value)


def test_a_packed_cache_has_scales_and_zero_points() -> None:
    result = served("llama-3.2-1b", context=2048, kv_dtype="int8")
    assert total(result, "kv_cache") == 16 * 2 * 2048 * 8 * (64 + 4 + 1)
    with pytest.raises(tn.TonnageError, match="int8 cache of phi3"):
        served("phi-4-mini", kv_dtype="int8")


@pytest.mark.parametrize("model", ["gemma-3-1b", "mixtral-8x7b", "bert-base-uncased", "gpt2"])
def test_other_families_are_refused(model: str) -> None:
    with pytest.raises(tn.TonnageError, match="exported program is not modelled"):
        served(model)
