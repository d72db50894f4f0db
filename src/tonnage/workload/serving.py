"""What is asked of ``serve``."""

from __future__ import annotations

from typing import Any, ClassVar

from tonnage.workload import ATTENTION, Key, Workload


def own(kind: str, says: str, choices: tuple[str, ...] = ()) -> Any:
    """A key that only some engines have (``Engine.takes``), not said by default."""
    return Key(kind, says, choices)


class Serve(Workload):
    """A serving workload: sequences of one length held at once."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    task: str = "serve"
    gpu: str | None = None
    in_use: str | int | None = None
    dtype: str | None = None
    quant: str | None = None
    gpus: int | None = None
    tp: int | None = None
    pp: int | None = None
    cp: int | None = None
    ep: int | None = None
    dp: int | None = None
    sharding: str | None = None
    engine: str | None = None
    engine_version: str | None = None
    kv_dtype: str | None = None
    context: int | None = None
    concurrency: int | None = None
    # Keys that an engine takes or does not (``Engine.takes``).
    attention: str | None = own("choice", "eager, sdpa, flash (sdpa).", ATTENTION)
    prompt: int | None = own("count", "Tokens read in one pass, the rest being generated (context).")
    logits: str | None = own("choice", "last or all positions of the prompt (last).", ("last", "all"))
    gpu_memory_utilization: float | None = own("share", "Part of the device that vllm may use (0.92).")
    kv_cache_memory: str | int | None = own("size", "Size of vllm's pool, instead of what its profile run leaves.")
    max_num_batched_tokens: int | None = own("count", "Tokens of one step (by the device's memory).")
    max_num_seqs: int | None = own("count", "Requests of one step (by the device's memory).")
    block_size: int | None = own("count", "Tokens of a page (16; latents 64).")
    prefix_caching: bool | None = own("switch", "Whether prefixes are cached (as the release does).")
    enforce_eager: bool | None = own("switch", "No compilation and no CUDA graphs.")
    speculative_tokens: int | None = own("count", "Tokens that the model's own prediction layer drafts.")
    max_loras: int | None = own("count", "Adapters in one batch.")
    max_lora_rank: int | None = own("count", "Their largest rank (16).")
    mamba_ssm_cache_dtype: str | None = own("text", "Format of recurrences: auto, float32, bfloat16, ...")
    decode_context_parallel_size: int | None = own("count", "Ranks of vllm that share a sequence's tokens (1).")
    num_gpu_blocks_override: int | None = own("count", "Blocks of vllm's pool, whatever is free.")
    kv_offloading_size: str | int | None = own("size", "Pages in host memory, of all ranks together (vllm).")
    cpu_offload: str | int | None = own("size", "Weights of each rank that vllm keeps in host memory.")
    limit_mm_per_prompt: str | None = own("text", "Pictures, videos and sounds of a prompt: image=2,video=0 (vllm).")
    max_pixels: int | None = own("count", "Pixels that the processor leaves of a picture (the model's own; vllm).")
    skip_mm_profiling: bool | None = own("switch", "No encoder in vllm's profile run.")
    language_model_only: bool | None = own("switch", "Nothing but text: no encoders are loaded (vllm, sglang).")
    enable_multimodal: bool | None = own("switch", "Encoders of models that sglang runs without them by default.")
    runner: str | None = own("choice", "generate or pooling: vllm's embedding, scoring.", ("generate", "pooling"))
    mem_fraction_static: float | None = own("share", "Part of the memory for weights and sglang's pool (by a rule).")
    chunked_prefill_size: int | None = own("count", "Tokens of a prompt read at once (by the device's memory).")
    cuda_graph_max_bs: int | None = own("count", "Largest batch with a CUDA graph (by the device's memory).")
    max_mamba_cache_size: int | None = own("count", "Slots of recurrent states (by mamba_full_memory_ratio).")
    page_size: int | None = own("count", "Tokens of a page of sglang (1; 64 on Blackwell).")
    swa_full_tokens_ratio: float | None = own("share", "Tokens of windowed layers for one of the others (0.8).")
    mamba_full_memory_ratio: float | None = own("share", "Memory of states for that of keys and values (0.9).")
    free_gpu_memory_fraction: float | None = own("share", "Part of what is left for tensorrt-llm's pool (0.9).")
    max_num_tokens: int | None = own("count", "Tokens of one step of tensorrt-llm (8192).")
    tokens_per_block: int | None = own("count", "Tokens of a page of tensorrt-llm (32).")
    n_gpu_layers: int | None = own("number", "Layers that llamacpp offloads, the output being one (all).")
    cpu_moe: bool | None = own("switch", "Experts' matrices stay in host memory.")
    n_cpu_moe: int | None = own("number", "Those of the first N layers do.")
    n_cpu_ffn: int | None = own("number", "Feed-forward matrices of the first N layers stay in host memory.")
    override_tensor: str | None = own("text", "expression=buffer, ...: where tensors go (CUDA0, CPU).")
    tensor_split: str | None = own("text", "Shares of the devices, such as 3,1 (equal).")
    split_mode: str | None = own(
        "choice", "layer, none (one device), row, tensor (layer).", ("layer", "none", "row", "tensor")
    )
    main_gpu: int | None = own("number", "The device, where split_mode is none (0).")
    parallel: int | None = own("count", "Slots of llama-server (4, or as many as --concurrency).")
    kv_unified: bool | None = own("switch", "One cache for all slots (where --parallel is left out).")
    kv_dtype_v: str | None = own("text", "Format of llamacpp's values (--kv-dtype).")
    flash_attn: str | None = own("choice", "auto, on, off (auto).", ("auto", "on", "off"))
    batch_size: int | None = own("count", "Tokens that llamacpp takes at once (2048).")
    ubatch_size: int | None = own("count", "Tokens of one pass of llamacpp (512).")
    swa_full: bool | None = own("switch", "Windowed layers keep every token.")
    kv_offload: bool | None = own("switch", "The cache lies on the devices of its layers (yes).")
    op_offload: bool | None = own("switch", "Weights in host memory are fetched for large batches (yes).")
    repack: bool | None = own("switch", "A CPU lays matrices out anew (yes).")
    mmap: bool | None = own("switch", "The file is mapped into memory (yes).")
    gpu_ratio: str | None = own("text", "Share of the layers that lmstudio offloads: off, max, 0.5 (what fits).")
    gpu_overhead: str | int | None = own("size", "What ollama is told to keep free of each device (none).")
    mlock: bool | None = own("switch", "What is in host memory is locked there.")
    fit: bool | None = own("switch", "llamacpp shortens the context and moves layers until it fits, as --fit does.")
    fit_target: str | None = own("text", "MiB to be left on each device by fit (1024).")
    fit_ctx: int | None = own("count", "Tokens below which fit does not shorten the context (4096).")
    draft: str | None = own("text", "The model that drafts: a name, a file, org/name.")
    draft_quant: str | None = own("text", "How its weights are stored (the file's own, else as the model's).")
    draft_gpu_layers: int | None = own("number", "Its layers that llamacpp offloads (all).")
    mmproj: str | None = own("text", "llamacpp's projector of pictures: a GGUF file, or f16, bf16, f32, q8_0.")
    mmproj_offload: bool | None = own("switch", "The projector lies on a device (yes).")
    mmproj_device: int | None = own("number", "That device (0).")
    image_min_tokens: int | None = own("count", "Tokens of a picture at least (the model's own).")
    image_max_tokens: int | None = own("count", "Tokens of a picture at most (the model's own).")
    kv_bits: int | None = own("count", "Bits of mlx's packed cache (none).")
    kv_group_size: int | None = own("count", "Values of it that share a scale (64).")
    max_seq_length: int | None = own("count", "Longest input that executorch exports for, plus one (128).")
    backend: str | None = own(
        "choice", "What executorch lowers to (xnnpack).", ("xnnpack", "portable", "coreml", "qnn", "vulkan", "mlx")
    )
    qmode: str | None = own("choice", "Weights as executorch packs them: 8da4w (fp32).", ("8da4w",))
    group_size: int | None = own("count", "Weights that share a scale there (128).")
    embedding_quantize: str | None = own("text", "Bits and group of its embedding: 4,32 or 8,0 (fp32).")
    max_kv_size: int | None = own("count", "Tokens that mlx's caches keep at most (all).")
    prefill_step_size: int | None = own("count", "Tokens of a prompt that mlx reads at once (2048).")
    cuda_memory_fraction: float | None = own("share", "Part of the device that tgi may use (1).")
    max_batch_prefill_tokens: int | None = own("count", "Prompt tokens of one step of tgi (by device and model).")
