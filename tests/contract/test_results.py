"""The result contract: names, closed sets, and sums that hold to the byte."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

import tonnage as tn
from tonnage.evidence import TRUSTS
from tonnage.timeline import COMPONENTS, TIERS
from tonnage.workload.serving import Serve
from tonnage.workload.training import Train

TRAIN: list[tuple[str, dict[str, Any]]] = [
    ("llama-3.1-8b", {"gpu": "h100-sxm-80gb"}),
    ("llama-3.2-1b", {"gpu": "24GiB", "precision": "bf16-mixed", "recompute": "full", "batch": 2}),
    ("gpt2", {"attention": "eager", "accumulate": 4, "retain": "outputs,grads"}),
    ("gpt2", {"first_step": True, "optimizer": "sgd-momentum", "seq": 256}),
    ("qwen3-30b-a3b", {"gpu": "b200", "seq": 512}),
    ("bert-base-uncased", {"seq": 512, "batch": 8, "gpu": "t4", "precision": "fp32"}),
    ("gemma-2-2b", {"gpu": "m4-max-128gb", "seq": 1024}),
]
SERVE: list[tuple[str, dict[str, Any]]] = [
    ("llama-3.1-8b", {"gpu": "h100-sxm-80gb", "concurrency": 4}),
    ("gemma-2-9b", {"context": "8k", "prompt": 1024}),
    ("deepseek-v3", {"gpu": "b200"}),
    ("mamba-2.8b", {"gpu": "24GiB"}),
    ("mixtral-8x7b", {"gpu": "h200", "logits": "all", "context": 2048}),
]


def results() -> list[Any]:
    return [pytest.param(tn.train, m, said, id=f"train {m} {i}") for i, (m, said) in enumerate(TRAIN)] + [
        pytest.param(tn.serve, m, said, id=f"serve {m}") for m, said in SERVE
    ]


@pytest.mark.parametrize(("verb", "model", "said"), results())
def test_result_holds_the_contract(verb: Any, model: str, said: dict[str, Any]) -> None:
    result = verb(model, **said)
    out = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    kind = Train if verb is tn.train else Serve
    keys = ["schema", "model", "workload", "defaulted", "ignored", "ranks", "fit"]
    assert list(out) == [*keys, *(["capacity"] if verb is tn.serve else []), "caveats", "not_modelled"]
    assert set(out["model"]) == {
        "name", "parameters", "active_parameters", "active_parameters_without_embedding", "stored_parameters",
        "trainable_parameters",
    }  # fmt: skip
    assert set(out["workload"]) == {"model", *(f.name for f in fields(kind))}
    for rank in out["ranks"]:
        check_rank(rank)
    if out["fit"] is not None:
        fit = out["fit"]
        assert fit["verdict"] in ("fits", "uncertain", "does not fit")
        assert fit["fits"] == {"fits": True, "does not fit": False, "uncertain": None}[fit["verdict"]]
        assert fit["spare_bytes"] == fit["capacity_bytes"] - out["ranks"][0]["device_bytes"]
        if fit["verdict"] == "fits":
            assert fit["suggestion"] is None


def check_rank(rank: dict[str, Any]) -> None:
    lines = rank["components"]
    for bound, of in (("bytes", None), ("low_bytes", 0), ("high_bytes", 1)):
        total = 0
        for tier in TIERS:
            total += sum(c[bound] for c in lines if c["tier"] == tier)
            stated = rank[f"{tier}_bytes"] if of is None else rank["range"][tier][of]
            assert stated == total, (tier, bound)
    for c in lines:
        assert c["name"] in COMPONENTS or c["name"].startswith("other:")
        assert c["trust"] in TRUSTS
        assert c["tier"] in (*TIERS, "host", "disk")
        assert c["low_bytes"] <= c["bytes"] <= c["high_bytes"]
        assert c["trust"] != "exact" or c["low_bytes"] == c["high_bytes"]
        assert c["why"]
        assert c["reference"]
    instants = rank["instants"]
    assert len({i["name"] for i in instants}) == len(instants)
    assert rank["peak"]["bytes"] == max(i["bytes"] for i in instants) == rank["allocated_bytes"]
    assert {"name": rank["peak"]["instant"], "bytes": rank["peak"]["bytes"]} in instants
    second = rank["peak"]["runner_up"]
    if second is not None:
        assert second["bytes"] == sorted(i["bytes"] for i in instants)[-2]
    assert 0 < rank["static_bytes"] <= rank["peak"]["bytes"]


@pytest.mark.parametrize(("verb", "kind"), [(tn.train, Train), (tn.serve, Serve)])
def test_a_result_s_workload_is_a_workload(verb: Any, kind: Any) -> None:
    first = verb("gpt2", gpu="24GiB")
    said = {k: v for k, v in first.workload.items() if k != "model" and v not in (None, [])}
    again = verb("gpt2", **said)
    assert again.as_dict() == first.as_dict()


def test_defaults() -> None:
    w = tn.train("llama-3.1-8b").workload
    assert (w["batch"], w["accumulate"], w["seq"], w["recompute"], w["loss"]) == (1, 1, 2048, "none", "full")
    assert (w["stack"], w["precision"], w["optimizer"], w["attention"]) == (
        "transformers",
        "bf16",
        "adamw-fused",
        "sdpa",
    )
    assert tn.train("llama-3.1-8b", stack_version="4.57.6").workload["precision"] == "fp32"
    assert tn.train("gpt2").workload["seq"] == 1024
    s = tn.serve("llama-3.1-8b").workload
    assert (s["context"], s["concurrency"], s["prompt"], s["logits"]) == (8192, 1, 8192, "last")
    assert tn.serve("gpt2").workload["context"] == 1024
    assert tn.train("gpt2").fit is None


def test_cache_figures() -> None:
    v3 = tn.serve("deepseek-v3", context=8192)
    assert v3.capacity is not None
    assert v3.capacity["kv_bytes_per_token"] == 70_272
    old = tn.serve("deepseek-v3", context=8192, engine_version="4.57")
    assert old.capacity is not None
    assert old.capacity["kv_bytes_per_token"] == 61 * 128 * (192 + 128) * 2
    gemma = tn.serve("gemma-2-9b", context=8192)
    assert gemma.capacity is not None
    assert (gemma.capacity["kv_bytes"], gemma.capacity["kv_bytes_per_token"]) == (2_113_929_216, 172_032)
    prefilled = sum(c.bytes for c in gemma.components if c.name == "kv_cache")
    assert prefilled == 2_818_572_288
    llama = tn.serve("llama-3.1-8b")
    assert llama.capacity is not None
    assert llama.capacity["kv_bytes_per_token"] == 131_072


def test_absurd_sizes_are_answered_in_integers() -> None:
    million = tn.serve("llama-3.1-8b", context="1m")
    assert million.capacity is not None
    assert million.capacity["kv_bytes"] == 131_072 * 2**20
    big = {"model_type": "plain", "hidden": 25_600, "layers": 128, "heads": 200, "vocab": 50_000, "tied": True}
    huge = tn.load({"config": big})
    assert huge.parameters.total > 10**12
    assert tn.train(huge).fullest.tier("requested") > 8 * 10**12
    tiny = tn.load({"config": {"model_type": "plain", "hidden": 1, "layers": 1, "heads": 1, "vocab": 1, "ffn": 1}})
    assert tiny.parameters.total < 64
    assert tn.train(tiny, seq=1).fullest.tier("requested") > 0


def test_suggestion_is_re_estimated() -> None:
    result = tn.train("llama-3.1-8b", gpu="80GiB", seq="16k")
    assert result.fit is not None
    assert result.fit.verdict != "fits"
    s = result.fit.suggestion
    assert s is not None
    again = tn.train("llama-3.1-8b", gpu="80GiB", **{"seq": "16k", **s.change})
    assert again.fit is not None
    assert again.fit.verdict == "fits"
    assert again.fullest.tier("device") == s.device_bytes
    none = tn.train("llama-3.1-70b", gpu="8GiB")
    assert none.fit is not None
    assert none.fit.suggestion is None
    assert any("no change of those" in c for c in none.caveats)
