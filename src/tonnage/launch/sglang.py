"""``python -m sglang.launch_server`` and ``sglang serve``.

Names and aliases: sgl-project/sglang 0.4.4 to 0.5.23, python/sglang/srt/server_args.py, then arg_groups/fields/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tonnage.errors import InputError
from tonnage.launch import Flag, Launch
from tonnage.launch._tails import adapters, formats
from tonnage.launch._values import WRITTEN, count, dtype, number, share, unless_auto

GRAPHS: Final = "which CUDA graphs are captured"
DRAFT: Final = "speculative decoding: the draft model, its cache and its graphs"
HOST: Final = "pages in host memory"


def _chunk(text: str, flag: str) -> int | None:
    found = number(text, flag)
    if found < 1:
        raise InputError(
            f"{flag} {text}: prompts are read whole, whose memory depends on them: not modelled", key=flag, value=text,
            hint=f"{flag} 8192",
        )  # fmt: skip
    return found


def _finish(said: dict[str, Any], devices: int | None) -> tuple[dict[str, Any], list[str]]:
    """Adapters, of which several flags tell; the devices that are seen.

    Raises:
        InputError: more ranks than devices.
    """
    world = said.get("tp", 1) * said.get("pp", 1) * said.get("dp", 1)
    if devices is not None and world > devices:
        raise InputError(
            f"sglang needs {world} devices and may see {devices}", key="tp", value=said.get("tp", 1),
            hint="CUDA_VISIBLE_DEVICES, or --gpus of the container",
        )  # fmt: skip
    loras, rank, paths = said.pop("_loras", None), said.pop("_lora_rank", None), said.pop("_lora_paths", None)
    if said.pop("_lora", False) or paths is not None:
        # The default of --max-loras-per-batch.
        said["max_loras"] = loras or 8
        if rank is not None:
            said["max_lora_rank"] = rank
    return said, []


def _tail(workload: Mapping[str, Any]) -> list[str]:
    return [*adapters(workload, "--max-loras-per-batch"), *formats(workload, FORMATS)]


FORMATS: Final = {
    "fp8": "fp8", "bitsandbytes": "nf4", "awq": "awq-int4", "awq_marlin": "awq-int4", "gptq": "gptq-int4",
    "gptq_marlin": "gptq-int4", "modelopt": "fp8-modelopt", "modelopt_fp8": "fp8-modelopt", "modelopt_fp4": "nvfp4",
    "mxfp4": "mxfp4", "compressed-tensors": "ct-fp8", "gguf": "q4_k_m",
}  # fmt: skip

LAUNCH: Final = Launch(
    name="sglang",
    starts=(("sglang.launch_server",), ("sglang", "serve"), ("launch_server.py",)),
    images=("lmsysorg/sglang", "/sglang:"),
    begin=("python", "-m", "sglang.launch_server", "--model-path", "MODEL"),
    reference="python/sglang/srt/server_args.py, SGLang 0.4.4 to 0.5.23",
    model=("--model-path", "--model"),
    prefixes=True,
    finish=_finish,
    tail=_tail,
    file="--config",
    tails=("kv_dtype", "max_loras", "max_lora_rank"),
    formats=FORMATS,
    always=(
        "tp", "pp", "dp", "ep", "context", "dtype", "mem_fraction_static", "chunked_prefill_size", "cuda_graph_max_bs",
        "page_size",
    ),
    flags=(
        Flag(("--tp-size", "--tensor-parallel-size"), "tp", count, plain=(1,)),
        Flag(("--pp-size", "--pipeline-parallel-size"), "pp", count, plain=(1,)),
        Flag(("--dp-size", "--data-parallel-size"), "dp", count, plain=(1,)),
        Flag(("--ep-size", "--expert-parallel-size", "--ep"), "ep", count, plain=(1,)),
        Flag(("--context-length",), "context", count),
        Flag(("--dtype",), "dtype", dtype, lambda v: WRITTEN.get(v, v)),
        Flag(("--quantization",), "_quantization", unless_auto),
        Flag(("--kv-cache-dtype",), "kv_dtype", unless_auto),
        Flag(("--mem-fraction-static",), "mem_fraction_static", share),
        Flag(("--chunked-prefill-size",), "chunked_prefill_size", _chunk),
        Flag(("--cuda-graph-max-bs", "--cuda-graph-max-bs-decode"), "cuda_graph_max_bs", count),
        Flag(("--page-size",), "page_size", count),
        Flag(("--swa-full-tokens-ratio",), "swa_full_tokens_ratio", share),
        Flag(("--mamba-full-memory-ratio",), "mamba_full_memory_ratio", share),
        Flag(("--max-mamba-cache-size",), "max_mamba_cache_size", count),
        Flag(("--mamba-ssm-dtype",), "mamba_ssm_cache_dtype", unless_auto),
        Flag(("--enable-lora",), "_lora"),
        Flag(("--lora-paths",), "_lora_paths"),
        Flag(("--max-loras-per-batch",), "_loras", count),
        Flag(("--max-lora-rank",), "_lora_rank", count),
        Flag(("--max-total-tokens",), matters="tokens of the pool, whatever is free"),
        Flag(("--max-running-requests",), matters="requests at once, and with them tables and slots of states"),
        Flag(("--cpu-offload-gb",), matters="weights in host memory", harmless=("0",)),
        Flag(("--json-model-override-args",), matters="keys of the model's config", harmless=("{}",)),
        Flag(("--torchao-config",), matters="how weights are quantized while loading", harmless=("",)),
        Flag(("--quantization-param-path",), matters="scales of the cache"),
        Flag(("--enable-fp32-lm-head",), matters="the head in fp32"),
        Flag(("--speculative-algorithm",), matters=DRAFT),
        Flag(("--speculative-draft-model-path", "--speculative-draft-model"), matters=DRAFT),
        Flag(("--disable-cuda-graph",), matters=GRAPHS),
        Flag(("--disable-decode-cuda-graph",), matters=GRAPHS),
        Flag(("--disable-prefill-cuda-graph",), matters=GRAPHS),
        Flag(("--disable-piecewise-cuda-graph",), matters=GRAPHS),
        Flag(("--enable-piecewise-cuda-graph",), matters=GRAPHS),
        Flag(("--cuda-graph-bs",), matters=GRAPHS),
        Flag(("--cuda-graph-bs-decode",), matters=GRAPHS),
        Flag(("--cuda-graph-bs-prefill",), matters=GRAPHS),
        Flag(("--cuda-graph-max-bs-prefill",), matters=GRAPHS),
        Flag(("--cuda-graph-config",), matters=GRAPHS),
        Flag(("--cuda-graph-backend-decode",), matters=GRAPHS),
        Flag(("--cuda-graph-backend-prefill",), matters=GRAPHS),
        Flag(("--enable-profile-cuda-graph",), matters=GRAPHS),
        Flag(("--enable-dp-attention",), matters="attention on data-parallel ranks: buffers to gather tokens"),
        Flag(("--attn-dp-size",), matters="attention on data-parallel ranks", harmless=("1",)),
        Flag(("--attention-data-parallel-size",), matters="attention on data-parallel ranks", harmless=("1",)),
        Flag(("--dcp-size",), matters="each rank keeps a part of the context", harmless=("1",)),
        Flag(("--decode-context-parallel-size",), matters="each rank keeps a part of the context", harmless=("1",)),
        Flag(("--moe-dense-tp-size",), matters="how dense layers are cut"),
        Flag(("--ep-num-redundant-experts",), matters="redundant experts", harmless=("0",)),
        Flag(("--moe-a2a-backend",), matters="buffers that send tokens to experts", harmless=("none",)),
        Flag(("--enable-two-batch-overlap",), matters="two batches at once"),
        Flag(("--enable-symm-mem",), matters="memory for symmetric communication"),
        Flag(("--enable-hierarchical-cache", "--enable-hicache"), matters=HOST),
        Flag(("--hicache-ratio",), matters=HOST),
        Flag(("--hicache-size",), matters=HOST, harmless=("0",)),
        Flag(("--disable-radix-cache",), matters="slots of states that a request may hold"),
        Flag(("--disable-hybrid-swa-memory",), matters="windowed layers keep every token"),
        Flag(("--disaggregation-mode",), matters="prefill and decoding apart", harmless=("null",)),
        Flag(("--enable-multimodal",), "enable_multimodal", plain=(False,)),
        Flag(("--language-model-only", "--language-only"), "language_model_only", plain=(False,)),
        Flag(("--encoder-only",), matters="the encoder alone"),
        Flag(("--enable-mixed-chunk",), matters="prompts and decoding in one step"),
        Flag(("--enable-torch-compile",), matters="buffers of compiled graphs"),
        Flag(("--enable-double-sparsity",), matters="a cache of labels"),
        Flag(("--enable-hisparse",), matters="pages in host memory"),
        Flag(("--attention-backend",), matters="tokens of a page and workspaces, by the kernel"),
        Flag(("--enable-unified-memory",), matters="one pool for all kinds of layers"),
    ),
)  # fmt: skip
