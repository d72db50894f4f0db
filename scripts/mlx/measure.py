"""Weights and caches of small random models under mlx-lm, as MLX counts them; the rows of accuracy/cases/mlx.jsonl.

    pip install 'mlx[cpu]' mlx-lm && python scripts/mlx/measure.py > accuracy/cases/mlx.jsonl

On MLX's CPU backend: what lies there (``mx.get_active_memory``) is the same on Metal, what a pass takes is not.
"""

from __future__ import annotations

import importlib
import json
from importlib.metadata import version
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.generate import maybe_quantize_kv_cache
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import quantize_model

SHARED = {
    "hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 2048,
    "rms_norm_eps": 1e-6, "max_position_embeddings": 8192, "torch_dtype": "bfloat16", "tie_word_embeddings": False,
    "rope_theta": 10000.0,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "num_hidden_layers": 4, "intermediate_size": 1536,
              "architectures": ["LlamaForCausalLM"]},
    "llama-tied": {"model_type": "llama", "num_hidden_layers": 3, "intermediate_size": 1504,
                   "tie_word_embeddings": True, "architectures": ["LlamaForCausalLM"]},
    "qwen3": {"model_type": "qwen3", "num_hidden_layers": 3, "intermediate_size": 1024,
              "architectures": ["Qwen3ForCausalLM"]},
    "qwen3-moe": {"model_type": "qwen3_moe", "num_hidden_layers": 2, "intermediate_size": 1536, "num_experts": 8,
                  "num_experts_per_tok": 2, "moe_intermediate_size": 256, "decoder_sparse_step": 1,
                  "mlp_only_layers": [], "norm_topk_prob": True, "architectures": ["Qwen3MoeForCausalLM"]},
    "mixtral": {"model_type": "mixtral", "num_hidden_layers": 2, "intermediate_size": 1024, "num_local_experts": 4,
                "num_experts_per_tok": 2, "architectures": ["MixtralForCausalLM"]},
    "gemma3": {"model_type": "gemma3_text", "num_hidden_layers": 6, "intermediate_size": 1024, "sliding_window": 512,
               "sliding_window_pattern": 6, "tie_word_embeddings": True, "query_pre_attn_scalar": 64,
               "architectures": ["Gemma3ForCausalLM"]},
}  # fmt: skip
PACKED = ((None, 64), (4, 64), (8, 64))
RUNS = ((100, 3, None), (700, 80, None), (3000, 40, None), (700, 80, 8))
"""Tokens read and written, and bits of the cache."""


def row(name: str, workload: dict[str, Any], value: int, counter: str, seen: bool) -> dict[str, Any]:
    """A row of the table of accuracy."""
    words = "-".join(f"{k}={v}" for k, v in workload.items() if k not in ("task", "engine", "dtype"))
    return {
        "id": f"mlx-{name}-{words}:{counter}", "model": {"config": {**SHARED, **MODELS[name]}, "name": name},
        "workload": {"task": "serve", "engine": "mlx", "dtype": "bf16", **workload},
        "measured": {"value": value, "unit": "B", "counter": counter},
        "source": f"mlx-lm {version('mlx-lm')}, mlx {version('mlx')} (CPU), random weights", "exactness": "exact",
        "seen": seen,
    }  # fmt: skip


def filled(cache: list[Any], prompt: int, more: int, bits: int | None) -> int:
    """Bytes of a model's caches after a prompt and so many tokens, fed as ``generate_step`` feeds them.

    Keys and values are zeros: what a cache takes does not depend on them, and no model has to run.
    """
    steps = [min(2048, prompt - 1 - at) for at in range(0, prompt - 1, 2048)] + [1] * (more + 1)
    for step in steps:
        new = mx.zeros((1, SHARED["num_key_value_heads"], step, SHARED["head_dim"]), mx.bfloat16)
        for c in cache:
            c.update_and_fetch(new, new)
        maybe_quantize_kv_cache(cache, 0, 64, bits)
        mx.eval([c.state for c in cache])
    return sum(c.nbytes for c in cache)


def main() -> None:
    """Print every row."""
    mx.set_default_device(mx.cpu)
    for name, own in MODELS.items():
        config = {**SHARED, **own}
        module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
        for bits, group in PACKED:
            model = module.Model(module.ModelArgs.from_dict(config))
            model.set_dtype(mx.bfloat16)
            if config["tie_word_embeddings"]:
                # As loading a checkpoint without a head does (``sanitize``).
                model.pop("lm_head", None)
            said: dict[str, Any] = {"quant": "none"}
            if bits is not None:
                model, _ = quantize_model(model, dict(config), group, bits)
                said = {"quant": f"mlx-{bits}bit"}
            size = sum(v.nbytes for _, v in tree_flatten(model.parameters()))
            print(json.dumps(row(name, {**said, "context": 256}, size, "weights", seen=name != "qwen3")))
        for prompt, more, packed in RUNS:
            if packed is not None and name == "gemma3":
                continue
            found = filled(make_prompt_cache(model), prompt, more, packed)
            work = {"quant": "none", "context": prompt + more, "prompt": prompt}
            work |= {"kv_bits": packed} if packed is not None else {}
            print(json.dumps(row(name, work, found, "kv_bytes", seen=name != "qwen3")))


if __name__ == "__main__":
    main()
