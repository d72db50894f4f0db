"""What is recorded of Megatron-Core's loss and checkpoints, against Megatron-Core itself: each run again.

And its way to let go of an output, on real memory: what is alive, and the same gradients.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import megatron_runs
import pytest
import torch

RECORDED: list[dict[str, Any]] = json.loads((Path(__file__).parent.parent / "data" / "megatron.json").read_text())[
    "runs"
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("run", RECORDED, ids=lambda r: f"{r['family']} {r['said']}")
def test_the_record_is_what_megatron_does(run: dict[str, Any]) -> None:
    if megatron_runs.found() is None:
        pytest.skip(f"Megatron-Core {megatron_runs.RELEASE} is not installed")
    if run["said"].get("loss") == "vocab-parallel-te" and find_spec("transformer_engine") is None:
        pytest.skip("Transformer Engine is not installed")
    assert megatron_runs.peaks(run["family"], run["said"]) == run["peaks"]


class Discarding(torch.autograd.Function):
    """A module whose output's memory is given back, and filled again when a later tensor's gradient is there."""

    @staticmethod
    def forward(ctx: Any, run: Any, held: dict[str, Any], x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            out = run(x)
        ctx.save_for_backward(x)
        ctx.held, held["x"] = held, x
        held["out"] = out
        return out

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:
        x, out = ctx.held.pop("again")
        torch.autograd.backward(out, g)
        return None, None, x.grad


def discarded(run: Any, x: torch.Tensor, then: Any) -> tuple[torch.Tensor, torch.UntypedStorage]:
    """``then(run(x))``, between which nothing is kept."""
    held: dict[str, Any] = {}
    out = Discarding.apply(run, held, x)
    y = then(out)
    storage = out.untyped_storage()
    size = storage.nbytes()
    storage.resize_(0)

    def again(_: torch.Tensor) -> None:
        given = held.pop("x").detach().requires_grad_()
        with torch.enable_grad():
            made = run(given)
        storage.resize_(size)
        storage.copy_(made.untyped_storage())
        held["again"] = given, made

    y.register_hook(again)
    return y, storage


def test_memory_that_is_given_back_is_there_again_when_it_is_asked_for() -> None:
    torch.manual_seed(0)
    norm, matrix = torch.nn.LayerNorm(64), torch.nn.Linear(64, 32)
    x = torch.randn(128, 64, requires_grad=True)
    matrix(norm(x)).square().sum().backward()
    wanted = [p.grad.clone() for p in (x, *norm.parameters(), *matrix.parameters()) if p.grad is not None]
    for p in (x, *norm.parameters(), *matrix.parameters()):
        p.grad = None
    y, storage = discarded(norm, x, matrix)
    assert storage.nbytes() == 0
    y.square().sum().backward()
    assert storage.nbytes() == 128 * 64 * 4
    got = [p.grad for p in (x, *norm.parameters(), *matrix.parameters())]
    assert len(wanted) == len(got) == 5
    assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True) if b is not None)
