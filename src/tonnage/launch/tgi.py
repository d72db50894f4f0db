"""``text-generation-launcher``, and the container that starts it.

Names and variables: huggingface/text-generation-inference 3.3.7, launcher/src/main.rs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tonnage.errors import InputError
from tonnage.launch import Flag, Launch
from tonnage.launch._values import WRITTEN, count, dtype, share

KV: Final = {"fp8_e4m3": "fp8_e4m3fn", "fp8_e5m2": "fp8_e5m2"}


def _kv(text: str, flag: str) -> str:
    if text not in KV.values():
        raise InputError(f"{flag} {text}: no such cache", key=flag, value=text, hint=f"one of {', '.join(KV.values())}")
    return text.removesuffix("fn")


def _switch(text: str, flag: str) -> bool:
    if text not in ("true", "false"):
        raise InputError(f"{flag} {text}: true or false is meant", key=flag, value=text)
    return text == "true"


def _finish(said: dict[str, Any], devices: int | None) -> tuple[dict[str, Any], list[str]]:
    """How many shards: as told, else one for every device that may be seen (``find_num_shards``).

    Raises:
        InputError: what the launcher refuses.
    """
    sharded, shards = said.pop("_sharded", None), said.pop("tp", None)
    if sharded and shards is not None and shards <= 1:
        raise InputError(
            "sharded is true and num_shard is 1, which the launcher refuses", key="--num-shard", value=shards
        )
    tp = shards or (1 if sharded is False else devices)
    if devices is not None and tp is not None and tp > devices:
        raise InputError(f"tgi needs {tp} devices and may see {devices}", key="--num-shard", value=tp)
    if tp is not None:
        said["tp"] = tp
    long, prompt = said.get("context"), said.pop("_input", None)
    if long is not None and prompt is not None and prompt >= long:
        raise InputError(
            f"max_input_tokens = {prompt:,} must be fewer than max_total_tokens = {long:,}", key="--max-input-tokens",
            value=prompt,
        )  # fmt: skip
    return said, []


def _variable(name: str) -> str | None:
    """Every flag may be a variable: ``MODEL_ID`` is ``--model-id``."""
    return "--" + name.lower().replace("_", "-")


def _tail(workload: Mapping[str, Any]) -> list[str]:
    kv = workload.get("kv_dtype")
    out = ["--kv-cache-dtype", KV[kv]] if kv in KV else []
    method = {scheme: name for name, scheme in reversed(FORMATS.items())}.get(workload.get("quant") or "")
    return [*out, "--quantize", method] if method is not None else out


FORMATS: Final = {
    "awq": "awq-int4", "gptq": "gptq-int4", "marlin": "gptq-int4", "bitsandbytes": "int8", "bitsandbytes-nf4": "nf4",
    "bitsandbytes-fp4": "fp4", "fp8": "fp8", "compressed-tensors": "ct-fp8", "eetq": "eetq",
}  # fmt: skip

LAUNCH: Final = Launch(
    name="tgi",
    starts=(("text-generation-launcher",),),
    images=("text-generation-inference",),
    begin=("text-generation-launcher", "--model-id", "MODEL"),
    reference="launcher/src/main.rs, TGI 3.3.7",
    model=("--model-id",),
    finish=_finish,
    tail=_tail,
    tails=("kv_dtype",),
    variables=_variable,
    whole=False,
    formats=FORMATS,
    always=("tp", "context", "dtype", "cuda_memory_fraction", "max_batch_prefill_tokens"),
    flags=(
        Flag(("--num-shard",), "tp", count, plain=(1,)),
        Flag(("--sharded",), "_sharded", _switch),
        Flag(("--max-total-tokens",), "context", count),
        Flag(("--max-input-tokens",), "_input", count),
        Flag(("--max-input-length",), "_input", count),
        Flag(("--max-batch-prefill-tokens",), "max_batch_prefill_tokens", count),
        Flag(("--dtype",), "dtype", dtype, lambda v: WRITTEN.get(v, v)),
        Flag(("--quantize",), "_quantization"),
        Flag(("--kv-cache-dtype",), "kv_dtype", _kv),
        Flag(("--cuda-memory-fraction",), "cuda_memory_fraction", share),
        Flag(("--max-batch-total-tokens",), matters="tokens of the pool, whatever is free"),
        Flag(("--speculate",), matters="drafts by n-grams or heads of the model", harmless=("0",)),
        Flag(("--lora-adapters",), matters="adapters"),
        Flag(("--cuda-graphs",), matters="which CUDA graphs are captured"),
        Flag(("--max-batch-size",), matters="requests of one step"),
        Flag(("--rope-scaling",), matters="positions of the model"),
        Flag(("--rope-factor",), matters="positions of the model"),
        Flag(("--disable-custom-kernels",), matters="attention without its kernels"),
    ),
)  # fmt: skip
