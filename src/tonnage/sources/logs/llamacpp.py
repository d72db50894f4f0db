"""What llama.cpp prints about its buffers, from 2024 to v0.5.0, and what its fork ik_llama.cpp does.

Ollama prints llama.cpp's lines among its own; its own engine, until 0.30, printed a sum of each kind.

Wordings: ollama/ollama v0.20.2 ml/device.go, runner/llamarunner/runner.go; ggml-org/llama.cpp,
src/llama-model.cpp ``load_tensors``, src/llama-kv-cache.cpp,
src/llama-memory-recurrent.cpp, src/llama-context.cpp; before 2025 the same in src/llama.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from tonnage.sources.logs import Log
from tonnage.sources.logs._sizes import figure, pattern, plain
from tonnage.workload.told import Figure, Told

PROJECTOR: Final = pattern(
    r"(?:clip\S*|reserve_compute_meta|alloc_compute_meta|load_hparams): *"
    r"(?:(\S+) compute buffer size =|(model) size: |compute allocated (memory):) *<size> (?:MiB|MB)"
)
"""Lines of the projector of pictures; builds of 2023 and 2024 named no device."""
BUFFER: Final = pattern(r"(\S+)\s+(?:(model|KV|RS|output|compute) )?buffer size\s*=\s*<size> (MiB|GiB)")
LATER: Final = ("kv_cache", "recurrent_state", "activations")
"""What is printed once all weights are there."""
SELF: Final = pattern(r"KV self size\s*=\s*<size> MiB, K \((\w+)\): +<size> MiB, V \((\w+)\): +<size> MiB")
LATENT: Final = pattern(r"KV self size\s*=\s*<size> MiB, c\^KV \((\w+)\)")
NAMES: Final = {
    "model": "weights", "KV": "kv_cache", "RS": "recurrent_state", "output": "logits", "compute": "activations",
}  # fmt: skip
SETTING: Final = re.compile(
    r"(?:llama_new_context_with_model|llama_context|llama_init_from_model|construct):\s+"
    r"(n_ctx|n_batch|n_ubatch|flash_attn|n_seq_max|kv_unified|causal_attn)\s*=\s*(\w+)"
)
OFFLOADED: Final = pattern(r"offloaded <whole>/<whole> layers to GPU")
BUILD: Final = re.compile(r"build(?:_info)?: ?(?:b|version )?(\d{3,5})\b")
NAME: Final = re.compile(r"general\.name\s+str\s+= (.+?)\s*$")
FORMAT: Final = re.compile(r"file type\s+= (\S+)|model ftype\s+= (\S+)")
AGAIN: Final = re.compile(
    r"llama_model_loader: loaded meta data with \d+ key-value pairs and \d+ tensors from (.+?)(?: \(version|$)"
    r"|: loading draft model '|llama_model_loader: loaded meta data with"
)
OLLAMA: Final = pattern(r'msg="(model weights|kv cache|compute graph)" device=(\S+) size="<size> (MiB|GiB)"')
"""What Ollama's own engine laid out; before it asks its runner for anything, an estimate."""
REQUEST: Final = re.compile(r"Operation:commit .*?Parallel:(\d+) BatchSize:(\d+) .*?KvSize:(\d+) KvCacheType:(\w*)")
PARTS: Final = {"model weights": "weights", "kv cache": "kv_cache", "compute graph": "activations"}
STOPPED: Final = re.compile(
    r"((?:cudaMalloc failed: out of memory|failed to allocate \S+ buffer|unable to allocate \S+ ?\S* buffer).{0,120})"
)
FOUND: Final = pattern(r"using device (\S+) \(.*?\).* - <whole> MiB free")


def read(lines: Iterable[str]) -> Told | None:
    """What the lines tell of the first model that is loaded; caches of one device add up."""
    sums: dict[tuple[str, str], Figure] = {}
    state: dict[str, Any] = {"settings": {}}
    notes: dict[str, None] = {}
    rough: dict[tuple[str, str], Figure] = {}
    for raw in lines:
        line = plain(raw)
        again = AGAIN.search(line)
        if again is not None:
            other = again.group(1) is None or again.group(1) != state.get("file")
            if other and any(name == "weights" for name, _ in sums):
                notes["a second model is loaded, whose buffers are left out"] = None
                break
            state.setdefault("file", again.group(1))
            continue
        own = OLLAMA.search(line)
        if own is not None and "asked" in state:
            part, device, number, unit = own.groups()
            new = figure(PARTS[part], number, unit, line, device=device)
            rough[new.key] = new
            continue
        _settings(line, state)
        picture = PROJECTOR.search(line)
        if picture is not None:
            new = _projected(picture, line)
            sums[new.key] = new
            continue
        found = BUFFER.search(line)
        if found is not None:
            device, what, number, unit = found.groups()
            # Before 2025 the lines of weights said no more than "buffer size".
            what = what or "model"
            new = figure(NAMES[what], number, unit, line, device=device)
            if what == "model" and any(name in LATER for name, _ in sums):
                # The same model again: --fit makes it without its data first, to see what it takes.
                sums.clear()
                state.pop("whole", None)
            old = sums.get(new.key)
            # A compute buffer is printed again when it is laid out anew; a cache has one line for each of its kinds,
            # weights one for each of their buffers.
            if old is not None and what in ("model", "KV", "RS"):
                new = new.but(bytes=old.bytes + new.bytes, half=old.half + new.half)
            sums[new.key] = new
        stopped = STOPPED.search(line)
        if stopped is not None:
            notes[f"it stopped: {stopped.group(1).strip()}"] = None
    whole = state.get("whole")
    if whole is not None and not any(name == "kv_cache" for name, _ in sums):
        sums[whole.key] = whole
    if not sums:
        sums = rough
        if sums:
            notes["sizes as Ollama prints them, to a tenth of a GiB"] = None
    if not sums:
        return None
    build = state.get("build")
    return Told(
        engine="llamacpp", release=f"b{build}" if build is not None else None, model=state.get("model"),
        said=_said(state), figures=tuple(sums.values()), free=state.get("free"), notes=tuple(notes),
    )  # fmt: skip


def _projected(found: re.Match[str], line: str) -> Figure:
    """A buffer of the projector, apart from the text model's of the same device."""
    device, size = found.group(1), found.group(4)
    name = "weights" if found.group(2) else "activations"
    return figure(name, size, "MiB", line, device=f"{device} projector" if device else "projector")


def _settings(line: str, state: dict[str, Any]) -> None:
    """Settings that a line states."""
    asked = REQUEST.search(line)
    if asked is not None:
        state["asked"] = asked.groups()
    setting, layers, caches = SETTING.search(line), OFFLOADED.search(line), SELF.search(line)
    if setting is not None:
        state["settings"].setdefault(setting.group(1), setting.group(2))
    if layers is not None:
        state["layers"] = (int(layers.group(1)), int(layers.group(2)))
    if caches is not None:
        state["formats"] = (caches.group(2), caches.group(4))
    total = caches or LATENT.search(line)
    if total is not None:
        # The fork prints the sum of all devices where mainline prints each buffer as well.
        state.setdefault("whole", figure("kv_cache", total.group(1), "MiB", line))
    typed = re.search(r"type_k = '(\w+)', type_v = '(\w+)'|K \((\w+)\): .*V \((\w+)\):", line)
    if typed is not None:
        state.setdefault("formats", tuple(x for x in typed.groups() if x))
    for key, says in (("model", NAME), ("build", BUILD)):
        found = says.search(line)
        if found is not None:
            state.setdefault(key, found.group(1))
    free = FOUND.search(line)
    if free is not None:
        state.setdefault("free", int(free.group(2)) * 2**20)


def _said(state: dict[str, Any]) -> dict[str, Any]:
    """Keys of a workload that the log states; the length of one sequence follows from slots and cells."""
    settings = state["settings"]
    out: dict[str, Any] = _asked(state.get("asked"))
    slots = int(settings["n_seq_max"]) if str(settings.get("n_seq_max", "")).isdigit() else None
    cells = int(settings["n_ctx"]) if str(settings.get("n_ctx", "")).isdigit() else None
    unified = settings.get("kv_unified") in ("true", "1")
    if cells:
        out["context"] = cells if unified or not slots else cells // slots
    if slots:
        out["parallel"] = slots
    if "kv_unified" in settings:
        out["kv_unified"] = unified
    for key, name in (("batch_size", "n_batch"), ("ubatch_size", "n_ubatch")):
        if str(settings.get(name, "")).isdigit():
            out[key] = int(settings[name])
    flash = settings.get("flash_attn")
    if flash is not None:
        out["flash_attn"] = {"1": "on", "0": "off", "enabled": "on", "disabled": "off"}.get(flash, "auto")
    if "layers" in state:
        done, there = state["layers"]
        out["n_gpu_layers"] = done if done < there else there
    if "formats" in state:
        out["kv_dtype"], out["kv_dtype_v"] = state["formats"]
    return out


def _asked(request: tuple[str, ...] | None) -> dict[str, Any]:
    """What Ollama asks its runner for."""
    if request is None:
        return {}
    slots, batch, cells, form = request
    out: dict[str, Any] = {"parallel": int(slots), "kv_unified": False, "batch_size": int(batch)}
    if int(slots) and int(cells):
        out["context"] = int(cells) // int(slots)
    return {**out, "kv_dtype": form} if form else out


LOG: Final = Log("llamacpp", read, "src/llama-context.cpp")
