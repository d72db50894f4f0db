"""``llama-server`` and ``llama-cli``.

Names, aliases and variables: ggml-org/llama.cpp v0.5.0, common/arg.cpp; where the meaning changed, the builds before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tonnage.errors import InputError
from tonnage.launch import Flag, Launch
from tonnage.launch._values import count, number

SLOTS: Final = 4
"""Slots of a server that is not told how many; they share one cache. tools/server/server.cpp"""
EVERY: Final = 9999
"""More layers than any model has. Unlike "auto", "all" keeps --fit from moving any."""
WHOLE: Final = 2**32 - 1
"""Tokens that --fit keeps at least after ``--ctx-size 0``: all of the model's."""
CACHES: Final = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
HEAD: Final = "weights that are loaded beside, a context with a cache and a compute buffer of its own"
SPECULATION: Final = f"drafts without a draft model: heads ({HEAD}); room for logits of what n-grams draft"
POSITIONS: Final = "positions of the model"
ADAPTERS: Final = "adapters beside the weights"
LOADING: Final = {
    "auto": {}, "none": {"mmap": False}, "mmap": {"mmap": True}, "mlock": {"mmap": False, "mlock": True},
    "mmap+mlock": {"mmap": True, "mlock": True}, "dio": {"mmap": False},
}  # fmt: skip
SHORT: Final = {"BATCH": "--batch-size", "UBATCH": "--ubatch-size", "N_PARALLEL": "--parallel"}


def _context(text: str, flag: str) -> int:
    found = number(text, flag)
    if found < 0:
        raise InputError(f"{flag} {text}: a number of tokens is meant, or 0 for the model's own", key=flag, value=text)
    return found


def _layers(text: str, flag: str) -> int | None:
    if text in ("auto", "-1"):
        return None
    if text in ("all", "-2"):
        return EVERY
    found = number(text, flag)
    if found < 0:
        raise InputError(f"{flag} {text}: a number of layers is meant, auto or all", key=flag, value=text)
    return found


def _flash(text: str, flag: str) -> str:
    """On, off or auto; without a value on, as builds before August 2025 had it."""
    said = {
        "1": "on", "true": "on", "enabled": "on", "": "on", "0": "off", "false": "off", "disabled": "off", "-1": "auto",
    }  # fmt: skip
    found = said.get(text.lower(), text.lower())
    if found not in ("on", "off", "auto"):
        raise InputError(f"{flag} {text}: on, off or auto is meant", key=flag, value=text)
    return found


def _cache(text: str, flag: str) -> str:
    if text not in CACHES:
        raise InputError(f"{flag} {text}: no such cache", key=flag, value=text, hint=f"one of {', '.join(CACHES)}")
    return text


def _loading(text: str, flag: str) -> dict[str, bool]:
    if text not in LOADING:
        raise InputError(f"{flag} {text}: no such mode", key=flag, value=text, hint=f"one of {', '.join(LOADING)}")
    return LOADING[text]


def _switch(text: str, flag: str) -> bool:
    """On or off."""
    said = {"on": True, "enabled": True, "true": True, "1": True, "off": False, "disabled": False, "false": False,
            "0": False}  # fmt: skip
    if text not in said:
        raise InputError(f"{flag} {text}: on or off is meant", key=flag, value=text)
    return said[text]


def _tokens(text: str, flag: str) -> int | None:
    """Tokens of a picture; 0 and less are the model's own."""
    found = number(text, flag)
    return found if found > 0 else None


def _place(text: str, flag: str) -> int:
    """The device of the projector, as CUDA1; -1 for none."""
    if text == "none":
        return -1
    digits = text[len(text.rstrip("0123456789")) :]
    if not digits or "," in text:
        raise InputError(f"{flag} {text}: one device is meant, such as CUDA0, or none", key=flag, value=text)
    return int(digits)


def _projector(said: dict[str, Any], automatic: bool) -> list[str]:
    """Settle the keys of a projector, and what has to be said of one that comes with its repository."""
    place, projects = said.pop("_projector_device", None), said.pop("_projects", True)
    if place is not None:
        said["mmproj_offload"] = place >= 0
        if place > 0:
            said["mmproj_device"] = place
    if said.get("mmproj") is not None:
        return []
    # Without a projector nothing reads them.
    for key in ("mmproj_offload", "mmproj_device", "image_min_tokens", "image_max_tokens"):
        said.pop(key, None)
    if automatic and projects:
        return ["-hf loads the repository's projector of pictures too, where it has one: --mmproj names it, or f16"]
    return []


def _split(text: str, flag: str) -> str:
    if text not in ("none", "layer", "row", "tensor"):
        raise InputError(f"{flag} {text}: none, layer, row or tensor is meant", key=flag, value=text)
    return text


def _finish(said: dict[str, Any], devices: int | None) -> tuple[dict[str, Any], list[str]]:
    """Slots and the length that each has, the file, and the devices."""
    told = _projector(said, said.get("_repository") is not None)
    said.setdefault("_model", _repository(said.pop("_repository", None), said.pop("_file", None)))
    slots = said.get("parallel")
    if slots is not None and slots < 1:
        # -1 stands for auto.
        slots = said.pop("parallel", None) and None
    if said["_program"] != "llama-server":
        slots = said.setdefault("parallel", slots or 1)
    unified = said.get("kv_unified", slots is None)
    cells = said.pop("context", None)
    if cells == 0:
        said["fit_ctx"] = WHOLE
    elif cells is not None:
        said["context"] = cells if unified else max(cells // (slots or 1), 1)
    if slots is not None and not unified:
        said["concurrency"] = slots
    said.setdefault("fit", True)
    for key in ("op_offload", "repack"):
        if said.pop(f"_no_{key}", False):
            said[key] = False
    mode = said.pop("_load", None)
    if mode is not None:
        said.update(mode)
    named, main = said.pop("_devices", None), said.get("main_gpu")
    seen = len(named.split(",")) if named not in (None, "none") else devices
    if named == "none" or (main is not None and main < 0 and said.get("split_mode") == "none"):
        said["n_gpu_layers"] = 0
    if main is not None and main < 0:
        del said["main_gpu"]
    if seen is not None and seen > 1:
        said["gpus"] = seen
    draft = _repository(said.pop("_draft_repository", None), None)
    if draft is not None:
        said.setdefault("draft", draft)
    return {key: value for key, value in said.items() if value is not None}, told


def _repository(repository: str | None, file: str | None) -> str | None:
    """The model that ``-hf`` names: a file of a repository, or the one of a quantization, Q4_K_M where none is told."""
    if repository is None:
        return None
    if file is not None:
        return f"https://huggingface.co/{repository.partition(':')[0]}/resolve/main/{file}"
    return repository if ":" in repository else f"{repository}:Q4_K_M"


def _variable(name: str) -> str | None:
    """``LLAMA_ARG_CTX_SIZE`` is ``--ctx-size``; a few are shorter than their flag."""
    if not name.startswith("LLAMA_ARG_"):
        return None
    rest = name.removeprefix("LLAMA_ARG_")
    return SHORT.get(rest, "--" + rest.lower().replace("_", "-"))


def _tail(workload: Mapping[str, Any]) -> list[str]:
    """The length of all slots together, as ``--ctx-size`` has it."""
    context, slots = workload.get("context"), workload.get("parallel") or SLOTS
    if context is None:
        return []
    each = -(-context // 256) * 256
    unified = workload.get("kv_unified", workload.get("parallel") is None)
    whole = context * (workload.get("concurrency") or 1) if unified else each * slots
    out = ["--ctx-size", str(whole)]
    mmap, mlock = workload.get("mmap") is not False, bool(workload.get("mlock"))
    if mlock or not mmap:
        out += ["--load-mode", "mmap+mlock" if mmap else "mlock" if mlock else "none"]
    out += ["--fit", "on" if workload.get("fit") else "off"]
    for key in ("op_offload", "repack"):
        if workload.get(key) is False:
            out.append(f"--no-{key.replace('_', '-')}")
    if workload.get("kv_offload") is False:
        out.append("--no-kv-offload")
    projector = workload.get("mmproj")
    if projector is not None:
        # A format stands for the file that the converter would write.
        named = projector if "." in projector or "/" in projector else f"mmproj-{projector}.gguf"
        out += ["--mmproj", named]
        if workload.get("mmproj_offload") is False:
            out.append("--no-mmproj-offload")
        elif workload.get("mmproj_device"):
            out += ["--mmproj-device", f"CUDA{workload['mmproj_device']}"]
    return out


LAUNCH: Final = Launch(
    name="llamacpp",
    starts=(("llama-server",), ("llama-cli",), ("llama-run",), ("llama-completion",), ("llama-mtmd-cli",)),
    images=("llama.cpp:server", "llama.cpp:full", "llama.cpp:light"),
    begin=("llama-server", "--model", "MODEL"),
    reference="common/arg.cpp, llama.cpp v0.5.0",
    model=("--model", "--model-url"),
    equals=False,
    dashes=True,
    finish=_finish,
    tail=_tail,
    tails=(
        "context", "mmap", "mlock", "kv_offload", "fit", "op_offload", "repack", "mmproj", "mmproj_offload",
        "mmproj_device",
    ),
    ending=".gguf",
    variables=_variable,
    noted={
        "GGML_CUDA_ENABLE_UNIFIED_MEMORY": "device memory that spills into host memory",
        "GGML_CUDA_FORCE_CUBLAS": "fp16 copies of quantized matrices while they are multiplied",
    },
    always=(
        "parallel", "kv_unified", "n_gpu_layers", "flash_attn", "batch_size", "ubatch_size", "kv_dtype", "kv_dtype_v",
    ),
    flags=(
        Flag(("--ctx-size",), "context", _context),
        Flag(("--parallel",), "parallel", number),
        Flag(("--kv-unified",), "kv_unified"),
        Flag(("--gpu-layers", "--n-gpu-layers"), "n_gpu_layers", _layers),
        Flag(("--flash-attn",), "flash_attn", _flash, reads_switch=True),
        Flag(("--batch-size",), "batch_size", count),
        Flag(("--ubatch-size",), "ubatch_size", count),
        Flag(("--cache-type-k",), "kv_dtype", _cache),
        Flag(("--cache-type-v",), "kv_dtype_v", _cache),
        Flag(("--override-tensor",), "override_tensor"),
        Flag(("--cpu-moe",), "cpu_moe"),
        Flag(("--n-cpu-moe",), "n_cpu_moe", number),
        Flag(("--n-cpu-ffn",), "n_cpu_ffn", number),
        Flag(("--tensor-split",), "tensor_split"),
        Flag(("--swa-full",), "swa_full"),
        Flag(("--kv-offload",), "kv_offload"),
        Flag(("--mmap",), "mmap"),
        Flag(("--mlock",), "mlock"),
        Flag(("--load-mode",), "_load", _loading),
        Flag(("--op-offload",), "op_offload"),
        Flag(("--no-op-offload",), "_no_op_offload"),
        Flag(("--repack",), "repack"),
        Flag(("--no-repack",), "_no_repack"),
        Flag(("--fit",), "fit", _switch),
        Flag(("--fit-target",), "fit_target"),
        Flag(("--fit-ctx",), "fit_ctx", count),
        Flag(("--split-mode",), "split_mode", _split),
        Flag(("--main-gpu",), "main_gpu", number),
        Flag(("--spec-draft-model",), "draft"),
        Flag(("--spec-draft-hf",), "_draft_repository"),
        Flag(("--spec-draft-ngl",), "draft_gpu_layers", _layers),
        Flag(("--spec-draft-n-max",), "speculative_tokens", count),
        Flag(("--hf-repo",), "_repository"),
        Flag(("--hf-file",), "_file"),
        Flag(("--device",), "_devices"),
        Flag(("--kv-unified-per-slot",), matters="the longest context of a slot"),
        Flag(("--mmproj",), "mmproj"),
        Flag(("--mmproj-url",), "mmproj"),
        Flag(("--mmproj-auto",), "_projects"),
        Flag(("--mmproj-offload",), "mmproj_offload"),
        Flag(("--mmproj-device",), "_projector_device", _place),
        Flag(("--image-min-tokens",), "image_min_tokens", _tokens),
        Flag(("--image-max-tokens",), "image_max_tokens", _tokens),
        Flag(("--spec-type",), matters=SPECULATION, harmless=("none", "draft-simple")),
        Flag(("--mtp",), matters=f"the model's own prediction layers: {HEAD}"),
        Flag(("--eagle3",), matters=f"EAGLE-3: {HEAD}, and results of the model's layers that it reads"),
        Flag(("--dflash",), matters=f"DFlash: {HEAD}, and results of the model's layers that it reads"),
        Flag(("--spec-default",), matters=SPECULATION),
        Flag(("--lora",), matters=ADAPTERS),
        Flag(("--lora-scaled",), matters=ADAPTERS),
        Flag(("--control-vector",), matters="control vectors"),
        Flag(("--control-vector-scaled",), matters="control vectors"),
        Flag(("--rpc",), matters="devices of other machines"),
        Flag(("--rope-scaling",), matters=POSITIONS),
        Flag(("--rope-scale",), matters=POSITIONS),
        Flag(("--yarn-orig-ctx",), matters=POSITIONS),
        Flag(("--override-kv",), matters="keys of the file's header"),
        Flag(("--embeddings", "--embedding"), matters="embeddings instead of logits"),
        Flag(("--reranking", "--rerank"), matters="scores instead of logits"),
        Flag(("--pooling",), matters="embeddings instead of logits"),
        Flag(("--backend-sampling",), matters="sampling on the device"),
        Flag(("--no-host",), matters="matrices laid out anew in host memory"),
        Flag(("--cache-ram",), matters="prompts kept in host memory", harmless=("0",)),
        Flag(("--models-preset",), matters="flags of each model in a file, which is not read"),
        Flag(("--models-dir",), matters="several models"),
        *(
            Flag((name,), matters="a preset of flags and a model")
            for name in (
                "--embd-gemma-default", "--fim-qwen-1.5b-default", "--fim-qwen-3b-default", "--fim-qwen-7b-default",
                "--fim-qwen-7b-spec", "--fim-qwen-14b-spec", "--fim-qwen-30b-default", "--gpt-oss-20b-default",
                "--gpt-oss-120b-default", "--vision-gemma-4b-default", "--vision-gemma-12b-default",
            )
        ),
    ),
)  # fmt: skip
