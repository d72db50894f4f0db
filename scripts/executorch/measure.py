"""Real exports of small random models: planned memory, weights, and what a process holds that has run them.

    pip install executorch==1.5.1 'torch==2.13.0' python-dateutil && \
        python scripts/executorch/measure.py > accuracy/cases/executorch.jsonl

``planned`` is what the exporter prints as "Required memory for activation", ``weights`` what the file stores of the
parameters, ``allocated`` what malloc counts in a process that has loaded the file and read one longest input; the
embedding, the norms and the rotary tables are mapped from the file, so they are added.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import sys
import tempfile
from importlib.metadata import version
from typing import Any

import torch
from executorch.examples.models.llama import export_llama_lib
from executorch.exir.tensor import TensorSpec
from executorch.extension.llm.export.config.llm_config import LlmConfig
from executorch.extension.pybindings import portable_lib
from omegaconf import OmegaConf

RECIPE = ["model.use_kv_cache=true", "model.use_sdpa_with_kv_cache=true", "backend.xnnpack.enabled=true",
          "backend.xnnpack.extended_ops=true"]  # fmt: skip
SMALL = {"dim": 256, "hidden_dim": 704, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2, "norm_eps": 1e-05,
         "rope_theta": 10000.0, "use_scaled_rope": False, "vocab_size": 1000, "multiple_of": 32}  # fmt: skip
QWEN3 = {"head_dim": 96, "use_qk_norm": True, "qk_norm_before_rope": True, "use_hf_rope": True, "n_layers": 3,
         "hidden_dim": 768, "vocab_size": 1520}  # fmt: skip
RUNS: dict[str, tuple[str, dict[str, Any], str | None, int, int]] = {
    "llama": ("llama", {}, None, 128, 256),
    "llama-8da4w": ("llama", {}, "32;4,32", 128, 256),
    "llama-kv8": ("llama", {}, None, 128, 256),
    "llama-portable-fp32": ("llama", {}, None, 128, 256),
    "llama-portable-bf16": ("llama", {}, None, 128, 256),
    "qwen3-kv8": ("qwen3", {**QWEN3, "n_layers": 2, "head_dim": 64, "hidden_dim": 512}, None, 128, 256),
    "llama-5": ("llama", {"n_layers": 5}, None, 128, 256),
    "llama-12": ("llama", {"n_layers": 12, "dim": 128, "hidden_dim": 352, "vocab_size": 512}, None, 128, 256),
    "llama-mha": ("llama", {"dim": 512, "hidden_dim": 256, "n_heads": 8, "n_kv_heads": 8}, "32;4,32", 2048, 2048),
    "llama-odd": ("llama", {"n_layers": 3, "n_kv_heads": 4, "hidden_dim": 500, "vocab_size": 32000}, "128;8,0", 300,
                  1000),
    "qwen3": ("qwen3", QWEN3, None, 512, 1024),
    "qwen3-8da4w": ("qwen3", QWEN3, "64;8,0", 512, 1024),
    "qwen3-10": ("qwen3", {**QWEN3, "n_layers": 10, "dim": 128, "hidden_dim": 384, "vocab_size": 512, "head_dim": 64},
                 None, 128, 256),
    "qwen2-8da4w": ("qwen2", {"use_hf_rope": True, "attention_qkv_bias": True, "hidden_dim": 640}, "64;4,64", 256,
                    512),
    "phi3-8da4w": ("phi3", {"use_hf_rope": True, "partial_rotary_factor": 0.75, "hidden_dim": 1024}, "64;4,64", 200,
                   256),
}  # fmt: skip
"""Family, parameters beside the small ones, group and embedding where packed, max_seq_length, max_context_length;
the cache is int8 where the name ends in kv8; nothing is lowered to XNNPACK where it says portable."""
SEEN = ("llama", "llama-8da4w", "qwen3", "qwen3-8da4w", "phi3-8da4w")
SIZES = {torch.float32: 4, torch.bfloat16: 2, torch.int8: 1, torch.uint8: 1}


class Counted(ctypes.Structure):
    """``mallinfo2`` of glibc."""

    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks",
                                                      "fsmblks", "uordblks", "fordblks", "keepcost")]  # fmt: skip


def config(family: str, p: dict[str, Any]) -> dict[str, Any]:
    """The same model as transformers would describe it."""
    names = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
             "phi3": "Phi3ForCausalLM"}  # fmt: skip
    head = p.get("head_dim") or p["dim"] // p["n_heads"]
    out = {
        "model_type": family, "architectures": [names[family]], "hidden_size": p["dim"],
        "intermediate_size": p["hidden_dim"], "num_hidden_layers": p["n_layers"], "num_attention_heads": p["n_heads"],
        "num_key_value_heads": p["n_kv_heads"], "vocab_size": p["vocab_size"], "rms_norm_eps": p["norm_eps"],
        "max_position_embeddings": 8192, "tie_word_embeddings": False, "torch_dtype": "float32",
    }  # fmt: skip
    if family in ("llama", "qwen3"):
        out |= {"head_dim": head}
    if family == "phi3":
        out |= {"partial_rotary_factor": p["partial_rotary_factor"]}
    return out


def exported(name: str, params: dict[str, Any], packed: str | None, longest: int, context: int, folder: str) -> Any:
    """What ``export_llm`` makes."""
    path = os.path.join(folder, f"{name}.json")
    with open(path, "w") as file:
        json.dump(params, file)
    said = [*(RECIPE[:2] if "portable" in name else RECIPE), f"base.params={path}",
            f"export.output_name={folder}/{name}.pte", f"export.max_seq_length={longest}",
            f"export.max_context_length={context}"]  # fmt: skip
    if packed is not None:
        group, _, table = packed.partition(";")
        said += ["quantization.qmode=8da4w", f"quantization.group_size={group}",
                 f"quantization.embedding_quantize='{table}'"]  # fmt: skip
    said += ["model.dtype_override=bf16"] * name.endswith("bf16")
    said += ["model.quantize_kv_cache=true"] * name.endswith("kv8")
    merged = OmegaConf.merge(OmegaConf.structured(LlmConfig), OmegaConf.from_dotlist(said))
    return export_llama_lib._export_llama(OmegaConf.to_object(merged)).export_program


def figures(program: Any) -> tuple[int, int, int]:
    """Planned memory, parameters in the file, and those of them that are mapped and not packed. [byte]"""
    constant = 0
    for node in program.exported_program().graph_module.graph.nodes:
        spec = node.meta.get("spec")
        if node.op != "placeholder" or not isinstance(spec, TensorSpec) or not spec.const:
            continue
        if "freqs" not in node.name and "lifted" not in node.name:
            constant += math.prod(spec.shape) * SIZES[spec.dtype]
    named = sum(len(each) for each in getattr(program._named_data, "buffers", ()))
    planned = program._emitter_output.program.execution_plan[0].non_const_buffer_sizes[1]
    return planned, constant + named, constant


def held() -> int:
    """What malloc has handed out. [byte]"""
    libc = ctypes.CDLL("libc.so.6")
    libc.mallinfo2.restype = Counted
    found = libc.mallinfo2()
    return int(found.uordblks + found.hblkhd)


def ran(path: str, longest: int) -> int:
    """What a loaded program holds after an input of its greatest length. [byte]"""
    gc.collect()
    before = held()
    module = portable_lib._load_for_executorch(path)
    out = module.forward((torch.randint(0, 500, (1, longest - 1)), torch.tensor([0])))
    del out
    gc.collect()
    return held() - before


def main() -> None:
    """Print every row."""
    from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401
    from executorch.kernels import quantized  # noqa: F401

    source = f"executorch {version('executorch')}, export_llm with XNNPACK's extended operators, random weights"
    for name, (family, own, packed, longest, context) in RUNS.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        params = {**SMALL, **own}
        with tempfile.TemporaryDirectory() as folder:
            program = exported(name, params, packed, longest, context, folder)
            planned, weights, mapped = figures(program)
            # A model without a checkpoint has tables of zeros, whose scales the packing of a cache refuses.
            total = 0 if name.endswith("kv8") else ran(f"{folder}/{name}.pte", longest) + mapped
        head = params.get("head_dim") or params["dim"] // params["n_heads"]
        turned = int(head * params.get("partial_rotary_factor", 1)) // (1 if params.get("use_hf_rope") else 2)
        total += 2 * context * turned * (2 if name.endswith("bf16") else 4) + 4
        work = {"task": "serve", "engine": "executorch", "context": context, "max_seq_length": longest}
        if packed is not None:
            group, _, table = packed.partition(";")
            work |= {"qmode": "8da4w", "group_size": int(group), "embedding_quantize": table}
        if "portable" in name:
            work |= {"backend": "portable", "dtype": name.rpartition("-")[2]}
        if name.endswith("kv8"):
            work |= {"kv_dtype": "int8"}
        for counter, value in (("planned", planned), ("weights", weights), ("allocated", total)):
            if counter == "allocated" and name.endswith("kv8"):
                continue
            print(json.dumps({
                "id": f"executorch-{name}:{counter}",
                "model": {"config": config(family, params), "name": name}, "workload": work,
                "measured": {"value": value, "unit": "B", "counter": counter}, "source": source,
                "exactness": "measured_peak" if counter == "allocated" else "exact", "seen": name in SEEN,
            }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
