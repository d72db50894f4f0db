"""``vllm serve`` and the ways of starting the same server before it.

Names, aliases and what values mean: vllm-project/vllm v0.33.0 and the releases back to 0.6.6, vllm/engine/arg_utils.py
and vllm/utils/argparse_utils.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from tonnage.errors import InputError
from tonnage.launch import Flag, Launch
from tonnage.launch._tails import adapters, formats
from tonnage.launch._values import WRITTEN, count, dtype, gibibytes, in_gib, objects, scaled, share, size, unless_auto

OWN_DRAFTS: Final = ("mtp", "_mtp", "nextn")
"""Ends of methods that draft with the checkpoint's own layer. vllm/config/speculative.py ``MTPModelTypes``"""
AUTO: Final = -1
"""Stands for the longest context that fits."""
CONNECTORS: Final = ("OffloadingConnector", "SimpleCPUOffloadConnector")
"""Connectors that keep pages in this host's memory."""
OFFLOAD: Final = "weights or caches in host memory"
MEDIA: Final = "what the encoder of pictures and sound takes in the profile run"
GRAPHS: Final = "which CUDA graphs are captured"


def _length(text: str, flag: str) -> int:
    return AUTO if text.strip() in ("-1", "auto") else scaled(text, flag)


def _runner(text: str, flag: str) -> str | None:
    """Whether a model writes or is pooled, as three flags of different releases say it.

    >>> _runner("embed", "--task"), _runner("auto", "--runner")
    ('pooling', None)
    """
    if text in ("auto", "none", "draft"):
        return None
    known = {
        "generate": "generate", "transcription": "generate", "pooling": "pooling", "embed": "pooling",
        "embedding": "pooling", "classify": "pooling", "score": "pooling", "reward": "pooling",
    }  # fmt: skip
    if text not in known:
        raise InputError(f"{flag} {text}: one of auto, {', '.join(known)} is meant", key=flag, value=text)
    return known[text]


def _limits(text: str, flag: str) -> str:
    """Items of a prompt by modality, as a workload has them.

    >>> _limits('{"image": {"count": 2, "width": 512}, "video": 0}', "--limit-mm-per-prompt")
    'image=2,video=0'
    """
    if not text.lstrip().startswith("{"):
        return text
    counts = {k: v.get("count", 999) if isinstance(v, Mapping) else v for k, v in objects(text, flag).items()}
    return ",".join(f"{name}={n}" for name, n in counts.items())


def _limited(text: str) -> str:
    return json.dumps({name: int(n) for name, _, n in (pair.partition("=") for pair in text.split(","))})


def _pixels(config: Mapping[str, Any]) -> tuple[int | None, bool]:
    """Pixels of a picture that arguments of the processor state, and whether they state anything else."""
    size = config.get("size")
    edge = size.get("longest_edge") if isinstance(size, Mapping) else None
    found = config.get("max_pixels") or edge
    known = {"max_pixels", "min_pixels", "size"}
    return (found if isinstance(found, int) and found > 0 else None), bool(config.keys() - known)


def _kept(said: dict[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Pages that a connector keeps in host memory."""
    if not config:
        return []
    name, extra = str(config.get("kv_connector") or ""), config.get("kv_connector_extra_config") or {}
    size = extra.get("cpu_bytes_to_use") if isinstance(extra, Mapping) else None
    if name in CONNECTORS and isinstance(size, int | float) and size > 0:
        said.setdefault("kv_offloading_size", f"{int(size)} B")
        return []
    return [f"--kv-transfer-config: {name or 'a connector'} keeps or moves pages"]


def _finish(said: dict[str, Any], devices: int | None) -> tuple[dict[str, Any], list[str]]:
    """Experts, adapters and drafts, of which several flags tell; the devices that are seen.

    Raises:
        InputError: more ranks than devices, as the server says.
    """
    told: list[str] = []
    world = said.get("tp", 1) * said.get("pp", 1) * said.get("dp", 1)
    if devices is not None and world > devices:
        raise InputError(
            f"vllm needs {world} devices and may see {devices}", key="tp", value=said.get("tp", 1),
            hint="CUDA_VISIBLE_DEVICES, or --gpus of the container",
        )  # fmt: skip
    if said.get("context") == AUTO:
        del said["context"]
        told.append("--max-model-len auto: the longest context that fits, if it is shorter than the model's own")
    task = said.pop("_task", None)
    if task is not None and said.setdefault("runner", task) != task:
        raise InputError(
            f"--runner {said['runner']} and a task of the {task} runner", key="--runner", value=said["runner"],
            hint="leave one of the two out",
        )  # fmt: skip
    if said.pop("_expert_parallel", False):
        said["ep"] = said.get("tp", 1) * said.get("dp", 1)
    wanted = said.pop("_lora", False)
    loras, rank = said.pop("_loras", 1), said.pop("_lora_rank", None)
    if wanted:
        said["max_loras"] = loras
        if rank is not None:
            said["max_lora_rank"] = rank
    drafts = said.pop("_drafts", None)
    config = dict(said.pop("_speculative", {}))
    for key, field in (("_draft_model", "model"), ("_draft_method", "method")):
        if key in said:
            config[field] = said.pop(key)
    pixels, others = _pixels(said.pop("_processor", {}))
    if pixels is not None:
        said["max_pixels"] = pixels
    told += ["--mm-processor-kwargs: " + MEDIA] if others else []
    told += _kept(said, said.pop("_transfer", {}))
    told += _drafted(said, config, config.get("num_speculative_tokens", drafts))
    return said, told


def _drafted(said: dict[str, Any], config: Mapping[str, Any], tokens: Any) -> list[str]:
    """Drafts as a key where the checkpoint's own layer makes them."""
    method = str(config.get("method") or "")
    if not config and tokens is None:
        return []
    if method.endswith(OWN_DRAFTS) and isinstance(tokens, int) and tokens > 0:
        said["speculative_tokens"] = tokens
        return []
    what = method or str(config.get("model") or "a draft")
    if method in ("ngram", "[ngram]", "ngram_gpu", "suffix"):
        return [f"speculative decoding by {what}: tokens that are drafted widen windows and states"]
    return [f"speculative decoding by {what}: the draft model, its cache and its graphs"]


def _tail(workload: Mapping[str, Any]) -> list[str]:
    out = ["--enable-expert-parallel"] if (workload.get("ep") or 1) > 1 else []
    out += adapters(workload, "--max-loras")
    if workload.get("speculative_tokens"):
        drafts = {"method": "mtp", "num_speculative_tokens": workload["speculative_tokens"]}
        out += ["--speculative-config", json.dumps(drafts)]
    if workload.get("max_pixels"):
        out += ["--mm-processor-kwargs", json.dumps({"max_pixels": workload["max_pixels"]})]
    return [*out, *formats(workload, FORMATS)]


FORMATS: Final = {
    "fp8": "fp8", "bitsandbytes": "nf4", "awq": "awq-int4", "awq_marlin": "awq-int4", "gptq": "gptq-int4",
    "gptq_marlin": "gptq-int4", "modelopt": "fp8-modelopt", "modelopt_fp4": "nvfp4", "mxfp4": "mxfp4",
    "fbgemm_fp8": "fp8-row", "compressed-tensors": "ct-fp8", "gguf": "q4_k_m",
}  # fmt: skip

LAUNCH: Final = Launch(
    name="vllm",
    starts=(
        ("vllm", "serve"), ("vllm.entrypoints.openai.api_server",), ("vllm.entrypoints.api_server",),
        ("vllm.entrypoints.cli.main", "serve"), ("api_server.py",),
    ),
    images=("vllm-openai", "vllm/vllm", "rocm/vllm", "/vllm:", "vllm-cpu", "vllm-rocm", "vllm-xpu"),
    begin=("vllm", "serve", "MODEL"),
    reference="vllm/engine/arg_utils.py, vLLM 0.6.6 to 0.33",
    model=("--model",),
    positional=True,
    prefixes=True,
    dashes=True,
    finish=_finish,
    tail=_tail,
    file="--config",
    tails=("ep", "kv_dtype", "speculative_tokens", "max_loras", "max_lora_rank", "max_pixels"),
    noted={
        "VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS": "whether graphs are taken off the pool",
        "VLLM_USE_V1": "which of two engines runs",
        "VLLM_USE_V2_MODEL_RUNNER": "which of two runners, and with it the sampler's buffers",
        "VLLM_CPU_KVCACHE_SPACE": "the cache in host memory",
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "contexts beyond the model's positions",
    },
    formats=FORMATS,
    always=(
        "tp", "pp", "dp", "context", "dtype", "gpu_memory_utilization", "max_num_batched_tokens", "max_num_seqs",
        "enforce_eager", "prefix_caching", "kv_cache_memory",
    ),
    flags=(
        Flag(("--tensor-parallel-size",), "tp", count, plain=(1,)),
        Flag(("--pipeline-parallel-size",), "pp", count, plain=(1,)),
        Flag(("--data-parallel-size",), "dp", count, plain=(1,)),
        Flag(("--enable-expert-parallel",), "_expert_parallel"),
        Flag(("--max-model-len",), "context", _length),
        Flag(("--dtype",), "dtype", dtype, lambda v: WRITTEN.get(v, v)),
        Flag(("--quantization",), "_quantization", unless_auto),
        Flag(("--kv-cache-dtype",), "kv_dtype", unless_auto),
        Flag(("--gpu-memory-utilization", "--device-memory-utilization"), "gpu_memory_utilization", share),
        Flag(("--kv-cache-memory-bytes",), "kv_cache_memory", size, str),
        Flag(("--max-num-batched-tokens",), "max_num_batched_tokens", scaled),
        Flag(("--max-num-seqs",), "max_num_seqs", count),
        Flag(("--block-size",), "block_size", count),
        Flag(("--enable-prefix-caching",), "prefix_caching"),
        Flag(("--enforce-eager",), "enforce_eager", plain=(False,)),
        Flag(("--mamba-ssm-cache-dtype",), "mamba_ssm_cache_dtype", unless_auto),
        Flag(("--enable-lora",), "_lora"),
        Flag(("--max-loras",), "_loras", count),
        Flag(("--max-lora-rank",), "_lora_rank", count),
        Flag(("--speculative-config",), "_speculative", objects),
        Flag(("--num-speculative-tokens",), "_drafts", count),
        Flag(("--spec-tokens",), "_drafts", count),
        Flag(("--spec-method",), "_draft_method"),
        Flag(("--speculative-model",), "_draft_model"),
        Flag(("--spec-model",), "_draft_model"),
        Flag(("--num-gpu-blocks-override",), "num_gpu_blocks_override", count),
        Flag(("--cpu-offload-gb",), "cpu_offload", gibibytes, in_gib),
        Flag(("--kv-offloading-size",), "kv_offloading_size", gibibytes, in_gib),
        Flag(("--kv-offloading-backend",), matters="where pages in host memory are kept", harmless=("native",)),
        Flag(("--decode-context-parallel-size",), "decode_context_parallel_size", count, plain=(1,)),
        Flag(("--offload-group-size",), matters=OFFLOAD, harmless=("0",)),
        Flag(("--swap-space",), matters="pages in host memory", harmless=("0", "4")),
        Flag(("--hf-overrides",), matters="keys of the model's config", harmless=("{}",)),
        Flag(("--rope-scaling",), matters="positions of the model"),
        Flag(("--quantization-config",), matters="how weights are quantized while loading"),
        Flag(("--kv-cache-dtype-skip-layers",), matters="layers whose cache keeps the model's format"),
        Flag(("--kv-sharing-fast-prefill",), matters="layers that share a cache skip the prompt"),
        Flag(("--mamba-cache-dtype",), matters="the format of convolution states", harmless=("auto",)),
        Flag(("--mamba-cache-mode",), matters="which states are kept for prefixes"),
        Flag(("--mamba-block-size",), matters="tokens between states that are kept"),
        Flag(("--use-replayssm",), matters="inputs of recurrences instead of states"),
        Flag(("--disable-hybrid-kv-cache-manager",), matters="windowed layers keep every token"),
        Flag(("--disable-sliding-window",), matters="windowed layers keep every token of a shorter context"),
        Flag(("--enable-chunked-prefill",), matters="without it a step takes a whole prompt", harmless=("True",)),
        Flag(("--async-scheduling",), matters="steps in flight, for which windows keep blocks"),
        Flag(("--max-num-scheduled-tokens",), matters="tokens of one step"),
        Flag(("--max-num-active-seqs",), matters="requests of one step"),
        Flag(("--performance-mode",), matters="tokens and requests of one step", harmless=("balanced",)),
        Flag(("--prefill-context-parallel-size",), matters="each rank reads a part of the prompt", harmless=("1",)),
        Flag(("--enable-eplb",), matters="redundant experts"),
        Flag(("--num-redundant-experts",), matters="redundant experts", harmless=("0",)),
        Flag(("--eplb-config",), matters="redundant experts"),
        Flag(("--enable-dbo",), matters="two batches at once"),
        Flag(("--ubatch-size",), matters="batches at once", harmless=("0",)),
        Flag(("--compilation-config",), matters=GRAPHS),
        Flag(("-O",), matters=GRAPHS, harmless=("2",)),
        Flag(("--optimization-level",), matters=GRAPHS, harmless=("2",)),
        Flag(("--cudagraph-capture-sizes",), matters=GRAPHS),
        Flag(("--max-cudagraph-capture-size",), matters=GRAPHS),
        Flag(("--cuda-graph-sizes",), matters=GRAPHS),
        Flag(("--max-seq-len-to-capture",), matters=GRAPHS),
        Flag(("--attention-backend",), matters="tokens of a page, by the kernel's preference"),
        Flag(("--limit-mm-per-prompt",), "limit_mm_per_prompt", _limits, _limited),
        Flag(("--mm-processor-kwargs",), "_processor", objects),
        Flag(("--kv-transfer-config",), "_transfer", objects),
        Flag(("--skip-mm-profiling",), "skip_mm_profiling", plain=(False,)),
        Flag(("--language-model-only",), "language_model_only", plain=(False,)),
        Flag(("--runner",), "runner", _runner),
        Flag(("--task",), "_task", _runner),
        Flag(("--convert",), "_task", _runner),
        Flag(("--mm-encoder-tp-mode",), matters=MEDIA, harmless=("weights",)),
        Flag(("--mm-ipc-gpu-memory-gb",), matters="memory for pictures that other processes send", harmless=("0",)),
        Flag(("--mm-encoder-only",), matters="the encoder alone"),
        Flag(("--lora-dtype",), matters="the format of adapters", harmless=("auto",)),
        Flag(("--lora-extra-vocab-size",), matters="rows that adapters add", harmless=("0", "256")),
        Flag(("--lora-target-modules",), matters="modules with adapters"),
        Flag(("--fully-sharded-loras",), matters="both matrices of adapters are cut"),
        Flag(("--enable-prompt-adapter",), matters="prompt adapters"),
        Flag(("--enable-sleep-mode",), matters="an allocator of its own"),
        Flag(("--enable-elastic-ep",), matters="ranks that come and go"),
        Flag(("--diffusion-config",), matters="blocks of tokens that are denoised together"),
        Flag(("--engram-config",), matters="tables of n-grams"),
        Flag(("--enable-prompt-embeds",), matters="room for embeddings of a step's tokens"),
        Flag(("--max-logprobs",), matters="logits of prompts", harmless=("20", "5", "0", "1", "10")),
    ),
)  # fmt: skip
