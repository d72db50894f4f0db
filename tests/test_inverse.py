"""Inverse questions: tables that the same estimator fills."""

from __future__ import annotations

import json
from typing import Any

import pytest

import tonnage as tn
from tonnage import api
from tonnage.cli import main
from tonnage.errors import InputError


def table(model: str, keys: str, **said: Any) -> Any:
    return tn.serve(model, table=keys, **said).extras["table"]


@pytest.mark.parametrize("engine", ["transformers", "vllm", "sglang", "llamacpp"])
def test_the_largest_context_of_a_table_lies_within_the_answers(engine: str) -> None:
    found = table("llama-3.1-8b", "context", engine=engine, gpu="h100-sxm-80gb", concurrency=16)
    contexts = [row["context"] for row in found["rows"]]
    assert contexts == sorted(contexts)
    assert contexts[-1] == 131072
    verdicts = [row["verdict"] for row in found["rows"]]
    # Once it does not fit, longer ones do not either.
    order = {"fits": 0, "uncertain": 1, "does not fit": 2}
    assert [order[v] for v in verdicts] == sorted(order[v] for v in verdicts)
    best = found["best"]["context"]
    assert best <= tn.serve("llama-3.1-8b", engine=engine, gpu="h100-sxm-80gb", concurrency=16).capacity["max_context"]


def test_every_row_is_the_answer_to_that_question() -> None:
    said: dict[str, Any] = {"engine": "vllm", "gpu": "l4"}
    for row in table("llama-3.1-8b", "context", **said)["rows"]:
        alone = tn.serve("llama-3.1-8b", context=row["context"], suggest=False, **said)
        assert alone.fit is not None
        assert alone.capacity is not None
        assert row["verdict"] == alone.fit.verdict
        assert row["max_concurrency"] == alone.capacity["max_concurrency"]
        assert row["device_bytes"] == alone.fullest.tier("device")


def test_context_against_concurrency() -> None:
    found = table("llama-3.1-8b", "context,concurrency", engine="vllm", gpu="h100-sxm-80gb")
    assert found["best"] is None
    cells = {(row["context"], row["concurrency"]): row["verdict"] for row in found["rows"]}
    assert cells[(1024, 1)] == "fits"
    assert cells[(131072, 1024)] == "does not fit"
    assert len(cells) == len(found["rows"])


def test_the_smallest_number_of_devices() -> None:
    said: dict[str, Any] = {"engine": "vllm", "gpu": "h100-sxm-80gb", "context": 8192}
    assert table("llama-3.3-70b", "gpus", **said)["best"]["gpus"] == 4
    assert table("llama-3.3-70b", "gpus", quant="awq-int4", **said)["best"]["gpus"] == 1


def test_the_largest_quantization() -> None:
    found = table("llama-3.3-70b", "quant", engine="vllm", gpu="h100-sxm-80gb")
    sizes = [row["weights_bytes"] for row in found["rows"]]
    assert sizes == sorted(sizes, reverse=True)
    larger = [row for row in found["rows"] if row["weights_bytes"] > found["best"]["weights_bytes"]]
    assert larger
    assert all(row["verdict"] != "fits" for row in larger)
    assert table("llama-3.1-8b", "quant", engine="llamacpp", gpu="24GiB")["best"]["quant"] == "none"


def test_a_degree_that_the_model_does_not_have_is_a_row_that_says_why() -> None:
    rows = table("llama-3.2-1b", "gpus", engine="vllm", gpu="l4")["rows"]
    assert {row["gpus"] for row in rows if row["refused"]} == {64}


def test_the_largest_model_of_the_catalogue() -> None:
    found = api.fitting(engine="llamacpp", quant="q4_k_m", gpu="rtx-4090")
    counts = [row["parameters"] for row in found["rows"]]
    assert counts == sorted(counts, reverse=True)
    assert 20e9 < found["best"]["parameters"] < 40e9


@pytest.mark.parametrize(
    ("keys", "said", "words"),
    [
        ("foo", {"gpu": "l4"}, "no table over 'foo'"),
        ("contxt", {"gpu": "l4"}, "did you mean context"),
        ("context", {}, "needs a device"),
        ("context,concurrency,quant", {"gpu": "l4"}, "one key or two"),
        ("context,context", {"gpu": "l4"}, "one key or two"),
        ("", {"gpu": "l4"}, "one key or two"),
    ],
)
def test_a_wrong_table_is_one_line(keys: str, said: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as e:
        table("gpt2", keys, **said)
    assert words in str(e.value)


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["serve", "llama-3.1-8b", "--engine", "vllm", "--gpu", "l4", "--table"]
    assert main([*line, "context"]) == 0
    assert "largest context that fits: 4,096" in capsys.readouterr().out
    assert main([*line, "context,concurrency", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["table"]["keys"] == ["context", "concurrency"]
    assert main(["serve", "--table", "model", "--engine", "llamacpp", "--quant", "q4_k_m", "--gpu", "8GiB"]) == 0
    assert "largest model that fits" in capsys.readouterr().out
