"""What is asked of a trace: settled as ``train`` and ``serve`` settle it, and refused in one line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tonnage.cli import main
from tonnage.devices import device
from tonnage.errors import InputError, UnsupportedError
from tonnage.tracing import ask, process, request
from tonnage.workload import workload
from tonnage.workload.serving import Serve
from tonnage.workload.training import Train

LLAMA = {"model_type": "llama", "hidden_size": 64, "max_position_embeddings": 512}


def job(gpu: str | None = None, **said: Any) -> dict[str, Any]:
    where = None if gpu is None else device(gpu)
    return request.training(LLAMA, workload(Train, said), where, name="x", head=None).job


def test_kernels_are_those_of_the_device() -> None:
    assert job()["kernels"] == ["flash", "efficient", "math"]
    assert job("t4")["kernels"] == ["efficient", "math"]
    assert job("h100-sxm-80gb")["workspace"] == 32 * 2**20
    assert job("t4")["capability"] == [7, 5]
    assert job(attention="math")["kernels"] == ["math"]


def test_defaults_are_those_of_the_stack() -> None:
    found = job()
    assert (found["weights"], found["autocast"], found["optimizer"], found["seq"]) == ("bf16", None, "adamw-fused", 512)
    assert job(precision="bf16-mixed")["autocast"] == "bf16"
    assert job(stack_version="4.50")["weights"] == "fp32"


def test_a_prompt_is_within_the_context() -> None:
    found = request.serving(LLAMA, workload(Serve, {"context": 100}), None, name="x", head=None).job
    assert (found["context"], found["prompt"], found["logits"]) == (100, 100, "last")
    with pytest.raises(InputError):
        request.serving(LLAMA, workload(Serve, {"context": 100, "prompt": 200}), None, name="x", head=None)


@pytest.mark.parametrize(
    "said",
    [
        {"tp": 2}, {"sharding": "fsdp"}, {"loss": "chunked"}, {"precision": "fp8"}, {"quant": "nf4"},
        {"lora_targets": ["q_proj"]}, {"quant": "awq-int4", "lora_rank": 4},
    ],
)  # fmt: skip
def test_what_is_not_traced_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises((UnsupportedError, InputError)):
        job(**said)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("gpt2",), 2, "no task is named"),
        (("gpt2", "--task", "fly"), 2, "task is train or serve"),
        (("gpt2", "--task", "train", "--layers-traced", "some"), 2, "layers is one of few, all"),
        (("gpt2", "--task", "train", "--max-seconds", "nan"), 2, "max_seconds is a number"),
        (("--task", "train"), 2, "no model is named"),
        (("--task", "train", "--hidden", "64"), 2, "describes no code"),
        (("mine.py:step", "--seq", "4"), 2, "seq describes a model's workload"),
        (("gpt2", "--task", "train", "--context", "4"), 2, "unknown key 'context'"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", *arguments]) == code
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1


def test_without_torch_one_line_tells_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(process, "find_spec", lambda name: None)
    assert main(["trace", "gpt2", "--task", "train", "--json"]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["hint"] == "pip install 'tonnage[trace]'"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("train.py:step", True),
        ("package.module:step", True),
        ("org/name@main", False),
        ("C:model", True),
        ("gpt2", False),
    ],
)
def test_what_names_a_function(text: str, found: bool) -> None:
    assert ask.is_function(text) == found
