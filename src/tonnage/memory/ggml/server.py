"""llama.cpp as a server starts it, whichever program that is: what is asked, what is refused, what else would fit.

Follows ggml-org/llama.cpp v0.5.0: src/llama-model.cpp, src/llama-context.cpp, src/llama-kv-cache*.cpp,
src/llama-graph.cpp, ggml/src/ggml-alloc.c, ggml/src/ggml-backend.cpp, ggml/src/ggml-cuda/, tools/server/server.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.errors import InputError, UnsupportedError
from tonnage.memory.ggml.build import Asked, Build, build, check_cache, context_of, flash_runs, shares_of
from tonnage.memory.ggml.cache import PRINTED, cache_format, layers
from tonnage.memory.ggml.layers import COMPARED
from tonnage.memory.ggml.report import log, ranks
from tonnage.memory.ggml.weights import EXPERTS, Placing, file_of, overrides
from tonnage.quant import Recipe, called
from tonnage.quant import recipe as named_recipe
from tonnage.record import Record
from tonnage.releases import Releases, Version
from tonnage.timeline import Rank

if TYPE_CHECKING:
    from tonnage.placement.mesh import Mesh

MOST_SLOTS: Final = 256
"""``LLAMA_MAX_SEQ``"""
WINDOWS: Final = (-1, 5450)
"""The build from which on windowed layers have a cache of their own (ggml-org/llama.cpp #13194)."""

BUFFERS: Final = {"NVIDIA": "CUDA", "AMD": "ROCm", "Apple": "MTL", "Intel": "SYCL"}
"""What buffers of a vendor's devices are called; bare sizes are taken for CUDA."""

NOT_MODELLED: Final = (
    "split modes row and tensor; speculative decoding; adapters; multimodal projectors (mmproj)",
    "the server's prompt cache in host memory (--cache-ram, 8 GiB at most by default) and its context checkpoints",
    "--fit, which shrinks the context and keeps layers in host memory where a device is too small",
)
UNKNOWN: Final = "the graph of this architecture: its compute buffer is a range"
OTHER_BACKEND: Final = "laid out as CUDA lays buffers out: other backends align, pad and place in their own way"


class Builds(Releases):
    """Releases of llama.cpp: numbered builds (b4370) until 0.x, and the fork ik_llama.cpp (``ik``)."""

    def read(self, text: str | None, *, key: str) -> tuple[Version, str | None]:
        """As ``Releases.read``; a build is older than every release."""
        if text is not None:
            number = text[1:] if text[:1] in ("b", "B") else ""
            if number.isdigit() or text == "ik":
                told = (
                    f"llama.cpp {text}: caches and weights as in 0.5, the compute buffer as a range around that of 0.5"
                )
                return (-1, int(number or 0)), told
        return super().read(text, key=key)


class Served(Protocol):
    """What an engine is asked to hold: of an engine's ``Setting``, what is read here."""

    @property
    def version(self) -> Version:
        """Release."""
        ...

    @property
    def dtype(self) -> str:
        """Format of weights that are not quantized."""
        ...

    @property
    def recipe(self) -> Recipe | None:
        """How quantized weights are stored."""
        ...

    @property
    def context(self) -> int:
        """Tokens of one sequence."""
        ...

    @property
    def concurrency(self) -> int:
        """Sequences held at once."""
        ...

    @property
    def mesh(self) -> Mesh:
        """Degrees of parallelism."""
        ...

    @property
    def device(self) -> Device | None:
        """Each rank's; None where none is named."""
        ...

    @property
    def in_use(self) -> int:
        """What others hold on it. [byte]"""
        ...

    @property
    def said(self) -> Mapping[str, Any]:
        """Keys that were given."""
        ...

    @property
    def search(self) -> bool:
        """Whether the largest context is looked for."""
        ...

    def but(self, **changes: Any) -> Self:
        """The same with changes."""
        ...


class Defaults(Record):
    """What a program that runs llama.cpp starts it with.

    Args:
        engine: its name.
        reference: its code.
        slots: sequences that share one cache where it is not told how many.
        batch, ubatch: tokens that it takes at once, and of one pass.
        ranged: it brings builds of llama.cpp of its own, so that the compute buffer is a range.
        not_modelled: what is left out beside what always is.
    """

    engine: str
    reference: str
    slots: int
    batch: int
    ubatch: int
    ranged: bool = False
    not_modelled: tuple[str, ...] = ()


class Answer(Record):
    """The fields of an engine's ``Deployment``."""

    ranks: tuple[Rank, ...]
    settled: Mapping[str, Any]
    capacity: Mapping[str, Any]
    caveats: tuple[str, ...]
    not_modelled: tuple[str, ...]
    doubt: tuple[str, ...]


def answer(model: Model, s: Served, d: Defaults) -> Answer:
    """What a server allocates to hold ``concurrency`` sequences of ``context`` tokens.

    Raises:
        UnsupportedError: understood, and not modelled yet.
        InputError: what llama.cpp would refuse to start with.
    """
    _check(model, s, d)
    a, caveats = _asked(model, s, d)
    found = build(a)
    missing = (UNKNOWN,) if found.compute is None else ()
    return Answer(
        ranks=ranks(found, d.reference),
        settled=_settled(a, s),
        capacity=_capacity(model, s, found, d),
        caveats=caveats,
        not_modelled=(*missing, *d.not_modelled, *NOT_MODELLED),
        doubt=(*model.ignored,),
    )


def _check(model: Model, s: Served, d: Defaults) -> None:
    if len(model.stacks) > 1 or not model.causal or model.head is None:
        raise UnsupportedError(
            f"{d.engine} is modelled for decoders, and {model.class_name or model.model_type} is none",
            key="engine", value=d.engine,
        )  # fmt: skip
    for key in ("tp", "cp", "ep", "dp"):
        if s.said.get(key, 1) != 1:
            raise UnsupportedError(
                f"{key} = {s.said[key]}: {d.engine} divides layers among devices (--split-mode layer); others are not "
                "modelled", key=key, value=s.said[key], hint="--gpus N, with --tensor-split for unequal shares",
            )  # fmt: skip


def _asked(model: Model, s: Served, d: Defaults) -> tuple[Asked, tuple[str, ...]]:
    """Every choice made, and what has to be said of it."""
    said = s.said
    caveats: list[str] = []
    recipe = _recipe(s, caveats)
    file, named = file_of(model, recipe, s.dtype)
    if recipe is None:
        caveats.append(f"weights as a GGUF file in {PRINTED.get(s.dtype, s.dtype)}; norms and biases in f32")
    if not named:
        caveats.append("the file's tensors are told by rule: matrices in its format, the rest in f32")
    names, cuda = _names(s)
    if names and not cuda:
        caveats.append(OTHER_BACKEND)
    slots, unified = _slots(s, d)
    kept = layers(model)
    k = cache_format(said.get("kv_dtype"), "kv_dtype")
    v = cache_format(said.get("kv_dtype_v") or said.get("kv_dtype"), "kv_dtype_v")
    flash = said.get("flash_attn") or "auto"
    check_cache(kept, k, v, flash)
    known = model.model_type in COMPARED
    if not known:
        caveats.append(f"the graph of {model.model_type} follows from its blocks; it was not compared with llama.cpp's")
    on = flash == "on" or (flash == "auto" and (not names or not cuda or flash_runs(model)))
    context = context_of(s.context, s.concurrency, slots, unified=unified)
    batch = min(said.get("batch_size") or d.batch, context)
    tokens = min(said.get("ubatch_size") or d.ubatch, batch)
    if said.get("ubatch_size", 0) > batch:
        caveats.append(f"ubatch_size is cut to the batch of {batch:,} tokens, as llama.cpp does")
    older = s.version < (0, 1)
    every = said.get("logits") == "all" or (older and said.get("logits") is None)
    whole = bool(said.get("swa_full")) or s.version < WINDOWS
    asked = Asked(
        model=model, file=file, kept=kept, context=context, sequences=slots, unified=unified, batch=batch,
        tokens=tokens, outputs=batch if every else slots, flash=on, k=k, v=v,
        placing=_placing(model, s, names), names=names, cuda=cuda, swa_full=whole,
        host_cache=bool(names) and said.get("kv_offload") is False, mmap=said.get("mmap") is not False,
        older=older or d.ranged or not known,
    )  # fmt: skip
    return asked, tuple(caveats)


def _recipe(s: Served, caveats: list[str]) -> Recipe | None:
    """How the file's weights are stored, where the checkpoint is quantized and nothing else was asked for."""
    found = s.recipe
    if found is None or found.plan is not None or s.said.get("quant") is not None:
        return found
    if found.method == "mxfp4":
        caveats.append("weights as a GGUF file of recipe mxfp4_moe: experts in mxfp4, other matrices in q8_0")
        return named_recipe(called("mxfp4_moe"))
    caveats.append(f"the checkpoint is quantized ({found.title}); llama.cpp's converter dequantizes it")
    return None


def _names(s: Served) -> tuple[tuple[str, ...], bool]:
    """Names of the accelerators' buffers, and whether they are CUDA's; none where nothing is offloaded to any."""
    device: Device | None = s.device
    if device is None and s.said.get("n_gpu_layers") == 0:
        return (), False
    kind = BUFFERS.get(device.vendor, "CUDA") if device is not None and device.kind != "size" else "CUDA"
    return tuple(f"{kind}{i}" for i in range(s.mesh.world)), kind in ("CUDA", "ROCm")


def _slots(s: Served, d: Defaults) -> tuple[int, bool]:
    """Slots of the server, and whether they share one cache."""
    told = s.said.get("parallel")
    slots = told or max(d.slots, s.concurrency)
    if slots < s.concurrency:
        raise InputError(
            f"parallel = {slots} slots do not hold concurrency = {s.concurrency} sequences", key="parallel", value=slots
        )
    if slots > MOST_SLOTS:
        raise InputError(f"{slots} slots: llama.cpp has {MOST_SLOTS} at most", key="concurrency", value=slots)
    unified = s.said.get("kv_unified")
    return slots, (told is None and s.concurrency <= d.slots) if unified is None else unified


def _placing(model: Model, s: Served, names: tuple[str, ...]) -> Placing:
    said, count = s.said, len(model.decoder.layers)
    given = list(overrides(said.get("override_tensor"), names))
    if said.get("cpu_moe"):
        given.append((EXPERTS, -1))
    given += [(rf"blk\.{i}{EXPERTS}", -1) for i in range(min(said.get("n_cpu_moe") or 0, count))]
    layers_asked = said.get("n_gpu_layers")
    return Placing(
        layers=count,
        devices=len(names),
        offloaded=count + 1 if layers_asked is None else min(layers_asked, count + 1),
        shares=shares_of(said.get("tensor_split"), len(names)),
        overrides=tuple(given),
    )


def _settled(a: Asked, s: Served) -> dict[str, Any]:
    return {
        "tp": 1,
        "pp": s.mesh.world,
        "kv_dtype": PRINTED.get(a.k, a.k),
        "kv_dtype_v": PRINTED.get(a.v, a.v),
        "n_gpu_layers": a.placing.offloaded,
        "parallel": a.sequences,
        "kv_unified": a.unified,
        "flash_attn": "on" if a.flash else "off",
        "batch_size": a.batch,
        "ubatch_size": a.tokens,
        "logits": "all" if a.outputs > a.sequences else "last",
        "swa_full": a.swa_full,
        "kv_offload": not a.host_cache,
        "mmap": a.mmap,
    }


def _capacity(model: Model, s: Served, found: Build, d: Defaults) -> dict[str, Any]:
    """State of the workload, and what else would fit."""
    fullest = max(found.devices, key=lambda i: found.caches.on(i) + found.caches.states[i])
    room: dict[str, Any] = {"max_context": None, "max_concurrency": None}
    if s.device is not None and s.search and found.asked.names:
        room = _room(model, s, s.device, d)
    return {
        "kv_bytes": found.tensors.on(fullest) + found.tensors.states[fullest],
        "kv_bytes_per_token": found.per_token(fullest),
        "tokens": None,
        "blocks": None,
        **room,
        "log": list(log(found)),
    }


def _room(model: Model, s: Served, device: Device, d: Defaults) -> dict[str, Any]:
    """Largest context at this concurrency and largest concurrency at this context that still fit."""

    def fits(context: int, concurrency: int) -> bool:
        try:
            a, _ = _asked(model, s.but(context=context, concurrency=concurrency), d)
        except InputError:
            return False
        found = ranks(build(a, sampled=True), d.reference)
        need = max(r.tier("device", "high_bytes") for r in found)
        return need + s.in_use <= device.capacity.low

    longest = max(model.positions or s.context, s.context)
    return {
        "max_context": _largest(lambda n: fits(n, s.concurrency), longest, 256),
        "max_concurrency": _largest(lambda n: fits(s.context, n), MOST_SLOTS, 1),
    }


def _largest(holds: Callable[[int], bool], most: int, step: int) -> int:
    """``most``, or the largest multiple of ``step`` below it for which ``holds``; 0 when there is none."""
    if holds(most):
        return most
    low, high = 0, -(-most // step)
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle * step):
            low = middle
        else:
            high = middle
    return low * step
