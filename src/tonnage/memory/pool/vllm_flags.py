"""Settings that vLLM refuses to start with, in its words.

References: vllm-project/vllm v0.7.3 to v0.33.0 vllm/config/ (config.py before 0.10): cache.py ``BlockSize``, lora.py
``MaxLoRARanks``, model.py ``_verify_with_expert_parallelism``; vllm/v1/attention/backends/flash_attn.py
``get_supported_kernel_block_sizes``, flashinfer.py ``supports_kv_cache_dtype``,
backends/mla/flashmla_sparse.py ``supports_compute_capability``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tonnage.devices import Device
from tonnage.errors import InputError, UnsupportedError
from tonnage.memory.pool.kept import Kept
from tonnage.memory.pool.kv_formats import CacheFormat
from tonnage.memory.pool.refusals import capability
from tonnage.releases import Since, Version, since

BLOCKS: Final[Since[tuple[int, ...]]] = (
    ((0, 20), ()), ((0, 14), (1, 8, 16, 32, 64, 128, 256)), ((0, 0), (1, 8, 16, 32, 64, 128)),
)  # fmt: skip
"""Tokens of a page; none from 0.20 on, where any that the kernels take is taken: multiples of 16."""
RANKS: Final[Since[tuple[int, ...]]] = (
    ((0, 14), (1, 8, 16, 32, 64, 128, 256, 320, 512)), ((0, 9), (8, 16, 32, 64, 128, 256, 320, 512)),
    ((0, 0), (8, 16, 32, 64, 128, 256)),
)  # fmt: skip
"""Largest ranks of adapters."""
IGNORED: Final = (0, 10)
"""Release from which on limits of pictures are passed over for models of text."""
EVERYWHERE: Final = (0, 32)
"""Release from which on FlashInfer's older kernels read a cache in NVFP4."""
FP4, OLDEST_FP4 = 100, 80
SPARSE: Final = 90
"""Compute capability, times ten, of the kernels of sparse attention over latents."""


def refuse_settings(said: Mapping[str, Any], version: Version, *, many: bool, pictures: bool) -> None:
    """Refuse what the configuration refuses.

    Args:
        said: keys of the workload that were given.
        version: of the engine.
        many: whether the model has experts.
        pictures: whether it has encoders.

    Raises:
        InputError: names the key.
    """
    block, rank = said.get("block_size"), said.get("max_lora_rank")
    blocks, ranks = since(version, BLOCKS), since(version, RANKS)
    if block is not None and (block not in blocks if blocks else block % 16):
        allowed = ", ".join(map(str, blocks)) if blocks else "a multiple of 16"
        raise InputError(f"block_size = {block}: vllm's kernels take {allowed}", key="block_size", value=block)
    if rank is not None and rank not in ranks:
        raise InputError(
            f"max_lora_rank ({rank}) must be one of {ranks}", key="max_lora_rank", value=rank,
            hint=f"--max-lora-rank {next((r for r in ranks if r >= rank), ranks[-1])}",
        )  # fmt: skip
    if (said.get("ep") or 1) > 1 and not many:
        raise InputError(
            "Number of experts in the model must be greater than 0 when expert parallelism is enabled", key="ep",
            value=said["ep"],
        )  # fmt: skip
    if said.get("limit_mm_per_prompt") and not pictures and version < IGNORED:
        raise InputError(
            "`limit_mm_per_prompt` is only supported for multimodal models", key="limit_mm_per_prompt",
            value=said["limit_mm_per_prompt"],
        )  # fmt: skip


def refuse_cache(form: CacheFormat, device: Device | None, version: Version) -> None:
    """Refuse a cache in NVFP4 on devices without its kernels: until 0.31 those of Blackwell for data centres alone.

    Raises:
        UnsupportedError: names the device's capability.
    """
    has = capability(device)
    there = has is None or (has >= OLDEST_FP4 if version >= EVERYWHERE else has // 10 == FP4 // 10)
    if form.name == "nvfp4" and not there:
        raise UnsupportedError(
            f"vllm: no attention backend is valid for kv_cache_dtype nvfp4 on this GPU (compute capability {has})",
            key="kv_dtype", value=form.name, hint="--kv-dtype fp8" + ("" if version >= EVERYWHERE else ", or 0.32"),
        )  # fmt: skip


def refuse_sparse(layers: Sequence[Sequence[Kept]], device: Device | None) -> None:
    """Refuse devices that have no kernel of sparse attention.

    Raises:
        UnsupportedError: names the device's capability.
    """
    has = capability(device)
    if has is not None and has < SPARSE and any(k.kind in ("indexer", "entries") for layer in layers for k in layer):
        raise UnsupportedError(
            f"vllm: no attention backend is valid for sparse attention on this GPU: minimum capability {SPARSE}, "
            f"current capability {has}", key="gpu", value=None,
        )  # fmt: skip
