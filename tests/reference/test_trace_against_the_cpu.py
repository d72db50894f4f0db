"""The recorder against real execution: the CPU's own allocations, told by the profiler while no mode is active.

What the CPU run has on top are temporaries inside of kernels, which no operation returns: an allocation and a free of
the same size, a few events apart.
"""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
import transformers
from torch.profiler import ProfilerActivity, profile
from tracing_cases import CONFIGS

from tonnage.tracing import models

FAMILIES = (
    "llama", "qwen3", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "gptj", "opt", "bloom", "falcon", "mpt", "phi3",
    "olmo2", "starcoder2", "mixtral", "gpt_oss", "deepseek_v3",
)  # fmt: skip
TOKENS = 48
SCALAR = 64
"""Up to this many bytes: a number in Python is a tensor on the CPU, and none on a device. [byte]"""
NEAR = 14
"""Events between which a temporary lives."""


def without_dropout(config: dict[str, Any]) -> dict[str, Any]:
    """The CPU's dropout keeps its mask in another format."""
    return {key: 0.0 if "drop" in key and isinstance(value, float) else value for key, value in config.items()}


def on_the_cpu(config: dict[str, Any]) -> list[int]:
    """Allocations and frees (negative) of the second training step. [byte]"""
    settled = models.config_of(config)
    model = transformers.AutoModelForCausalLM.from_config(
        settled, dtype=torch.float32, attn_implementation="eager"
    ).train()
    model.config.use_cache = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=True)
    ids = torch.randint(0, 100, (1, TOKENS))
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    gc.collect()
    gc.disable()
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as p:
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    finally:
        gc.enable()
    events = [(e.start_ns(), e.nbytes()) for e in p.profiler.kineto_results.events() if e.name() == "[memory]"]
    return [n for _, n in sorted(events, key=lambda e: e[0]) if abs(n) > SCALAR]


def in_the_trace(config: dict[str, Any]) -> list[int]:
    """The same of a trace. [byte]"""
    from tracing_cases import traced

    found = traced(
        config, layers="all", head="causal", precision="fp32", attention="eager", optimizer="adamw-foreach", batch=1,
        seq=TOKENS,
    )  # fmt: skip
    spans = [(start, stop) for name, start, stop in found.phases() if name.startswith("step2.")]
    sizes = []
    for n in found.order[spans[0][0] : spans[-1][1]]:
        b = found.born[n if n >= 0 else ~n]
        if b.size > SCALAR and b.kind not in ("scratch", "workspace"):
            sizes.append(b.size if n >= 0 else -b.size)
    return sizes


def left_over(real: list[int], told: list[int]) -> list[tuple[int, int]]:
    """What the real run has beside the trace, in order, with its place."""
    rest, wanted = [], iter([*told, None])
    now = next(wanted)
    for place, n in enumerate(real):
        if n == now:
            now = next(wanted)
        else:
            rest.append((place, n))
    assert now is None, f"{len(told)} events told, not all of them happen"
    return rest


def unpaired(rest: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is no temporary. One that is made just before a tensor of its size may stand for it, and be freed first."""
    waiting: list[tuple[int, int]] = []
    for place, n in rest:
        other = next((w for w in reversed(waiting) if w[1] == -n and place - w[0] <= NEAR), None)
        if other is None:
            waiting.append((place, n))
        else:
            waiting.remove(other)
    return waiting


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_trace_is_what_the_cpu_allocates(family: str) -> None:
    config = without_dropout(CONFIGS[family])
    real, told = on_the_cpu(config), in_the_trace(config)
    rest = left_over(real, told)
    assert len(told) > 300
    assert len(rest) <= 0.06 * len(told)
    assert not unpaired(rest)


def test_the_comparison_can_fail() -> None:
    with pytest.raises(AssertionError):
        left_over([512, -512], [512, 1024, -512])
    assert left_over([512, 640, -640, -512], [512, -512]) == [(1, 640), (2, -640)]
    assert unpaired([(1, 640), (2, -512)]) == [(1, 640), (2, -512)]
