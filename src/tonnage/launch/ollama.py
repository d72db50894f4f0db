"""``ollama run``, ``ollama serve`` and ``ollama create`` with its Modelfile.

Names, variables and parameters: ollama/ollama v0.32.15, cmd/cmd.go, envconfig/config.go, api/types.go ``Runner``.
The server reads the variables; where both stand in one line, one machine is meant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from tonnage.errors import InputError
from tonnage.launch import Flag, Launch
from tonnage.launch._modelfile import modelfile
from tonnage.launch._values import count, number
from tonnage.launch.llamacpp import CACHES
from tonnage.quant._names import GGUF

DEFAULT: Final = "q4_k_m"
"""What files of the registry are stored in where their tag does not tell."""
PREDICTED: Final = "a draft model, or the model's own prediction layers"


def _cache(text: str, flag: str) -> str | None:
    """A format of the cache; empty is none."""
    if text and text.lower() not in CACHES:
        raise InputError(
            f"{flag} {text}: no such cache", key=flag, value=text, hint=f"one of {', '.join(CACHES)}"
        )  # fmt: skip
    return text.lower() or None


def _flash(text: str, flag: str) -> str:
    """On or off; what is neither counts as on, as Go's parser fails."""
    return "off" if text.lower() in ("0", "f", "false") else "on"


def _layers(text: str, flag: str) -> int | None:
    found = number(text, flag)
    return None if found < 0 else found


def _bytes(text: str, flag: str) -> str:
    return f"{number(text, flag)} B"


def _mapped(text: str, flag: str) -> bool:
    return text.lower() not in ("0", "f", "false")


def _finish(said: dict[str, Any], devices: int | None) -> tuple[dict[str, Any], list[str]]:
    """The model that a name of the registry means, and how its file is stored."""
    # What a Modelfile begins from, not the name that it gives.
    name = said.pop("_from", None) or said.pop("_model", None)
    said.pop("_model", None)
    if name is not None:
        said["_model"], quant = registered(name)
        if quant is not None:
            said.setdefault("_quantization", quant)
    if said.get("parallel") is not None:
        said["parallel"] = max(said["parallel"], 1)
        said.setdefault("concurrency", said["parallel"])
    if said.get("context") == 0:
        del said["context"]
    if devices is not None and devices > 1:
        said["gpus"] = devices
    return {key: value for key, value in said.items() if value is not None}, []


def registered(name: str) -> tuple[str, str | None]:
    """A model's name as others write it, and the recipe of its file; None where the name is of a file or of the Hub.

    >>> registered("qwen3:8b"), registered("llama3.1:8b-instruct-q8_0"), registered("hf.co/org/name-GGUF:Q4_0")
    (('qwen3-8b', 'q4_k_m'), ('llama3.1-8b-instruct', 'q8_0'), ('org/name-GGUF:Q4_0', None))
    """
    for host in ("hf.co/", "huggingface.co/"):
        if name.startswith(host):
            rest = name.removeprefix(host)
            return (rest if ":" in rest else f"{rest}:Q4_K_M"), None
    if name.endswith(".gguf") or name.startswith((".", "/", "~")):
        return name, None
    base, _, tag = name.rpartition("/")[2].partition(":")
    parts = [part for part in re.split(r"-", tag.lower()) if part not in ("latest", "")]
    quant = DEFAULT
    if parts and (parts[-1] in GGUF or parts[-1] in ("fp16", "bf16")):
        quant = {"fp16": "f16"}.get(parts[-1], parts[-1])
        parts = parts[:-1]
    return "-".join([base, *parts]), quant


def _variable(name: str) -> str | None:
    """The setting that a variable stands for."""
    return {
        "OLLAMA_NUM_PARALLEL": "_parallel", "OLLAMA_CONTEXT_LENGTH": "_context", "OLLAMA_KV_CACHE_TYPE": "_cache",
        "OLLAMA_FLASH_ATTENTION": "_flash", "OLLAMA_GPU_OVERHEAD": "_overhead", "LLAMA_ARG_FIT_TARGET": "_target",
    }.get(name)  # fmt: skip


def _lead(workload: Mapping[str, Any]) -> list[str]:
    """Variables that say what is answered."""
    slots = workload.get("parallel") or 1
    out = [f"OLLAMA_CONTEXT_LENGTH={workload['context']}", f"OLLAMA_NUM_PARALLEL={slots}"]
    if workload.get("kv_dtype") not in (None, "f16"):
        out.append(f"OLLAMA_KV_CACHE_TYPE={workload['kv_dtype']}")
    if workload.get("flash_attn") == "off":
        out.append("OLLAMA_FLASH_ATTENTION=0")
    return out


LAUNCH: Final = Launch(
    name="ollama",
    starts=(("ollama", "run"), ("ollama", "serve"), ("ollama", "start"), ("ollama", "create")),
    images=("ollama/ollama",),
    begin=("ollama", "run", "MODEL"),
    reference="cmd/cmd.go, ollama v0.32.15",
    positional=True,
    prompt=True,
    finish=_finish,
    lead=_lead,
    tails=("context", "parallel", "kv_dtype", "flash_attn"),
    variables=_variable,
    file="--file",
    reads=modelfile,
    settings={
        "from": "_from",
        "num_ctx": "_context", "num_gpu": "_layers", "num_batch": "_batch", "use_mmap": "_mmap", "main_gpu": "_main",
        "adapter": "_adapter", "draft": "_draft", "draft_num_predict": "_draft_tokens",
    },
    inert=(
        "num_thread", "num_keep", "num_predict", "temperature", "top_k", "top_p", "min_p", "typical_p", "seed",
        "repeat_last_n", "repeat_penalty", "presence_penalty", "frequency_penalty", "stop", "mirostat", "mirostat_eta",
        "mirostat_tau", "tfs_z", "penalize_newline", "template", "system", "license", "message", "parser", "renderer",
        "requires",
    ),
    noted={"OLLAMA_LLM_LIBRARY": "another backend", "OLLAMA_MAX_LOADED_MODELS": "several models at once"},
    whole=False,
    log="llamacpp",
    formats={**{name: name for name in GGUF}, "fp16": "f16"},
    flags=(
        Flag(("_from",), "_from"),
        Flag(("_context",), "context", number),
        Flag(("_parallel",), "parallel", number),
        Flag(("_cache",), "kv_dtype", _cache),
        Flag(("_flash",), "flash_attn", _flash),
        Flag(("_overhead",), "gpu_overhead", _bytes),
        Flag(("_target",), "fit_target"),
        Flag(("_layers",), "n_gpu_layers", _layers),
        Flag(("_batch",), "batch_size", count),
        Flag(("_mmap",), "mmap", _mapped),
        Flag(("_main",), "main_gpu", number),
        Flag(("_adapter",), matters="an adapter beside the weights"),
        Flag(("_draft",), matters=PREDICTED),
        Flag(("_draft_tokens",), matters=PREDICTED, harmless=("0",)),
        Flag(("--quantize",), "_quantization", lambda text, _: text.lower()),
        Flag(("--draft-quantize",), matters=PREDICTED),
    ),
)  # fmt: skip
