"""``trtllm-serve``.

Names and aliases: NVIDIA/TensorRT-LLM 1.x, tensorrt_llm/commands/serve.py.
"""

from __future__ import annotations

from typing import Any, Final

from tonnage.errors import InputError, UnsupportedError
from tonnage.launch import Flag, Launch
from tonnage.launch._values import count, share, unless_auto


def _backend(text: str, flag: str) -> None:
    if text in ("tensorrt", "trt"):
        raise UnsupportedError(
            f"{flag} {text}: engines built ahead of time are not modelled", key=flag, value=text, hint=f"{flag} pytorch"
        )


def _finish(said: dict[str, Any], devices: int | None) -> tuple[dict[str, Any], list[str]]:
    """The devices that are seen.

    Raises:
        InputError: more ranks than devices.
    """
    world = said.get("tp", 1) * said.get("pp", 1) * said.get("cp", 1)
    if devices is not None and world > devices:
        raise InputError(
            f"trtllm-serve needs {world} devices and may see {devices}", key="tp", value=said.get("tp", 1),
            hint="CUDA_VISIBLE_DEVICES, or --gpus of the container",
        )  # fmt: skip
    return said, []


SETTINGS: Final = {
    "tensor_parallel_size": "--tensor_parallel_size", "pipeline_parallel_size": "--pipeline_parallel_size",
    "moe_expert_parallel_size": "--moe_expert_parallel_size", "max_seq_len": "--max_seq_len",
    "max_num_tokens": "--max_num_tokens", "max_batch_size": "--max_batch_size", "backend": "--backend",
    "kv_cache_config.free_gpu_memory_fraction": "--free_gpu_memory_fraction", "kv_cache_config.dtype": "_kv_dtype",
    "kv_cache_config.tokens_per_block": "_tokens_per_block", "kv_cache_config.max_tokens": "_max_tokens",
    "kv_cache_config.host_cache_size": "_host", "kv_cache_dtype": "_kv_dtype", "enable_attention_dp": "_attention_dp",
    "cuda_graph_config.max_batch_size": "_graphs", "cuda_graph_config.batch_sizes": "_graphs",
    "speculative_config.decoding_type": "_drafts", "lora_config.max_lora_rank": "_lora",
}  # fmt: skip
"""Settings of tensorrt_llm/llmapi/llm_args.py that change memory; those that have no flag begin with an underscore."""

LAUNCH: Final = Launch(
    name="tensorrt-llm",
    starts=(("trtllm-serve", "serve"), ("trtllm-serve",)),
    images=("tensorrt-llm/release",),
    begin=("trtllm-serve", "MODEL"),
    reference="tensorrt_llm/commands/serve.py, TensorRT-LLM 1.x",
    positional=True,
    finish=_finish,
    file="--config",
    file_wins=True,
    settings=SETTINGS,
    inert=(
        "print_iter_log", "enable_iter_perf_stats", "disable_overlap_scheduler", "stream_interval", "log_level",
        "kv_cache_config.enable_block_reuse", "kv_cache_config.enable_partial_reuse",
        "cuda_graph_config.enable_padding",
        "scheduler_config.capacity_scheduler_policy", "perf_metrics_max_requests", "return_perf_metrics",
    ),
    always=("tp", "pp", "ep", "context", "max_num_tokens", "free_gpu_memory_fraction"),
    flags=(
        Flag(("--tp_size", "--tensor_parallel_size"), "tp", count, plain=(1,)),
        Flag(("--pp_size", "--pipeline_parallel_size"), "pp", count, plain=(1,)),
        Flag(("--cp_size", "--context_parallel_size"), "cp", count, plain=(1,)),
        Flag(("--ep_size", "--moe_expert_parallel_size"), "ep", count, plain=(1,)),
        Flag(("--max_seq_len",), "context", count),
        Flag(("--max_num_tokens",), "max_num_tokens", count),
        Flag(
            ("--kv_cache_free_gpu_memory_fraction", "--free_gpu_memory_fraction"), "free_gpu_memory_fraction", share
        ),
        Flag(("--backend",), "_backend", _backend),
        Flag(("_kv_dtype",), "kv_dtype", unless_auto),
        Flag(("_tokens_per_block",), "tokens_per_block", count),
        Flag(("_max_tokens",), matters="tokens of the pool, whatever is free"),
        Flag(("_graphs",), matters="which CUDA graphs are captured"),
        Flag(("_drafts",), matters="speculative decoding: the draft model, its cache and its graphs"),
        Flag(("_lora",), matters="adapters"),
        Flag(("_attention_dp",), matters="attention on data-parallel ranks"),
        Flag(("_host",), matters="pages in host memory", harmless=("0",)),
        Flag(("--max_batch_size",), matters="requests of one step, and with them CUDA graphs"),
        Flag(("--max_beam_width",), matters="beams of one request", harmless=("1",)),
        Flag(("--moe_cluster_parallel_size", "--cluster_size"), matters="clusters of experts", harmless=("1",)),
        Flag(("--enable_chunked_prefill",), matters="tokens of a prompt read at once"),
        Flag(("--server_role",), matters="prefill and decoding apart"),
    ),
)  # fmt: skip
