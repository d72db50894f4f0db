"""``--fit``: what common/fit.cpp of llama.cpp v0.5.0 chose itself, run on files without data (scripts/llamacpp/)."""

from __future__ import annotations

import re
from typing import Any

import pytest

import tonnage as tn
from tonnage.memory.ggml import fitting
from tonnage.memory.ggml.fit import Fitted

MiB = 2**20

PRINTED = [
    # "fit: n_ctx, n_gpu_layers, shares, overrides and the first of them", on CUDA devices with 500 MiB less free.
    ("llama-3.1-8b", "q4_k_m", {"gpu": "12500MiB"}, 51200, None, (), 0, ""),
    ("llama-3.1-8b", "q8_0", {"gpu": "8500MiB"}, 4096, 27, (), 0, ""),
    ("llama-3.1-70b", "q4_k_m", {"gpu": "24500MiB", "context": 32768}, 32768, 36, (), 0, ""),
    ("llama-3.1-70b", "q4_k_m", {"gpu": "24500MiB", "gpus": 2, "fit_target": "512,2048"}, 12544, 81, (42, 39), 0, ""),
    ("qwen3-30b-a3b", "q4_k_m", {"gpu": "12500MiB"}, 4096, 49, (), 22, r"blk\.27\.ffn_(gate|gate_up|down).*"),
    ("qwen3-30b-a3b", "q4_k_m", {"gpu": "8500MiB", "gpus": 2, "context": 65536}, 65536, 49, (14, 35), None,
     r"blk\.13\.ffn_(gate|gate_up|down).*"),
    ("gpt-oss-20b", None, {"gpu": "10500MiB", "context": 65536, "dtype": "fp16", "quant": "none"}, 65536, 25, (), 23,
     r"blk\.2\.ffn_down.*"),
    ("qwen2.5-14b", "q4_k_m", {"gpu": "4500MiB", "gpus": 3}, 4096, 45, (16, 16, 13), 0, ""),
    ("qwen3-30b-a3b", "q4_k_m", {"gpu": "5500MiB", "gpus": 3, "context": 32768}, 32768, 49, (9, 9, 31), None,
     r"blk\.8\.ffn_(gate|gate_up|down).*"),
    ("llama-3.1-8b", "q4_k_m", {"gpu": "6500MiB", "n_gpu_layers": 20}, 25856, None, (), 0, ""),
]  # fmt: skip


@pytest.mark.parametrize(("model", "quant", "said", "context", "layers", "shares", "moved", "first"), PRINTED)
def test_it_chooses_what_llama_cpp_chooses(
    model: str, quant: str | None, said: dict[str, Any], context: int, layers: int | None, shares: tuple[int, ...],
    moved: int | None, first: str, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    seen: list[Fitted] = []
    fitted = fitting.fitted

    def kept(*given: Any) -> Fitted:
        seen.append(fitted(*given))
        return seen[-1]

    monkeypatch.setattr("tonnage.memory.ggml.fitting.fitted", kept)
    keys = {**said, "quant": said.get("quant", quant)}
    result = tn.serve(tn.load(model), engine="llamacpp", fit=True, suggest=False, **keys)
    (found,) = seen
    assert (found.layout.context, found.layout.offloaded) == (context, layers)
    assert tuple(map(int, found.layout.shares)) == shares
    overrides = found.layout.overrides or ()
    assert moved is None or len(overrides) == moved
    assert not first or overrides[0][0] == first
    assert any(text.startswith("fit: ") for text in result.caveats)


def test_what_is_told_of_layers_is_left_alone() -> None:
    result = tn.serve(
        tn.load("llama-3.1-8b"), engine="llamacpp", quant="q8_0", fit=True, gpu="6500MiB", n_gpu_layers=30,
        context=8192, suggest=False,
    )  # fmt: skip
    assert result.workload["n_gpu_layers"] == 30
    assert any("n_gpu_layers already set by user to 30, abort" in text for text in result.caveats)
    assert result.fit is not None
    assert result.fit.verdict == "does not fit"


def test_a_command_without_a_context_takes_what_fits() -> None:
    result = tn.serve(
        tn.load("llama-3.1-8b"), command="llama-server -m x.gguf", quant="q4_k_m", gpu="12500MiB", suggest=False
    )
    assert result.workload["context"] == 51200
    off = tn.serve(
        tn.load("llama-3.1-8b"), command="llama-server -m x.gguf --fit off", quant="q4_k_m", gpu="12500MiB",
        suggest=False,
    )  # fmt: skip
    assert off.workload["context"] == 131072
    assert off.fit is not None
    assert off.fit.verdict == "does not fit"


def test_margins_are_of_each_device() -> None:
    assert fitting._margins("512,256", 3) == (512 * MiB, 256 * MiB, 1024 * MiB)
    for wrong in ("one", "1,2,3,4"):
        with pytest.raises(tn.TonnageError, match="no list of MiB"):
            tn.serve(tn.load("llama-3.2-1b"), engine="llamacpp", fit=True, fit_target=wrong, gpu="24GiB", quant="q8_0")


def test_what_is_chosen_is_written_so_that_it_is_chosen_again() -> None:
    first = tn.serve(
        "qwen3-30b-a3b", to="llamacpp", quant="q4_k_m", fit=True, context=16384, gpu="12500MiB", suggest=False
    )
    text = first.extras["command"]["text"]
    assert "--fit on" in text
    assert "gpu-layers" not in text
    again = tn.serve("qwen3-30b-a3b", command=text, quant="q4_k_m", gpu="12500MiB", suggest=False)
    assert [r.as_dict() for r in again.ranks] == [r.as_dict() for r in first.ranks]


# Where layers and tensors go.


def served(model: str, **said: Any) -> Any:
    return tn.serve(tn.load(model), engine="llamacpp", suggest=False, **said)


def test_split_mode_none_takes_one_device() -> None:
    result = served("llama-3.1-8b", quant="q4_k_m", gpus=2, split_mode="none", main_gpu=1, gpu="24GiB")
    assert len(result.ranks) == 1
    assert any(re.search(r"CUDA1 model buffer", line) for line in result.capacity["log"])


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"split_mode": "row", "gpus": 2}, "device CUDA0 does not support split buffers"),
        ({"split_mode": "tensor", "gpus": 2}, "cuts matrices"),
        ({"split_mode": "none", "main_gpu": 2, "gpus": 2}, r"invalid value for main_gpu: 2 \(available devices: 2\)"),
        ({"tensor_split": "1,1,1", "gpus": 2}, "no list of 2 shares"),
    ],
)
def test_splits_that_llama_cpp_refuses(said: dict[str, Any], told: str) -> None:
    with pytest.raises(tn.TonnageError, match=told):
        served("llama-3.1-8b", quant="q4_k_m", **said)


def test_biases_of_experts_follow_them() -> None:
    # Printed on a device without memory: CUDA0 model buffer of gpt-oss-20b in f16 with its gates in host memory.
    there = served("gpt-oss-20b", dtype="fp16", quant="none", context=8192)
    here = served("gpt-oss-20b", dtype="fp16", quant="none", context=8192, cpu_moe=True)
    moved = sum(c.bytes for c in there.ranks[0].components if c.name == "weights" and c.tier == "requested") - sum(
        c.bytes for c in here.ranks[0].components if c.name == "weights" and c.tier == "requested"
    )
    assert moved == 24 * 32 * (3 * 2880 * 2880 * 2 + 3 * 2880 * 4)


def test_a_draft_model_lies_beside_the_model() -> None:
    alone = served("llama-3.1-8b", quant="q4_k_m", context=16384)
    both = served("llama-3.1-8b", quant="q4_k_m", context=16384, draft="llama-3.2-1b")
    lines = [c for c in both.ranks[0].components if c.why.startswith("draft model")]
    # 16 layers, 8 heads of 64, keys and values in fp16, whatever the target's cache is in.
    assert next(c.bytes for c in lines if c.name == "kv_cache") == 16 * 2 * 8 * 64 * 2 * 16384
    assert both.ranks[0].tier("requested") > alone.ranks[0].tier("requested") + 1200 * MiB
    assert any("loading draft model 'llama-3.2-1b'" in line for line in both.capacity["log"])
