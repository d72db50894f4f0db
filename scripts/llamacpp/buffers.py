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
CONTEXT = 500
"""MiB that tonnage takes a device's context for; a process sees what is free behind it."""
LINE = re.compile(r"^\w+: +(\w+) +(model|KV|RS|compute|output) buffer size = +([\d.]+) MiB")
SOURCE = "llama.cpp v0.5.0 of @node-llama-cpp/linux-x64 3.22.1, its log"

HOST = {"n_gpu_layers": 0}
OFF, SLOTS = {"flash_attn": "off"}, {"parallel": 4, "kv_unified": True}
NO_FETCH = {"op_offload": False}
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
    # Text models of those that read pictures, which come in by a projector (pictures.py).
    ("qwen2.5-vl-7b", "q4_k_m", 1, {"context": 16384}, True),
    ("qwen3-vl-8b", "q4_k_m", 1, {"context": 16384, **OFF}, True),
    ("qwen3-vl-8b", "q8_0", 2, {"context": 16384}, False),
    ("llava-1.5-7b", "q4_k_m", 1, {"context": 4096}, False),
    # Where tensors go.
    ("llama-3.1-8b", "q4_k_m", 2, {"context": 16384, "split_mode": "none", "main_gpu": 1}, True),
    ("llama-3.1-8b", "q8_0", 1, {"context": 16384, "n_cpu_ffn": 12}, True),
    ("qwen3-30b-a3b", "q4_k_m", 2, {"context": 16384, "override_tensor": r"blk\.(1|2)\d\.ffn_.*_exps=CPU"}, True),
    ("gpt-oss-20b", None, 1, {"context": 16384, "override_tensor": r"ffn_(up|gate)_exps=CPU", **NO_FETCH}, True),
    ("mistral-7b-v0.3", "q4_k_m", 2, {"context": 16384, "n_gpu_layers": 20, "tensor_split": "1,2", **NO_FETCH}, True),
    # A draft model beside it.
    ("llama-3.1-8b", "q4_k_m", 1, {"context": 16384, "draft": "llama-3.2-1b"}, True),
    ("qwen2.5-14b", "q4_k_m", 2, {"context": 32768, **Q8, "draft": "qwen2.5-0.5b", "parallel": 2}, False),
    # --fit: what is free on each device is the size that is named, less the 500 MiB taken for a context.
    ("llama-3.1-8b", "q4_k_m", 1, {"fit": True, "gpu": "12500MiB"}, True),
    ("llama-3.1-8b", "q8_0", 1, {"fit": True, "gpu": "8500MiB"}, True),
    ("llama-3.1-70b", "q4_k_m", 1, {"context": 32768, "fit": True, "gpu": "24500MiB"}, True),
    ("llama-3.1-70b", "q4_k_m", 2, {"fit": True, "gpu": "24500MiB", "fit_target": "512,2048"}, True),
    ("qwen3-30b-a3b", "q4_k_m", 1, {"fit": True, "gpu": "12500MiB"}, True),
    ("qwen3-30b-a3b", "q4_k_m", 1, {"context": 32768, "fit": True, "gpu": "16500MiB", **Q8}, True),
    ("qwen3-30b-a3b", "q4_k_m", 2, {"context": 65536, "fit": True, "gpu": "8500MiB"}, True),
    ("gemma-2-9b", "q8_0", 1, {"fit": True, "gpu": "10500MiB", "fit_ctx": 8192}, True),
    ("llama-3.1-8b", "q8_0", 1, {"fit": True, "gpu": "10500MiB", "draft": "llama-3.2-1b"}, True),
    # Held out.
    ("gpt-oss-20b", None, 1, {"context": 65536, "fit": True, "gpu": "10500MiB"}, False),
    ("mixtral-8x7b", "q4_k_m", 2, {"fit": True, "gpu": "12500MiB", "parallel": 2}, False),
    ("qwen2.5-14b", "q4_k_m", 3, {"fit": True, "gpu": "4500MiB"}, False),
    ("qwen3-30b-a3b", "q4_k_m", 3, {"context": 32768, "fit": True, "gpu": "5500MiB"}, False),
    ("phi-4", "q6_k", 1, {"fit": True, "gpu": "16500MiB", "kv_dtype": "q4_0"}, False),
    ("llama-3.1-8b", "q4_k_m", 1, {"n_gpu_layers": 20, "fit": True, "gpu": "6500MiB"}, False),
)


def main() -> int:
    """Run every combination; 1 where a buffer differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--device", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("gguf"))
    parser.add_argument("--only", default="")
    parser.add_argument("--having", default="", help="only combinations that say this")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    rows, off = [], 0
    jobs = [(name, None, 0, {**HOST, **said}, seen) for name, said, seen in ON_HOST]
    jobs += list(ON_DEVICES) if asked.device else []
    for name, quant, devices, said, seen in jobs:
        if (asked.only and asked.only not in name) or asked.having not in json.dumps(said):
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
    told = settings(result.workload, said, devices)
    env = {**os.environ, "FAKE_DEVICES": str(devices), "GGML_NO_BACKTRACE": "1"}
    if "gpu" in said:
        env["FAKE_MEMORY"] = ",".join([str(int(said["gpu"].removesuffix("MiB")) - CONTEXT)] * devices)
    if "draft" in said:
        draft = make(asked.source, said["draft"], quant, asked.folder)
        told["draft"] = {"file": str(draft), "type_k": "f16", "type_v": "f16", "n_outputs_max": told["n_seq_max"],
                         "n_gpu_layers": -1}  # fmt: skip
    if devices:
        told["backends"] = [str(asked.device)]
    command = [sys.executable, str(HERE / "run.py"), str(asked.library), str(file), json.dumps(told)]
    out = subprocess.run(command, capture_output=True, text=True, env=env, check=False).stdout
    if "ready" not in out:
        raise SystemExit(f"{name}: llama.cpp did not start\n{out}")
    if "fit: " in out:
        print("   ", next(line for line in out.splitlines() if line.startswith("fit: ")))
        print("   ", next(text for text in result.caveats if text.startswith("fit: ")))
    theirs = summed(out)
    return {key: (ours.get(key), theirs.get(key)) for key in sorted({*ours, *theirs})}


def settings(settled: dict[str, Any], said: dict[str, Any], devices: int) -> dict[str, Any]:
    """The library's parameters for what llama-server would be told."""
    slots = settled["parallel"]
    tokens = context_of(settled["context"], settled["concurrency"], slots, unified=settled["kv_unified"])
    experts = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
    on_host = [item.removesuffix("=CPU") for item in said.get("override_tensor", "").split(",") if item]
    on_host += [experts] if said.get("cpu_moe") else []
    on_host += [rf"blk\.{i}{experts}" for i in range(said.get("n_cpu_moe", 0))]
    on_host += [rf"blk\.{i}\.ffn_(up|down|gate)\." for i in range(said.get("n_cpu_ffn", 0))]
    drafted = 1 + 3 if "draft" in said else 1
    out = {
        "n_ctx": tokens,
        "n_batch": settled["batch_size"],
        "n_ubatch": settled["ubatch_size"],
        "n_seq_max": slots,
        "n_outputs_max": settled["batch_size"]
        if settled["logits"] == "all"
        else min(settled["batch_size"], slots * drafted),
        "kv_unified": settled["kv_unified"],
        "type_k": settled["kv_dtype"],
        "type_v": settled["kv_dtype_v"],
        "flash_attn_type": {"auto": -1, "off": 0, "on": 1}[said.get("flash_attn", "auto")],
        "swa_full": settled["swa_full"],
        "offload_kqv": settled["kv_offload"],
        "op_offload": settled["op_offload"] is not False,
        "n_gpu_layers": settled["n_gpu_layers"],
    }
    if said.get("fit"):
        sizes = [int(part) << 20 for part in said.get("fit_target", "1024").split(",")]
        margins = sizes * devices if len(sizes) == 1 else sizes
        out["fit"] = {"margins": margins, "least": said.get("fit_ctx", 4096)}
        # What is left out is chosen; batches are cut to the context when it is there.
        out["n_gpu_layers"] = said.get("n_gpu_layers", -1)
        out["n_ctx"] = tokens if "context" in said else 0
        out["n_batch"], out["n_ubatch"] = 2048, said.get("ubatch_size", 512)
    if "split_mode" in said:
        out["split_mode"], out["main_gpu"] = {"none": 0, "layer": 1}[said["split_mode"]], said.get("main_gpu", 0)
    if on_host:
        out["on_host"] = on_host
    if "tensor_split" in said:
        out["tensor_split"] = [float(share) for share in said["tensor_split"].split(",")]
    return out


def summed(log: str) -> dict[str, str]:
    """Sizes by buffer and kind; caches of one device that are printed apart are told apart."""
    out: dict[str, str] = {}
    which = ""
    for line in log.splitlines():
        which = "draft " if line == "draft" or "loading draft model" in line else which
        found = LINE.match(line)
        if found:
            key = f"{which}{found[1]} {found[2]}"
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
