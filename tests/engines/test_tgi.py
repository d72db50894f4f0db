"""text-generation-inference: what the launcher and the shards print at start."""

from __future__ import annotations

from typing import Any

import pytest

import tonnage as tn

L4 = {"engine": "tgi", "gpu": "l4"}
H100 = {"engine": "tgi", "gpu": "h100-sxm-80gb"}


def serve(model: Any, **said: Any) -> Any:
    return tn.serve(model, suggest=False, **said)


def test_prompt_step_is_what_the_device_computes_as_it_reads_the_weights() -> None:
    # launcher/src/main.rs: 121e12 over 2 x 32 x 4096 x ((3 x 32 + 2 x 8) x 128 + 3 x 14336).
    flop = 2 * 32 * 4096 * ((3 * 32 + 2 * 8) * 128 + 3 * 14336)
    found = serve("llama-3.1-8b", **L4, context=4096)
    assert found.workload["max_batch_prefill_tokens"] == 121 * 10**12 // flop == 8049
    assert "Default `max_batch_prefill_tokens` to 8049" in found.capacity["log"]
    assert serve("llama-3.1-8b", **H100, context=4096).workload["max_batch_prefill_tokens"] == 59_870


def test_unknown_devices_have_a_fixed_step() -> None:
    # A log of 2025-07-04, two RTX A6000: "Unkown compute for card nvidia-rtx-a6000"; 4096 but for some vision models.
    assert serve("llama-3.1-8b", engine="tgi", gpu="rtx-a6000", context=4096).workload[
        "max_batch_prefill_tokens"
    ] == 4096  # fmt: skip
    # The H200 has a name from 3.1 on.
    steps = [
        serve("llama-3.1-8b", engine="tgi", gpu="h200", engine_version=v, context=4096).workload[
            "max_batch_prefill_tokens"
        ]
        for v in ("3.0", "3.1")
    ]
    assert steps == [4096, 989 * 10**12 // (2 * 32 * 4096 * ((3 * 32 + 2 * 8) * 128 + 3 * 14336))]


def test_30_thousand_tokens_on_an_l4() -> None:
    # The release notes of 3.0: "a single L4 (24GB) can handle 30k tokens on llama 3.1-8B"; no figure to the token.
    found = serve("llama-3.1-8b", **L4, engine_version="3.0", context=8192)
    assert 30_000 <= found.capacity["tokens"] < 40_000
    tokens = found.capacity["tokens"]
    assert f"KV-cache blocks: {tokens}, size: 1" in found.capacity["log"]
    assert f"Setting max batch total tokens to {tokens}" in found.capacity["log"]


def test_blocks_follow_the_kernels() -> None:
    wide = serve("phi-2", **H100, context=2048)  # heads of 80
    assert "Using Attention = flashdecoding" in wide.capacity["log"]
    assert wide.capacity["tokens"] == wide.capacity["blocks"] * 256
    old = serve("phi-2", engine="tgi", gpu="t4", context=2048)
    assert old.capacity["tokens"] == old.capacity["blocks"] * 16
    with pytest.raises(tn.UnsupportedError, match="FP8 KV cache"):
        serve("phi-2", **H100, context=2048, kv_dtype="fp8_e4m3")


def test_less_of_the_device_is_the_pool_s_in_later_releases() -> None:
    pools = [
        serve("llama-3.1-8b", **H100, engine_version=v, context=8192, max_batch_prefill_tokens=4096).capacity["tokens"]
        for v in ("3.0", "3.1", "3.3")
    ]
    assert pools[0] > pools[1] > pools[2]


def test_a_tied_head_is_read_twice() -> None:
    found = serve("llama-3.2-1b", **H100, context=4096)
    parts = [c for c in found.ranks[0].components if "read once more" in c.why]
    assert [c.bytes for c in parts] == [128_256 * 2048 * 2]


def test_largest_context_and_concurrency_are_those_that_the_pool_just_holds() -> None:
    found = serve("llama-3.1-8b", **H100, context=8192, concurrency=10)
    tokens = found.capacity["tokens"]
    assert found.capacity["max_concurrency"] == tokens // 8192
    assert found.capacity["max_context"] == tokens // 10


def test_what_it_refuses() -> None:
    with pytest.raises(tn.InputError, match="only knows shards"):
        serve("llama-3.1-8b", **H100, pp=2, context=4096)
    with pytest.raises(tn.InputError, match=r"16.*8|8.*16"):
        serve("llama-3.1-8b", **H100, tp=16, context=4096)
    with pytest.raises(tn.UnsupportedError, match="jamba by code that keeps no pool, which is not modelled"):
        serve("jamba-v0.1", **H100, context=4096)
    full = serve("llama-3.1-8b", engine="tgi", gpu="rtx-4060-ti-16gb", context=4096)
    assert full.fit.verdict == "does not fit"
    assert any("Not enough memory to handle 4096 prefill tokens" in c for c in full.caveats)


def test_without_a_device() -> None:
    found = serve("llama-3.1-8b", engine="tgi", context=4096)
    assert found.capacity["kv_bytes"] == 131_072 * 4096
    assert found.capacity["tokens"] is None


def test_the_warm_ups_picture_of_20_pixels_stays_below_its_prompt() -> None:
    # The prompt of models that read pictures is the launcher's own for their type.
    found = serve("qwen2.5-vl-7b", **H100, context=8192)
    assert found.workload["max_batch_prefill_tokens"] == 10_000
    assert any("20 x 20 pixels" in c.why for c in found.components if c.name == "activations")
