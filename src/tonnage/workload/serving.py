"""What is asked of ``serve``."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Final

from tonnage.workload import ATTENTION, Placed, key

COMMON: Final = "Sequences, formats and engine"

asked = partial(key, heading=COMMON)
once = partial(key, heading="One pass")
shared = partial(key, heading="Several engines")
vllm = partial(key, heading="vLLM")
sglang = partial(key, heading="SGLang")
trt = partial(key, heading="TensorRT-LLM")
tgi = partial(key, heading="TGI")
ggml = partial(key, heading="llama.cpp, Ollama, LM Studio")
mlx = partial(key, heading="MLX")
exported = partial(key, heading="ExecuTorch")


class Serve(Placed):
    """A serving workload: sequences of one length held at once."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    task: str = "serve"
    context: int | None = asked("count", "Tokens of one sequence (8192, or the model's positions).")
    concurrency: int | None = asked("count", "Sequences of that length held at once (1).")
    dtype: str | None = asked("text", "Format of the weights (the checkpoint's, else bf16).")
    kv_dtype: str | None = asked("text", "Format of the cache (dtype).")
    engine: str | None = asked("text", "What runs the model (transformers)")
    engine_version: str | None = asked("text", "Its release (newest known).")
    quant: str | None = asked(
        "text", "nf4, int8, awq-int4, fp8-block, q4_k_m, ...; none (the checkpoint's own).", wants="SCHEME"
    )

    attention: str | None = once("text", "How attention is computed (sdpa)", ATTENTION)
    prompt: int | None = once("count", "Tokens read in one pass, the rest being generated (context).")
    logits: str | None = once("text", "Positions of the prompt whose logits are made (last)", ("last", "all"))

    max_loras: int | None = shared("count", "Adapters in one batch.")
    max_lora_rank: int | None = shared("count", "Their largest rank (16).")
    mamba_ssm_cache_dtype: str | None = shared("text", "Format of recurrences: auto, float32, bfloat16, ...")
    language_model_only: bool | None = shared("switch", "Nothing but text: no encoders are loaded (vllm, sglang).")
    speculative_tokens: int | None = shared("count", "Tokens that the model's own prediction layer drafts.")

    gpu_memory_utilization: float | None = vllm("share", "Part of the device that vllm may use (0.92).")
    kv_cache_memory: str | int | None = vllm("size", "Size of vllm's pool, instead of what its profile run leaves.")
    max_num_batched_tokens: int | None = vllm("count", "Tokens of one step (by the device's memory).")
    max_num_seqs: int | None = vllm("count", "Requests of one step (by the device's memory).")
    block_size: int | None = vllm("count", "Tokens of a page (16; latents 64).")
    prefix_caching: bool | None = vllm("switch", "Whether prefixes are cached (as the release does).")
    enforce_eager: bool | None = vllm("switch", "No compilation and no CUDA graphs.")
    decode_context_parallel_size: int | None = vllm("count", "Ranks of vllm that share a sequence's tokens (1).")
    num_gpu_blocks_override: int | None = vllm("count", "Blocks of vllm's pool, whatever is free.")
    kv_offloading_size: str | int | None = vllm("size", "Pages in host memory, of all ranks together (vllm).")
    cpu_offload: str | int | None = vllm("size", "Weights of each rank that vllm keeps in host memory.")
    limit_mm_per_prompt: str | None = vllm("text", "Pictures, videos and sounds of a prompt: image=2,video=0 (vllm).")
    max_pixels: int | None = vllm("count", "Pixels that the processor leaves of a picture (the model's own; vllm).")
    skip_mm_profiling: bool | None = vllm("switch", "No encoder in vllm's profile run.")
    runner: str | None = vllm("text", "What vllm runs; pooling: embedding, scoring", ("generate", "pooling"))

    enable_multimodal: bool | None = sglang("switch", "Encoders of models that sglang runs without them by default.")
    mem_fraction_static: float | None = sglang("share", "Part of the memory for weights and sglang's pool (by a rule).")
    chunked_prefill_size: int | None = sglang("count", "Tokens of a prompt read at once (by the device's memory).")
    cuda_graph_max_bs: int | None = sglang("count", "Largest batch with a CUDA graph (by the device's memory).")
    max_mamba_cache_size: int | None = sglang("count", "Slots of recurrent states (by mamba_full_memory_ratio).")
    page_size: int | None = sglang("count", "Tokens of a page of sglang (1; 64 on Blackwell).")
    swa_full_tokens_ratio: float | None = sglang("share", "Tokens of windowed layers for one of the others (0.8).")
    mamba_full_memory_ratio: float | None = sglang("share", "Memory of states for that of keys and values (0.9).")

    free_gpu_memory_fraction: float | None = trt("share", "Part of what is left for tensorrt-llm's pool (0.9).")
    max_num_tokens: int | None = trt("count", "Tokens of one step of tensorrt-llm (8192).")
    tokens_per_block: int | None = trt("count", "Tokens of a page of tensorrt-llm (32).")

    cuda_memory_fraction: float | None = tgi("share", "Part of the device that tgi may use (1).")
    max_batch_prefill_tokens: int | None = tgi("count", "Prompt tokens of one step of tgi (by device and model).")

    n_gpu_layers: int | None = ggml("number", "Layers that llamacpp offloads, the output being one (all).")
    cpu_moe: bool | None = ggml("switch", "Experts' matrices stay in host memory.")
    n_cpu_moe: int | None = ggml("number", "Those of the first N layers do.")
    n_cpu_ffn: int | None = ggml("number", "Feed-forward matrices of the first N layers stay in host memory.")
    override_tensor: str | None = ggml("text", "expression=buffer, ...: where tensors go (CUDA0, CPU).")
    tensor_split: str | None = ggml("text", "Shares of the devices, such as 3,1 (equal).")
    split_mode: str | None = ggml(
        "text", "How devices share layers; none: one device (layer)", ("layer", "none", "row", "tensor")
    )
    main_gpu: int | None = ggml("number", "The device, where split_mode is none (0).")
    parallel: int | None = ggml("count", "Slots of llama-server (4, or as many as --concurrency).")
    kv_unified: bool | None = ggml("switch", "One cache for all slots (where --parallel is left out).")
    kv_dtype_v: str | None = ggml("text", "Format of llamacpp's values (--kv-dtype).")
    flash_attn: str | None = ggml("text", "Flash attention (auto)", ("auto", "on", "off"))
    batch_size: int | None = ggml("count", "Tokens that llamacpp takes at once (2048).")
    ubatch_size: int | None = ggml("count", "Tokens of one pass of llamacpp (512).")
    swa_full: bool | None = ggml("switch", "Windowed layers keep every token.")
    kv_offload: bool | None = ggml("switch", "The cache lies on the devices of its layers (yes).")
    op_offload: bool | None = ggml("switch", "Weights in host memory are fetched for large batches (yes).")
    repack: bool | None = ggml("switch", "A CPU lays matrices out anew (yes).")
    mmap: bool | None = ggml("switch", "The file is mapped into memory (yes).")
    gpu_ratio: str | None = ggml("text", "Share of the layers that lmstudio offloads: off, max, 0.5 (what fits).")
    gpu_overhead: str | int | None = ggml("size", "What ollama is told to keep free of each device (none).")
    mlock: bool | None = ggml("switch", "What is in host memory is locked there.")
    fit: bool | None = ggml("switch", "llamacpp shortens the context and moves layers until it fits, as --fit does.")
    fit_target: str | None = ggml("text", "MiB to be left on each device by fit (1024).")
    fit_ctx: int | None = ggml("count", "Tokens below which fit does not shorten the context (4096).")
    draft: str | None = ggml("text", "The model that drafts: a name, a file, org/name.")
    draft_quant: str | None = ggml("text", "How its weights are stored (the file's own, else as the model's).")
    draft_gpu_layers: int | None = ggml("number", "Its layers that llamacpp offloads (all).")
    mmproj: str | None = ggml("text", "llamacpp's projector of pictures: a GGUF file, or f16, bf16, f32, q8_0.")
    mmproj_offload: bool | None = ggml("switch", "The projector lies on a device (yes).")
    mmproj_device: int | None = ggml("number", "That device (0).")
    image_min_tokens: int | None = ggml("count", "Tokens of a picture at least (the model's own).")
    image_max_tokens: int | None = ggml("count", "Tokens of a picture at most (the model's own).")

    kv_bits: int | None = mlx("count", "Bits of mlx's packed cache (none).")
    kv_group_size: int | None = mlx("count", "Values of it that share a scale (64).")
    max_kv_size: int | None = mlx("count", "Tokens that mlx's caches keep at most (all).")
    prefill_step_size: int | None = mlx("count", "Tokens of a prompt that mlx reads at once (2048).")

    max_seq_length: int | None = exported("count", "Longest input that executorch exports for, plus one (128).")
    backend: str | None = exported(
        "choice", "What executorch lowers to (xnnpack)", ("xnnpack", "portable", "coreml", "qnn", "vulkan", "mlx")
    )
    qmode: str | None = exported("text", "Weights as executorch packs them (fp32)", ("8da4w",))
    group_size: int | None = exported("count", "Weights that share a scale there (128).")
    embedding_quantize: str | None = exported("text", "Bits and group of its embedding: 4,32 or 8,0 (fp32).")


OWN: Final = tuple([name for name, said in Serve.keys.items() if said.heading not in ("Devices", COMMON)])
"""Keys that an engine takes or does not (``Engine.takes``)."""
