"""Ollama: from 0.30 on a plain ``llama-server`` that it starts with choices of its own.

Read in v0.32.15 of https://github.com/ollama/ollama: server/routes.go (the context by the devices' memory),
server/sched.go ``automaticGenerationBatch``, llm/server.go, llm/llama_server.go ``startLlamaServer``, and in v0.12.0,
v0.15.0, v0.16.0 and v0.30.0 where that changed. The build of llama.cpp is its own (b9452 in 0.30.0, b10488 in 0.32.15).
"""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.model import Model
from tonnage.engines import Deployment, Engine, Setting
from tonnage.errors import InputError, UnsupportedError
from tonnage.memory.ggml.choices import text_of
from tonnage.memory.ggml.served import Defaults
from tonnage.memory.ggml.server import answer
from tonnage.memory.ggml.vision.served import left_out
from tonnage.memory.ggml.weights import file_of
from tonnage.releases import Releases, Since, since
from tonnage.units import GiB, MiB

REFERENCE: Final = "https://github.com/ollama/ollama/blob/v0.32.15/llm/llama_server.go"

DEFAULTS: Final = Defaults(
    engine="ollama",
    reference=REFERENCE,
    slots=1,
    batch=512,
    ubatch=512,
    ranged=True,
    not_modelled=("models of its own engine for MLX; a shorter context after a load that failed",),
)

EARLY: Final = DEFAULTS.but(early=True)
"""Until 0.30 it ran llama.cpp's library of December 2025 and before."""

STARTS_SERVER: Final = (0, 30)
"""The release from which on it starts llama-server, which fits layers to what is free (``--fit``)."""
BY_MEMORY: Final[Since[bool]] = (((0, 16), True), ((0, 0), False))
"""Whether the context follows from the devices' memory where none is told."""
TIERS: Final = ((47 * GiB, 262_144), (23 * GiB, 32_768), (0, 4096))
"""Memory of all devices, and the context from there on. server/routes.go"""
LEAST: Final = 4
PROJECTED: Final = GiB
"""What it keeps free for a projector beyond its weights. [byte]"""
PROJECTOR: Final = "the projector of pictures that it loads with the model is left out (--mmproj f16, or its file)"
SINGLE: Final = (
    "mllama", "qwen3_vl", "qwen3_vl_moe", "qwen3_5_text", "qwen3_5_moe_text", "qwen3_next", "lfm2", "lfm2_moe",
    "nemotron_h", "nemotron_h_omni",
)  # fmt: skip
"""Models that it gives one request at once, whatever is told. server/sched.go"""
BATCHES: Final = ((32_768, 2048), (4096, 1024), (0, 512))
"""Tokens of all contexts, and the batch beyond them."""
ROOM: Final = {2048: (60, 2 * GiB), 1024: (75, 768 * MiB)}
"""Percentage of what is free that a model with such a batch may take, and what the batch is taken to cost. [byte]"""


def deploy(model: Model, s: Setting) -> Deployment:
    """What the server that it starts allocates.

    Raises:
        UnsupportedError: understood, and not modelled yet.
        InputError: what it would refuse to start with.
    """
    slots, caveats = _slots(model, s)
    context, told = _context(model, s)
    fits = s.version >= STARTS_SERVER
    batch = s.said.get("batch_size") or (_batch(model, s, context * slots) if fits else DEFAULTS.batch)
    said = {**s.said, "context": context, "batch_size": batch, "ubatch_size": batch, "kv_unified": False}
    if "parallel" in said:
        said["parallel"] = slots
    if "main_gpu" in said:
        said["split_mode"] = "none"
    if fits:
        said["fit"] = True
        said |= _projector(model, s)
    else:
        if "mmproj" in model.files:
            raise UnsupportedError(
                "ollama before 0.30 reads pictures by an engine of its own, which is not modelled", key="mmproj",
                value=s.said.get("mmproj"), hint="--engine-version 0.32",
            )  # fmt: skip
        caveats.append("ollama before 0.30 chooses by an estimate of its own how many layers it offloads: all here")
    found = answer(model, s.but(context=context, said=said), DEFAULTS if fits else EARLY)
    settled = {key: value for key, value in found.settled.items() if key not in ("fit", "kv_dtype_v")}
    doubt = (PROJECTOR,) if left_out(model) else ()
    return Deployment(
        **{
            **vars(found),
            "settled": {**settled, "context": context},
            "caveats": (*told, *caveats, *found.caveats),
            "doubt": (*found.doubt, *doubt),
        }
    )


def _projector(model: Model, s: Setting) -> dict[str, Any]:
    """Where it puts the projector, and what it has ``--fit`` leave free for it beside what llama-server does.

    llm/llama_server.go ``shouldDisableMMProjOffload`` and ``mmprojFitTargetMiB``.
    """
    header = model.files.get("mmproj")
    if header is None:
        return {}
    layers, needs = s.said.get("n_gpu_layers"), header.weight_bytes + PROJECTED
    free = s.device.capacity.bytes - s.in_use if s.device is not None else needs
    if (layers is not None and layers <= len(model.decoder.layers)) or free < needs:
        return {"mmproj_offload": False}
    target = s.said.get("fit_target") or "0"
    return {"fit_target": str(int(target) + -(-needs // MiB))} if target.isdigit() else {}


def _slots(model: Model, s: Setting) -> tuple[int, list[str]]:
    """Requests at once (OLLAMA_NUM_PARALLEL)."""
    slots = s.said.get("parallel") or s.concurrency
    if model.model_type not in SINGLE or slots == 1:
        return slots, []
    if s.concurrency > 1:
        raise InputError(
            f"concurrency = {s.concurrency}: ollama gives {model.model_type} one request at once", key="concurrency",
            value=s.concurrency, hint="model architecture does not currently support parallel requests",
        )  # fmt: skip
    return 1, [f"parallel = {slots}: model architecture does not currently support parallel requests; 1 is taken"]


def _context(model: Model, s: Setting) -> tuple[int, list[str]]:
    """``num_ctx``: as told, else by the memory of all devices; never more than the model was trained for."""
    asked = s.said.get("context")
    caveats: list[str] = []
    if asked is None and since(s.version, BY_MEMORY):
        memory = _total(s)
        asked = next(tokens for least, tokens in TIERS if memory >= least)
        where = f"{memory / GiB:.1f} GiB of devices" if s.device is not None else "no device"
        caveats.append(f"num_ctx = {asked:,}, for {where} (OLLAMA_CONTEXT_LENGTH)")
    context = max(asked or TIERS[-1][1], LEAST)
    if model.positions is not None and context > model.positions:
        if s.said.get("context") is not None:
            caveats.append(f"requested context size too large for model: num_ctx is cut to {model.positions:,}")
        context = model.positions
    return context, caveats


def _total(s: Setting) -> int:
    """Memory of all devices, less what OLLAMA_GPU_OVERHEAD keeps of each. [byte]"""
    if s.device is None:
        return 0
    return max(s.device.capacity.bytes - (s.said.get("gpu_overhead") or 0), 0) * s.mesh.world


def _batch(model: Model, s: Setting, context: int) -> int:
    """Tokens of one pass, by the length of all contexts and what is left beside the model."""
    batch = next(tokens for more, tokens in BATCHES if context > more)
    free = (s.device.capacity.bytes - s.in_use) * s.mesh.world if s.device is not None else 0
    cuda = s.device is not None and s.device.vendor in ("NVIDIA", "")
    if s.said.get("flash_attn") == "off" and cuda and s.device is not None:
        return 256 if context > 4096 and s.device.capacity.bytes <= 8 * GiB else 512
    used = _predicted(model, s, context)
    while batch in ROOM and free:
        share, cost = ROOM[batch]
        if used <= free * share // 100 and used + cost <= free * 80 // 100:
            break
        batch //= 2
    return batch


def _predicted(model: Model, s: Setting, context: int) -> int:
    """Its own estimate: the file, and a cache in fp16 of every layer's fewest heads. [byte]

    llm/llama_server.go ``PredictServerVRAM``.
    """
    recipe = s.recipe if s.recipe is not None and s.recipe.method == "gguf" else None
    file, _ = file_of(text_of(model), recipe, s.dtype)
    blocks: list[Any] = [sub.block for layer, _ in model.decoder.distinct() for sub in layer.sublayers]
    grouped = [b for b in blocks if isinstance(b, GroupedQuery)]
    heads = min((b.K for b in grouped), default=1)
    wide = max((b.N for b in blocks if hasattr(b, "N")), default=0)
    each = model.width // wide if wide else 0
    return sum(w.nbytes for w in file) + 2 * len(model.decoder.layers) * heads * each * context * 2


ENGINE: Final = Engine(
    name="ollama",
    releases=Releases("ollama", newest=(0, 32), oldest=(0, 12), last={}),
    reference=REFERENCE,
    takes=(
        "n_gpu_layers",
        "parallel",
        "flash_attn",
        "batch_size",
        "mmap",
        "main_gpu",
        "fit_target",
        "gpu_overhead",
        "mmproj",
    ),
    deploy=deploy,
)
