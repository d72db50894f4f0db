"""``tonnage measure`` on a CPU, where tensors ask for what they ask for on a GPU, beside the prediction.

Kernels differ: attention runs eager here, and a CPU's kernels take scratch of their own, for which there is a margin.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tonnage import measures, profiles
from tonnage.cli import main
from tonnage.errors import InputError, UnsupportedError

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 128, "intermediate_size": 344,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000,
    "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
}  # fmt: skip
GPT2 = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 128, "n_layer": 3, "n_head": 4,
    "n_positions": 256, "vocab_size": 1000, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
}  # fmt: skip


def measured(config: dict[str, Any], **said: Any) -> dict[str, Any]:
    return measures.measure({"config": config, "name": "small"}, device="cpu", traced=False, attention="eager", **said)


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_a_training_step_takes_what_is_predicted(config: dict[str, Any]) -> None:
    row = measured(config, task="train", precision="fp32", batch=2, seq=64, optimizer="adamw-loop")
    assert abs(row["prediction"]["requested_error"]) < 0.001
    assert [p["phase"] for p in row["phases"]][-1] == "step2.optimizer"
    # Weights and two moments stay; gradients are gone.
    resident = row["phases"][-1]["requested"]["end"]
    assert resident == pytest.approx(3 * 4 * row["parameters"], rel=0.02)
    assert (row["steady"]["allocated"], row["context_bytes"], row["fragmentation"]) == (None, None, None)
    assert row["versions"]["torch"] == torch.__version__


def test_a_request_takes_what_is_predicted() -> None:
    row = measured(LLAMA, task="serve", context=96, prompt=64, dtype="fp32")
    assert abs(row["prediction"]["requested_error"]) < 0.001
    assert [p["phase"] for p in row["phases"]] == ["load", "prefill", "decode"]


def test_adapters_and_checkpointing_take_less() -> None:
    pytest.importorskip("peft")
    full = measured(LLAMA, task="train", precision="fp32", batch=2, seq=64, optimizer="adamw-loop")
    some = measured(
        LLAMA, task="train", dtype="fp32", precision="fp32", batch=2, seq=64, optimizer="adamw-loop", lora_rank=4,
        lora_targets="q_proj,v_proj", recompute="full",
    )  # fmt: skip
    assert some["trainable"] == 3 * 4 * (128 + 128 + 128 + 64)
    assert some["steady"]["requested"] < full["steady"]["requested"]


def test_the_verb_appends_a_row_and_shows_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config, out = tmp_path / "config.json", tmp_path / "rows.jsonl"
    config.write_text(json.dumps(LLAMA))
    argv = ["measure", str(config), "--task", "serve", "--context", "32", "--dtype", "fp32", "--device", "cpu",
            "--attention", "eager", "--out", str(out), "--id", "a"]  # fmt: skip
    assert main([*argv, "--json"]) == 0
    row = json.loads(capfd.readouterr().out)
    assert json.loads(out.read_text()) == row
    assert abs(row["trace"]["requested_error"]) < 0.001
    assert main([*argv, "--no-trace"]) == 0
    assert "steady state" in capfd.readouterr().out
    assert len(out.read_text().splitlines()) == 2
    assert main([*argv, "--no-trace", "--calibrate", str(tmp_path / "c.json")]) == 2
    assert "CUDA or ROCm" in capfd.readouterr().err


def test_what_is_not_measured_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="optimizer = adamw-8bit"):
        measured(LLAMA, task="train", precision="fp32", batch=1, seq=16, optimizer="adamw-8bit")
    with pytest.raises(UnsupportedError, match=r"longer than 0\.5 s"):
        measured(LLAMA, task="train", precision="fp32", batch=1, seq=16, max_seconds=0.5)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="sees no device cuda"):
            measures.measure({"config": LLAMA, "name": "small"}, task="train", device="cuda", traced=False, seq=16)


def test_a_trace_is_a_timeline(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config, out, page = (str(tmp_path / name) for name in ("config.json", "trace.json", "page.html"))
    Path(config).write_text(json.dumps(LLAMA))
    assert main(["trace", config, "--task", "train", "--precision", "fp32", "--seq", "32", "--out", out, "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)["ranks"][0]
    history = profiles.read(out)
    assert history.kind == "trace of tonnage"
    assert history.highest("allocated") == answer["allocated_bytes"]
    assert main(["replay", out, "--html", page]) == 0
    assert "weights" in capfd.readouterr().out
    assert "step2.backward" in Path(page).read_text()


def test_scenarios_that_were_not_measured_are_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # The checkout's own, which is not part of the package.
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    from accuracy import measure

    rows = [
        {
            "id": "a",
            "model": "m",
            "task": "train",
            "precision": "fp32",
            "batch": 1,
            "seq": 16,
            "config": LLAMA,
            "group": "g",
        },
        {"id": "b", "model": "m", "task": "serve", "context": 16, "dtype": "fp32", "config": LLAMA, "group": "g"},
        {"id": "c", "model": "m", "task": "train", "optimizer": "adamw-8bit", "config": LLAMA, "group": "g"},
    ]
    monkeypatch.setattr(measure, "scenarios", lambda: rows)
    argv = ["--device", "cpu", "--out", str(tmp_path), "--limit-s", "300"]
    assert measure.main([*argv, "--only", "a"]) == 0
    assert measure.main(argv) == 0
    written = [
        json.loads(line) for path in tmp_path.glob("cpu_torch-*.jsonl") for line in path.read_text().splitlines()
    ]
    assert [row["id"] for row in written] == ["a", "b"]
    out = capfd.readouterr().out
    assert "c: optimizer = adamw-8bit is not measured" in out
    assert out.count("a: requested") == 1
    assert measure.main([*argv, "--limit-s", "1"]) == 0
    assert "time limit: 1 left" in capfd.readouterr().out


def test_counters_of_cuda_are_read_as_torch_names_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The interfaces of torch.cuda that are asked, with their answers in the shape that torch gives them."""
    from types import SimpleNamespace

    from tonnage.measuring import counters

    asked: list[Any] = []
    keys = [
        f"{tier}_bytes.all.{when}" for tier in ("requested", "allocated", "reserved") for when in ("current", "peak")
    ]
    snapshot = {
        "device_traces": [[{"action": "segment_alloc", "addr": 4096, "size": 2097152, "stream": 0},
                           {"action": "alloc", "addr": 4096, "size": 9, "stream": 0},
                           {"action": "oom", "device_free": 5, "size": 7, "stream": 0}]],
        "segments": [{"device": 0, "address": 4096, "total_size": 2097152, "stream": 0, "segment_type": "small",
                      "is_expandable": False, "segment_pool_id": (0, 0),
                      "blocks": [{"size": 512, "requested_size": 9, "state": "active_allocated"},
                                 {"size": 2096640, "requested_size": 0, "state": "inactive"}]}],
    }  # fmt: skip
    properties = SimpleNamespace(name="A", total_memory=100, multi_processor_count=7, major=9, minor=0)
    for name, answer in {
        "set_device": None, "synchronize": None, "empty_cache": None, "reset_peak_memory_stats": None,
        "mem_get_info": (60, 100), "get_device_properties": properties, "device_count": 1, "is_available": True,
        "memory_stats": {key: i for i, key in enumerate(keys)},
    }.items():  # fmt: skip
        assert hasattr(torch.cuda, name)
        monkeypatch.setattr(
            torch.cuda, name, lambda *a, name=name, answer=answer: (asked.append((name, *a)), answer)[1]
        )
    for name, answer in {"_record_memory_history": None, "_snapshot": snapshot}.items():
        assert hasattr(torch.cuda.memory, name)
        monkeypatch.setattr(torch.cuda.memory, name, lambda *a, answer=answer, **k: answer)
    monkeypatch.setattr(torch, "empty", lambda *a, **k: None)
    counts = counters.counter("auto")
    assert isinstance(counts, counters.Cuda)
    assert counts.started() == {
        "kind": "cuda", "name": "A", "total_bytes": 100, "properties_bytes": 100, "multiprocessors": 7,
        "architecture": "sm_90", "used_at_start_bytes": 40,
    }  # fmt: skip
    from tonnage import api

    counts.record()
    assert counts.told() == {
        "requested": {"end": 0, "peak": 1}, "allocated": {"end": 2, "peak": 3}, "reserved": {"end": 4, "peak": 5},
        "device": {"end": 40, "peak": 40},
    }  # fmt: skip
    assert asked[-1] == ("reset_peak_memory_stats", 0)
    path = tmp_path / "recording.json"
    path.write_text(json.dumps(counts.recorded()))
    played = api.replay(str(path)).replayed
    assert played is not None
    assert (played.address_mismatches, played.reserved, played.allocated) == (0, 2097152, 512)
    with pytest.raises(InputError, match="sees no device cuda:4"):
        counters.counter("cuda:4")
