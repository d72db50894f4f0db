"""Formats of a cache as engines name them, and the bytes that a token takes in each.

References: vllm-project/vllm v0.33.0 vllm/config/cache.py ``CacheDType`` (and the same literal of each release),
vllm/v1/kv_cache_interface.py, vllm/v1/attention/backends/mla/; sgl-project/sglang 0.5.23
python/sglang/srt/model_executor/pool_configurator.py, python/sglang/srt/mem_cache/memory_pool.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tonnage.errors import InputError, UnsupportedError, nearest
from tonnage.formats import FORMATS, storage_format
from tonnage.memory.pool.kept import Kept
from tonnage.record import Record
from tonnage.releases import Version, shown

SCALES_OF_LATENT: Final = 128
"""Elements of a latent, or of an indexer's key, that share an fp32 scale."""

SCALES_OF_ENTRY: Final = 64
"""Elements of a compressed entry that share a scale of a byte; the scales are padded to eight."""


class CacheFormat(Record):
    """How a cache stores an element.

    Args:
        name: as the engine has it.
        bits: of an element.
        group: elements that share a scale of a byte (fp4); 0 for none.
        head_scale: bytes of a scale for each token and head, of keys and of values (per token and head).
        packed_latent: a latent in fp8 with its scales, its rotary part in 16 bit (DeepSeek's sparse attention).
        latent: whether latents can be kept so.
        heads: whether keys and values can be kept so.
        first: release that has it.
    """

    name: str
    bits: int
    group: int = 0
    head_scale: int = 0
    packed_latent: bool = False
    latent: bool = True
    heads: bool = True
    first: Version = (0, 0)

    def _side(self, width: int) -> int:
        """Bytes of ``width`` elements. [byte]"""
        return -(-width * self.bits // 8) + (-(-width // self.group) if self.group else 0)

    def token(self, kept: Kept) -> int:
        """Bytes of a token in one layer.

        >>> CacheFormat("bf16", 16).token(Kept("full", 8, 128, 128))
        4096
        >>> CacheFormat("int8_per_token_head", 8, head_scale=4).token(Kept("full", 8, 256, 256))
        4160
        >>> CacheFormat("fp8_ds_mla", 8, packed_latent=True).token(Kept("latent", 1, 512, 64))
        656
        >>> CacheFormat("fp8_ds_mla", 8, packed_latent=True).token(Kept("entries", 1, 448, 64))
        584
        """
        if kept.kind == "waiting":
            return kept.key * 4
        if kept.kind == "entries" and self.packed_latent:
            return kept.key + kept.value * 2 + -(-kept.key // SCALES_OF_ENTRY // 8) * 8
        if kept.kind in ("indexer", "index entries"):
            return kept.key + -(-kept.key // SCALES_OF_LATENT) * 4
        if kept.kind == "latent" and self.packed_latent:
            return kept.key + -(-kept.key // SCALES_OF_LATENT) * 4 + kept.value * 2
        if kept.kind == "latent":
            return self._side(kept.elements)
        return kept.heads * (self._side(kept.key) + self._side(kept.value) + 2 * self.head_scale)


VLLM: Final[Mapping[str, CacheFormat]] = {
    f.name: f
    for f in (
        CacheFormat("fp32", 32),
        CacheFormat("bf16", 16),
        CacheFormat("fp16", 16),
        CacheFormat("fp8", 8),
        CacheFormat("fp8_e4m3", 8),
        CacheFormat("fp8_e5m2", 8),
        CacheFormat("fp8_inc", 8, first=(0, 10)),
        CacheFormat("fp8_ds_mla", 8, packed_latent=True, heads=False, first=(0, 12)),
        CacheFormat("int8_per_token_head", 8, head_scale=4, latent=False, first=(0, 20)),
        CacheFormat("fp8_per_token_head", 8, head_scale=4, latent=False, first=(0, 20)),
        CacheFormat("nvfp4", 4, group=16, latent=False, first=(0, 20)),
    )
}

SGLANG: Final[Mapping[str, CacheFormat]] = {
    f.name: f
    for f in (
        CacheFormat("fp32", 32),
        CacheFormat("bf16", 16),
        CacheFormat("fp16", 16),
        CacheFormat("fp8_e4m3", 8),
        CacheFormat("fp8_e5m2", 8),
        CacheFormat("mxfp8", 8, group=32),
        CacheFormat("fp4_e2m1", 4, group=16),
    )
}

TENSORRT: Final[Mapping[str, CacheFormat]] = {
    f.name: f
    for f in (
        CacheFormat("fp32", 32),
        CacheFormat("bf16", 16),
        CacheFormat("fp16", 16),
        CacheFormat("fp8", 8),
        CacheFormat("fp8_e4m3", 8),
        CacheFormat("nvfp4", 4, group=16, latent=False),
    )
}

TGI: Final[Mapping[str, CacheFormat]] = {
    f.name: f
    for f in (
        CacheFormat("bf16", 16),
        CacheFormat("fp16", 16),
        CacheFormat("fp8_e4m3", 8, latent=False, first=(3, 0)),
        CacheFormat("fp8_e5m2", 8, latent=False),
    )
}

_SAME: Final = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32"}


def chosen(
    asked: str | None, known: Mapping[str, CacheFormat], dtype: str, version: Version, declared: str | None, engine: str
) -> CacheFormat:
    """The format of the cache: asked for, else the checkpoint's own, else that of the weights.

    Args:
        asked: as the workload has it; "auto" counts as not said.
        known: the engine's.
        dtype: format that is computed in.
        version: of the engine.
        declared: what the checkpoint says of its cache.
        engine: its name, for messages.

    Raises:
        InputError: the engine has no such format.
        UnsupportedError: its release has it not yet.
    """
    plain = (asked or "auto").lower()
    if plain == "auto":
        return known[declared if declared is not None and declared in known else dtype]
    plain = _SAME.get(plain, plain)
    if plain not in known:
        plain = _spelled(plain)
    if plain == "fp8_e4m3" and "fp8" in known and (asked or "").lower() == "fp8":
        plain = "fp8"
    if plain not in known:
        raise InputError(
            f"kv_dtype = {asked}: {engine} has no such cache", key="kv_dtype", value=asked,
            nearest=nearest(plain, known), hint=f"auto, {', '.join(known)}",
        )  # fmt: skip
    found = known[plain]
    if version < found.first:
        raise UnsupportedError(
            f"kv_dtype = {asked}: {engine} has it from {shown(found.first)} on", key="kv_dtype", value=asked,
            hint=f"--engine-version {shown(found.first)}",
        )  # fmt: skip
    return found


def _spelled(name: str) -> str:
    try:
        return storage_format(name).name
    except (InputError, UnsupportedError):
        return name


def refuse(form: CacheFormat, layers: Any, engine: str) -> None:
    """Refuse a format that the model's attention cannot be kept in.

    Raises:
        UnsupportedError: names the kind.
    """
    kinds = {k.kind for layer in layers for k in layer}
    if "latent" in kinds and not form.latent:
        raise UnsupportedError(
            f"kv_dtype = {form.name}: {engine} keeps no latent so", key="kv_dtype", value=form.name,
            hint="--kv-dtype fp8 or bf16",
        )  # fmt: skip
    if form.packed_latent and not kinds & {"latent", "entries"}:
        raise UnsupportedError(
            f"kv_dtype = {form.name} is for latents, and this model has none", key="kv_dtype", value=form.name,
            hint="--kv-dtype fp8",
        )  # fmt: skip


def declared(config: Mapping[str, Any] | None) -> str | None:
    """What a ``quantization_config`` says of the cache: fp8 or nothing.

    >>> declared({"kv_cache_quant_algo": "FP8"}), declared({"kv_cache_scheme": {"num_bits": 8, "type": "float"}})
    ('fp8_e4m3', 'fp8_e4m3')
    """
    if config is None:
        return None
    inner = config.get("quantization")
    source = inner if isinstance(inner, Mapping) else config
    if str(source.get("kv_cache_quant_algo") or "").upper() == "FP8":
        return "fp8_e4m3"
    scheme = config.get("kv_cache_scheme")
    if isinstance(scheme, Mapping) and scheme.get("num_bits") == 8 and scheme.get("type") == "float":
        return "fp8_e4m3"
    return None


def state_width(name: str | None, dtype: str) -> int:
    """Bytes of an element of a state in a format; that of the weights where none is named."""
    return FORMATS[storage_format(name or dtype).name].bytes
