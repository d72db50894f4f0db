"""A trace told from few layers against the trace of all of them: every event, in order."""

from __future__ import annotations

from typing import Any

import pytest
from tracing_cases import CONFIGS

from tonnage.tracing.stream import Traced

WINDOWS = ["sliding_attention", "sliding_attention", "full_attention"]
DEEP: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # name: family, what is changed in its config, the workload
    "llama": ("llama", {"num_hidden_layers": 11}, {}),
    "llama, foreach": ("llama", {"num_hidden_layers": 9}, {"optimizer": "adamw-foreach"}),
    "llama, recomputed": ("llama", {"num_hidden_layers": 9}, {"recompute": "full"}),
    "llama, eager fp32": ("llama", {"num_hidden_layers": 9}, {"attention": "eager", "precision": "fp32"}),
    "llama, mixed": ("llama", {"num_hidden_layers": 8}, {"precision": "bf16-mixed"}),
    "llama, adapters": ("llama", {"num_hidden_layers": 8}, {"lora_rank": 4, "lora_targets": ["q_proj"]}),
    "gpt2": ("gpt2", {"n_layer": 9}, {}),
    "gemma3, windows": (
        "gemma3_text",
        {"num_hidden_layers": 16, "layer_types": [*WINDOWS * 5, "sliding_attention"]},
        {"seq": 140},
    ),
    "deepseek, dense first": ("deepseek_v3", {"num_hidden_layers": 9}, {}),
    "experts": ("qwen3_moe", {"num_hidden_layers": 8}, {"optimizer": "sgd-momentum"}),
}  # fmt: skip


def told(traced: Traced) -> list[tuple[Any, ...]]:
    """Events by what they are, frees by which birth they end."""
    number = {n: i for i, n in enumerate(n for n in traced.order if n >= 0)}
    return [
        (traced.born[n].size, traced.born[n].op, traced.born[n].module, traced.born[n].kind, traced.born[n].layer)
        if n >= 0
        else ("ends", number[~n])
        for n in traced.order
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DEEP)
def test_few_layers_tell_what_all_do(name: str) -> None:
    from tracing_cases import traced

    family, changes, said = DEEP[name]
    if "lora_rank" in said:
        pytest.importorskip("peft")
    config = CONFIGS[family] | changes
    workload = {"precision": "bf16", "batch": 2, "seq": 64} | said
    whole, few = (traced(config, layers=which, **workload) for which in ("all", "few"))
    assert few.told["layers_traced"] != "all"
    assert few.told["layers"] == whole.told["layers"]
    assert few.told["trainable"] == whole.told["trainable"]
    assert told(few) == told(whole)
    assert few.marks == whole.marks


SHALLOW: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "few": ({"num_hidden_layers": 4}, {}),
    # What the step made for the last matrix of a layer lives until the first of the next has its own.
    "overlapping": ({"num_hidden_layers": 8}, {"optimizer": "adamw-loop"}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SHALLOW)
def test_otherwise_all_layers_are_traced(name: str) -> None:
    from tracing_cases import traced

    changes, said = SHALLOW[name]
    found = traced(CONFIGS["llama"] | changes, precision="bf16", batch=1, seq=32, **said)
    assert found.told["layers_traced"] == "all"
