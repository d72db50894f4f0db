"""Layers below which nothing is trained: checkpoints of transformers 5 let gradients flow through them all the same."""

from __future__ import annotations

from typing import Any

import pytest
import tracing_cases

import tonnage as tn
from tonnage.families import model_from
from tonnage.tracing import ask, request, tuning
from tonnage.tracing.levels import levels
from tonnage.workload import workload
from tonnage.workload.training import Train

SHAPE: dict[str, Any] = {"precision": "bf16", "batch": 2, "seq": 64}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_the_last_layer_alone(recompute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tonnage.tracing import run

    config, said, tuned = tracing_cases.CONFIGS["llama"], SHAPE | {"recompute": recompute}, tuning.tuned
    result = tn.train({"config": config}, suggest=False, replay=True, train_only=["layers.2"], **said)

    def made(model: Any, job: Any) -> Any:
        for name, p in model.named_parameters():
            p.requires_grad_("layers.2" in name)
        return tuned(model, job)

    monkeypatch.setattr(tuning, "tuned", made)
    head = ask.own_head(config, model_from(config))
    job = request.training(config, workload(Train, said), None, name="", head=head).job
    found = levels(run.model_trace({**job, "layers": "all"}))
    assert result.ranks[0].tier("allocated") == found.samples[found.peak][1]
    assert found.traced.told["trainable"] == result.model["trainable_parameters"]
