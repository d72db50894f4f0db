"""Compare tonnage with llama.cpp itself, buffer by buffer, and record the comparison.

    python scripts/llamacpp/buffers.py --source LLAMA.CPP --library FOLDER [--device LIB] [--write]

``--source`` is a checkout of llama.cpp at the release of the library (for its converter), ``--library`` a folder with
libllama.so and its backends: the packages ``node-llama-cpp`` and ``@node-llama-cpp/linux-x64`` 3.22.1 carry both for
v0.5.0 (``llama/gitRelease.bundle`` is a git bundle). ``--device`` is ``device.c`` built against that checkout: a
device that holds and computes nothing and says of itself what the CUDA backend says, so that llama.cpp places and lays
out as on a card without one. Needs torch, transformers and what the converter imports; ``tonnage`` on the path.

Every combination is run in a process of its own. ``--write`` makes accuracy/cases/llamacpp.jsonl of what was printed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT / "src"), str(HERE)]

from files import config_of, make  # noqa: E402

import tonnage as tn  # noqa: E402
from tonnage.memory.ggml.build import context_of  # noqa: E402

CASES = ROOT / "accuracy" / "cases" / "llamacpp.jsonl"
LINE = re.compile(r"^\w+: +(\w+) +(model|KV|RS|compute|output) buffer size = +([\d.]+) MiB")
SOURCE = "llama.cpp v0.5.0 of @node-llama-cpp/linux-x64 3.22.1, its log"

HOST = {"n_gpu_layers": 0}
OFF, SLOTS = {"flash_attn": "off"}, {"parallel": 4, "kv_unified": True}
Q8, Q4 = {"kv_dtype": "q8_0"}, {"kv_dtype": "q4_0", "kv_dtype_v": "q8_0"}

ON_HOST: tuple[tuple[str, dict[str, Any], bool], ...] = (
    ("llama-3.2-1b", {"context": 4096}, True),
    ("llama-3.2-1b", {"context": 8192, "logits": "all", "ubatch_size": 256, **OFF}, True),
    ("gpt2", {"context": 1024, "logits": "all"}, True),
    ("phi-2", {"context": 2048, **OFF}, True),
    ("phi-3-mini", {"context": 4096, **Q8, "logits": "all"}, True),
    ("falcon-7b", {"context": 2048, **OFF}, True),
    ("bloom-560m", {"context": 2048, **OFF}, True),
    ("mpt-7b", {"context": 2048}, True),
    ("pythia-70m", {"context": 2048, "logits": "all"}, True),
    ("starcoder2-3b", {"context": 4096, **Q4}, True),
    ("stablelm-2-1.6b", {"context": 4096, "concurrency": 8}, True),
    ("gemma-2b", {"context": 4096, **OFF}, True),
    ("gemma-2-2b", {"context": 8192, **OFF}, True),
    ("gemma-3-1b", {"context": 16384, **Q8}, True),
    ("qwen2.5-1.5b", {"context": 8192, "logits": "all"}, True),
    ("qwen3-0.6b", {"context": 8192, "ubatch_size": 1024, **OFF}, True),
    ("qwen1.5-moe-a2.7b", {"context": 4096}, True),
    ("olmo-1b", {"context": 2048}, True),
    ("olmo-2-1b", {"context": 4096, **OFF}, True),
    ("olmoe-1b-7b", {"context": 4096}, True),
    ("granite-3.1-2b", {"context": 8192, "kv_dtype": "f32"}, True),
    ("smollm3-3b", {"context": 8192, "kv_dtype": "iq4_nl"}, True),
    ("deepseek-v2-lite", {"context": 4096, **OFF}, True),
    ("mamba-130m", {"context": 4096}, True),
    ("mamba2", {"context": 4096, "concurrency": 6}, True),
    ("lfm2", {"context": 8192, **OFF}, True),
    ("qwen3_5_text", {"context": 4096}, True),
    ("ernie4_5", {"context": 8192, "kv_dtype": "q5_1"}, True),
    # Held out: not run while the graphs were written.
    ("tinyllama-1.1b", {"context": 2048, "kv_dtype": "q4_1"}, False),
    ("smollm2-360m", {"context": 8192, "concurrency": 3, **OFF}, False),
    ("qwen2-0.5b", {"context": 16384, "kv_dtype": "q5_0", "ubatch_size": 128}, False),
    ("pythia-410m", {"context": 2048, **OFF}, False),
    ("gemma-3-270m", {"context": 32768, "concurrency": 5}, False),
    ("mamba-370m", {"context": 2048, "parallel": 16}, False),
)
ON_DEVICES: tuple[tuple[str, str | None, int, dict[str, Any], bool], ...] = (
    ("llama-3.1-8b", None, 1, {"context": 8192}, True),
    ("llama-3.1-8b", None, 2, {"context": 32768}, True),
    ("llama-3.1-8b", None, 1, {"context": 8192, "n_gpu_layers": 20}, True),
    ("llama-3.1-8b", "q4_k_m", 1, {"context": 32768, **Q8}, True),
    ("qwen3-30b-a3b", "q4_k_m", 1, {"context": 16384, "cpu_moe": True}, True),
    ("qwen3-30b-a3b", "q4_k_m", 1, {"context": 16384, "n_cpu_moe": 20}, True),
    ("gpt-oss-20b", None, 1, {"context": 32768}, True),
    ("gpt-oss-20b", None, 1, {"context": 32768, "swa_full": True, "logits": "all"}, True),
    ("gemma-2-9b", "q8_0", 2, {"context": 16384, "tensor_split": "3,1"}, True),
    ("deepseek-v2-lite", None, 1, {"context": 16384}, True),
    ("qwen1.5-moe-a2.7b", "q4_k_m", 2, {"context": 16384, **OFF}, True),
    ("command-r7b", "q4_0", 1, {"context": 16384, "kv_offload": False}, True),
    ("qwen3_next", None, 1, {"context": 16384}, True),
    ("mamba-2.8b", None, 2, {"context": 4096}, True),
    # Held out.
    ("mistral-nemo-12b", "q5_k_m", 1, {"context": 32768, "concurrency": 8}, False),
    ("qwen2.5-14b", "q4_k_m", 2, {"context": 65536, **Q8}, False),
    ("falcon-7b", "q8_0", 3, {"context": 2048, "tensor_split": "2,1,1"}, False),
    ("phi-4", "q6_k", 1, {"context": 16384, "n_gpu_layers": 30, **OFF}, False),
    ("gemma-2-2b", "q4_0", 4, {"context": 8192, "concurrency": 4}, False),
    ("glm-4-9b-0414", "q4_k_s", 1, {"context": 32768, "kv_dtype": "bf16"}, True),
)


def main() -> int:
    """Run every combination; 1 where a buffer differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--device", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("gguf"))
    parser.add_argument("--only", default="")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    rows, off = [], 0
    jobs = [(name, None, 0, {**HOST, **said}, seen) for name, said, seen in ON_HOST]
    jobs += list(ON_DEVICES) if asked.device else []
    for name, quant, devices, said, seen in jobs:
        if asked.only and asked.only not in name:
            continue
        found = compare(asked, name, quant, devices, said)
        wrong = [(key, ours, theirs) for key, (ours, theirs) in found.items() if ours != theirs]
        off += len(wrong)
        print(f"{name:20s} {quant or 'f16':7s} {devices} {json.dumps(said)}: {len(found) - len(wrong)} of {len(found)}",
              *(f"\n    {key}: {ours} here, {theirs} there" for key, ours, theirs in wrong), flush=True)  # fmt: skip
        rows += [case(name, quant, devices, said, seen, key, theirs) for key, (_, theirs) in found.items()]
    if asked.write:
        CASES.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return int(off > 0)


def model_of(name: str) -> Any:
    """What is loaded: a catalogue name, or an inline config."""
    from tonnage.sources import catalogue

    return name if catalogue.find(name) is not None else {"config": config_of(name), "name": name}


def workload(quant: str | None, devices: int, said: dict[str, Any]) -> dict[str, Any]:
    """The workload as tonnage takes it."""
    out: dict[str, Any] = {"engine": "llamacpp", "engine_version": "0.5", **said}
    if quant is None:
        out["dtype"], out["quant"] = "fp16", "none"
    else:
        out["quant"] = quant
    return {**out, "gpus": devices} if devices > 1 else out


def compare(
    asked: Any, name: str, quant: str | None, devices: int, said: dict[str, Any]
) -> dict[str, tuple[str | None, str | None]]:
    """Every buffer: ours and theirs, as printed."""
    file = make(asked.source, name, quant, asked.folder)
    result = tn.serve(tn.load(model_of(name)), suggest=False, **workload(quant, devices, said))
    ours = summed("\n".join(result.capacity["log"]))
    told = settings(result.workload, said)
    env = {**os.environ, "FAKE_DEVICES": str(devices), "GGML_NO_BACKTRACE": "1"}
    if devices:
        told["backends"] = [str(asked.device)]
    command = [sys.executable, str(HERE / "run.py"), str(asked.library), str(file), json.dumps(told)]
    out = subprocess.run(command, capture_output=True, text=True, env=env, check=False).stdout
    if "ready" not in out:
        raise SystemExit(f"{name}: llama.cpp did not start\n{out}")
    theirs = summed(out)
    return {key: (ours.get(key), theirs.get(key)) for key in sorted({*ours, *theirs})}


def settings(settled: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """The library's parameters for what llama-server would be told."""
    slots = settled["parallel"]
    tokens = context_of(settled["context"], settled["concurrency"], slots, unified=settled["kv_unified"])
    experts = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
    on_host = [experts] if said.get("cpu_moe") else []
    on_host += [rf"blk\.{i}{experts}" for i in range(said.get("n_cpu_moe", 0))]
    out = {
        "n_ctx": tokens,
        "n_batch": settled["batch_size"],
        "n_ubatch": settled["ubatch_size"],
        "n_seq_max": slots,
        "n_outputs_max": settled["batch_size"] if settled["logits"] == "all" else slots,
        "kv_unified": settled["kv_unified"],
        "type_k": settled["kv_dtype"],
        "type_v": settled["kv_dtype_v"],
        "flash_attn_type": {"auto": -1, "off": 0, "on": 1}[said.get("flash_attn", "auto")],
        "swa_full": settled["swa_full"],
        "offload_kqv": settled["kv_offload"],
        "n_gpu_layers": settled["n_gpu_layers"],
    }
    if on_host:
        out["on_host"] = on_host
    if "tensor_split" in said:
        out["tensor_split"] = [float(share) for share in said["tensor_split"].split(",")]
    return out


def summed(log: str) -> dict[str, str]:
    """Sizes by buffer and kind; caches of one device that are printed apart are told apart."""
    out: dict[str, str] = {}
    for line in log.splitlines():
        found = LINE.match(line)
        if found:
            key = f"{found[1]} {found[2]}"
            out[f"{key} 2" if key in out else key] = found[3]
    return out


def case(
    name: str, quant: str | None, devices: int, said: dict[str, Any], seen: bool, key: str, theirs: str | None
) -> dict[str, Any]:
    """A row of the table of accuracy."""
    where = f"{devices} devices" if devices else "host"
    words = "-".join(f"{k}={v}" for k, v in said.items() if k != "n_gpu_layers" or devices)
    return {
        "id": f"{name}-{quant or 'f16'}-{where}-{words}:{key}".replace(" ", "-"),
        "model": model_of(name),
        "workload": {"task": "serve", **workload(quant, devices, said)},
        "measured": {"value": float(theirs or 0), "unit": "MiB", "counter": key, "step": 0.01},
        "source": SOURCE + (", on a device of scripts/llamacpp/device.c" if devices else ""),
        # What is mapped reaches from the first tensor in the file to the last: files differ in the order between.
        "exactness": "measured_peak" if "compute" in key or "Mapped" in key else "exact",
        "seen": seen,
    }


if __name__ == "__main__":
    sys.exit(main())
