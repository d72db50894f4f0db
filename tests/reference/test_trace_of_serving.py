"""Serving with transformers: closed form against a live trace, line by line up to what is allocated."""

from __future__ import annotations

from typing import Any

import pytest
from tracing_cases import CONFIGS

import tonnage as tn
from tonnage.tracing import ask, request, run
from tonnage.tracing.levels import levels
from tonnage.workload import workload
from tonnage.workload.serving import Serve

ASKED: dict[str, dict[str, Any]] = {
    "prefill": {"context": 64, "concurrency": 2},
    "decode": {"context": 64, "prompt": 20, "concurrency": 2},
    "all logits": {"context": 64, "prompt": 63, "logits": "all"},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "mistral", "deepseek_v3", "qwen3_moe"])
def test_generating_takes_what_the_code_does(family: str, asked: str) -> None:
    config = CONFIGS[family]
    wanted = tn.serve({"config": config}, suggest=False, **ASKED[asked]).fullest
    head = ask.own_head(config, tn.load({"config": config}))
    job = request.serving(config, workload(Serve, ASKED[asked]), None, name="", head=head).job
    found = levels(run.model_trace(job))
    assert found.requested[found.peak] == wanted.tier("requested")
    assert {i.name for i in found.instants()} == {i.name for i in wanted.instants}
    assert next(p.name for p in found.parts if p.start <= found.peak < p.stop) == wanted.peak.name
