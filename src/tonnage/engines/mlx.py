"""mlx-lm: weights in unified memory, caches that grow by 256 tokens, prompts read in steps of 2,048.

Read in ml-explore/mlx-lm 0.32.0: mlx_lm/generate.py (``generate_step``, ``wired_limit``), mlx_lm/models/cache.py,
mlx_lm/server.py; and ml-explore/mlx 0.32.4: mlx/backend/metal/allocator.cpp (pages, limits),
mlx/backend/metal/scaled_dot_product_attention.cpp (which attention is one kernel). Weights and caches were compared
with ``mx.get_active_memory`` on MLX's CPU backend; what a pass takes beside them on Metal is a range.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tonnage.arch.model import Layer, Model
from tonnage.devices import Device
from tonnage.engines import Deployment, Engine, Setting
from tonnage.errors import InputError, UnsupportedError
from tonnage.evidence import ASSUMED, DERIVED
from tonnage.formats import FORMATS, Format
from tonnage.memory.cache import states
from tonnage.memory.queued import Step, held
from tonnage.memory.weights import bytes_of, is_parameter, stored
from tonnage.record import Record
from tonnage.releases import Releases
from tonnage.tensors import Tensor, size
from tonnage.timeline import Component, Instant, Rank, exact, ranged

REFERENCE: Final = "https://github.com/ml-explore/mlx-lm/blob/v0.32.0/mlx_lm/models/cache.py"
PAGES: Final = "https://github.com/ml-explore/mlx/blob/v0.32.4/mlx/backend/metal/allocator.cpp"

LARGER: Final = ("max", "ultra")
"""Parts of the names of chips whose command buffers are the larger ones; those where no device is named as well."""
STEP: Final = 256
"""Tokens by which a cache grows (``KVCache.step``)."""
PREFILL: Final = 2048
"""Tokens of a prompt read at once (``prefill_step_size``)."""
GROUP: Final = 64
"""Values of a quantized cache that share a scale and a bias (``kv_group_size``)."""
PAGE: Final = 16 * 1024
"""What Metal's allocator rounds larger arrays up to: a page of macOS on Apple's chips. [byte]"""

ROTATING: Final = (
    "afmoe", "cohere2", "exaone4", "exaone_moe", "gemma3_text", "gemma3n_text", "gemma4_text", "gpt_oss", "laguna",
    "mellum", "mimo_v2_flash", "ministral3", "olmo3", "recurrent_gemma",
)  # fmt: skip
"""Models whose windowed layers keep a ring of their window's length; others keep every token. ``make_cache``"""
EXPANDED: Final = ("deepseek_v2", "minicpm3")
"""Models with a latent whose heads' own keys and values are cached."""

NOT_MODELLED: Final = (
    "what MLX keeps of freed buffers between steps (mx.set_cache_limit); it is emptied after every step of a prompt",
    "adapters; draft models; encoders of pictures and sound; the server's caches of earlier prompts",
)
OVER: Final = "beyond it nothing is refused: macOS moves memory to its compressor and to disk, and it becomes slow"


def deploy(model: Model, s: Setting) -> Deployment:
    """What ``mlx_lm.generate`` and ``mlx_lm.server`` take to hold ``concurrency`` sequences.

    Raises:
        UnsupportedError: several devices, or a scheme that is not MLX's.
        InputError: what mlx-lm would refuse.
    """
    _check(model, s)
    flags = _flags(model, s)
    form = FORMATS[s.dtype]
    found = _lines(model, s, flags, form)
    static = sum(c.bytes for c in found if c.name in ("weights", "kv_cache", "recurrent_state", "rounding"))
    peak = sum(c.bytes for c in found)
    loaded = sum(c.bytes for c in found if c.name == "weights")
    instants = (Instant("weights are loaded", loaded), Instant("the prompt is read", peak))
    rank = Rank(
        rank="0", multiplicity=1, static_bytes=static, peak=instants[1], runner_up=instants[0],
        components=found, instants=instants,
    )  # fmt: skip
    state = _state(model, s.context, s.concurrency, flags, form)
    capacity: dict[str, Any] = {
        "kv_bytes": state,
        "kv_bytes_per_token": _state(model, s.context + STEP, 1, flags, form) // STEP
        - _state(model, s.context, 1, flags, form) // STEP,
        "tokens": None, "blocks": None, "max_context": None, "max_concurrency": None, "log": [],
    }  # fmt: skip
    if s.device is not None and s.search:
        capacity |= _room(model, s, flags, form, s.device)
    caveats = [OVER] if s.device is not None and s.device.unified else []
    if s.recipe is None and model.quantization is None:
        caveats.append(f"weights in {s.dtype}; --quant mlx-4bit, mlx-8bit, ... as mlx_lm.convert packs them")
    return Deployment(
        ranks=(rank,),
        settled={
            "kv_dtype": s.dtype if flags.bits is None else f"{flags.bits} bit", "prompt": flags.prompt,
            "prefill_step_size": flags.step, "kv_bits": flags.bits,
            "kv_group_size": flags.group if flags.bits else None, "max_kv_size": flags.most,
        },
        capacity=capacity,
        caveats=tuple(caveats),
        not_modelled=NOT_MODELLED,
        doubt=(*model.ignored,),
    )  # fmt: skip


class Flags(Record):
    """What is asked and what mlx-lm decides itself."""

    prompt: int
    step: int
    bits: int | None
    group: int
    most: int | None
    rotating: bool
    latent: bool


def _check(model: Model, s: Setting) -> None:
    if s.mesh.world > 1:
        raise UnsupportedError(
            f"{s.mesh.world} devices: mlx-lm is modelled on one", key="gpus", value=s.mesh.world
        )  # fmt: skip
    if len(model.stacks) > 1 or not model.causal or model.head is None:
        raise UnsupportedError(
            f"mlx-lm is modelled for decoders, and {model.class_name or model.model_type} is none", key="engine",
            value="mlx",
        )  # fmt: skip
    if s.recipe is not None and s.recipe.method not in ("mlx", "mxfp4"):
        raise UnsupportedError(
            f"mlx-lm runs its own packed weights, and {s.recipe.title} is none of them", key="quant",
            value=s.recipe.method, hint="--quant mlx-4bit, mlx-8bit, or none",
        )  # fmt: skip
    if s.said.get("kv_dtype") not in (None, s.dtype, {"fp16": "f16"}.get(s.dtype)):
        raise InputError(
            f"kv_dtype = {s.said['kv_dtype']}: mlx-lm keeps its cache in the format of the computation, {s.dtype}",
            key="kv_dtype", value=s.said["kv_dtype"], hint="--kv-bits 8 or 4 packs it",
        )  # fmt: skip


def _flags(model: Model, s: Setting) -> Flags:
    said, bits = s.said, s.said.get("kv_bits")
    rotating = model.model_type in ROTATING and any(w is not None for _, w in _kept(model))
    group, most = said.get("kv_group_size") or GROUP, said.get("max_kv_size")
    if bits is not None:
        if bits not in (2, 3, 4, 5, 6, 8) or group not in (32, 64, 128):
            raise InputError(
                f"kv_bits = {bits} in groups of {group}: MLX packs 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128",
                key="kv_bits", value=bits,
            )  # fmt: skip
        if rotating or most is not None:
            raise InputError("kv_bits: RotatingKVCache Quantization NYI", key="kv_bits", value=bits)
        narrow = min((t.axes[-1][1] for t, _ in _kept(model) if t.role == "cache"), default=group)
        if narrow % group:
            raise InputError(
                f"kv_group_size = {group}: heads of {narrow} do not divide into it", key="kv_group_size", value=group,
                hint="--kv-group-size 32",
            )  # fmt: skip
    if most is not None and (rotating or any(t.role == "state" for t, _ in _kept(model))):
        most = None
    prompt = said.get("prompt") or s.context
    if prompt > s.context:
        raise InputError(f"prompt = {prompt:,} is longer than context = {s.context:,}", key="prompt", value=prompt)
    return Flags(
        prompt=prompt, step=said.get("prefill_step_size") or PREFILL, bits=bits, group=group, most=most,
        rotating=rotating, latent=model.model_type not in EXPANDED,
    )  # fmt: skip


def _kept(model: Model) -> Iterator[tuple[Tensor, int | None]]:
    for layer, _ in model.decoder.distinct():
        yield from states(layer, 1, 1, repeated=False)


def cells(tokens: int, window: int | None, f: Flags, *, reading: bool = False) -> int:
    """Tokens that a layer's cache has room for after so many.

    A ring holds as many as its window: what the prompt brought but for its last token, then steps from there; while
    a prompt is read, those of the step beside one less than the window.

    >>> f = Flags(101, 2048, None, 64, None, True, True)
    >>> cells(1000, None, f), cells(110, 1024, f), cells(5000, 1024, f), cells(5000, 1024, f, reading=True)
    (1024, 356, 1024, 3071)
    """
    ring = window if window is not None and f.rotating else f.most
    if ring is None:
        return -(-tokens // STEP) * STEP
    if reading:
        return min(tokens, ring - 1 + f.step)
    read = min(f.prompt, tokens) - 1
    return min(read - (read - tokens) // STEP * STEP, ring)


def _layer(layer: Layer, tokens: int, B: int, f: Flags, form: Format, *, reading: bool = False) -> tuple[int, int]:
    """Cache and state of one layer. [byte]"""
    cache = state = 0
    for t, window in states(layer, B, 1, latent=f.latent, repeated=False):
        own = form if t.dtype is None else FORMATS[t.dtype]
        if t.role == "state":
            state += own.nbytes(size(t.axes))
        elif t.role == "cache":
            n = size(t.axes) * cells(tokens, window, f, reading=reading)
            cache += own.nbytes(n) if f.bits is None else n * f.bits // 8 + 2 * own.nbytes(n // f.group)
    return cache, state


def _sums(model: Model, tokens: int, B: int, f: Flags, form: Format, *, reading: bool = False) -> tuple[int, int]:
    cache = state = 0
    for layer, times in model.decoder.distinct():
        c, s = _layer(layer, tokens, B, f, form, reading=reading)
        cache, state = cache + times * c, state + times * s
    return cache, state


def _state(model: Model, tokens: int, B: int, f: Flags, form: Format) -> int:
    return sum(_sums(model, tokens, B, f, form))


def _weights(model: Model, s: Setting, form: Format) -> tuple[int, int]:
    """Bytes of the weights, and what Metal rounds them up by. [byte]"""
    if s.recipe is not None:
        shares = stored(model, form, s.recipe)
        return sum(p.level.requested for p in shares), sum(p.tensors for p in shares) * PAGE // 2
    level, tensors = bytes_of(model.groups(), form, is_parameter)
    return level.requested, tensors * PAGE // 2


def _lines(model: Model, s: Setting, f: Flags, form: Format) -> tuple[Component, ...]:
    weights, rounding = _weights(model, s, form)
    full = max(_sums(model, f.prompt, s.concurrency, f, form, reading=True)[0],
               _sums(model, s.context, s.concurrency, f, form)[0])  # fmt: skip
    state = _sums(model, s.context, s.concurrency, f, form)[1]
    title = f"in {s.dtype}" if s.recipe is None else s.recipe.title
    out = [exact("weights", weights, f"{model.parameters.total:,} parameters, {title}", REFERENCE, trust=DERIVED)]
    if full:
        what = f"{cells(s.context, None, f):,} tokens x {s.concurrency}, in steps of {STEP}"
        what += "" if f.bits is None else f"; {f.bits} bit, groups of {f.group}"
        out.append(exact("kv_cache", full, what, REFERENCE, trust=DERIVED))
    if state:
        out.append(exact("recurrent_state", state, f"{s.concurrency} sequences", REFERENCE, trust=DERIVED))
    low, likely, high = _activations(model, s, weights, f, f.prompt, s.concurrency, form)
    words = (
        f"assumed: a step of {min(f.step, f.prompt):,} tokens: one layer's scores where attention is no kernel, and "
        "the results that up to 11 command buffers still hold; at least what is live at once"
    )
    out.append(ranged("activations", low, likely, high, words, REFERENCE, tier="requested", trust=ASSUMED))
    out.append(ranged("rounding", 0, rounding, 2 * rounding, "assumed: half a page of 16 KiB for each array", PAGES,
                      tier="allocated", trust=ASSUMED))  # fmt: skip
    return tuple(out)


def _activations(
    model: Model, s: Setting, weights: int, f: Flags, prompt: int, B: int, form: Format
) -> tuple[int, int, int]:
    """What a step of a prompt takes beside weights and cache: at least, likely and at most. [byte]"""
    step = Step(
        tokens=B * min(f.step, prompt), seen=prompt, ringed=f.rotating, packed=weights / model.parameters.stored,
        larger=s.device is None or any(part in s.device.name for part in LARGER),
    )  # fmt: skip
    return held(model, step, form, lambda layer: _layer(layer, prompt, B, f, form)[0])


def _room(model: Model, s: Setting, f: Flags, form: Format, device: Device) -> dict[str, Any]:
    """Largest context and concurrency at which the upper end still fits."""
    weights, rounding = _weights(model, s, form)
    most = device.capacity.low - s.in_use - weights - 2 * rounding

    def holds(context: int, concurrency: int) -> bool:
        prompt = min(f.prompt, context) if s.said.get("prompt") else context
        high = _activations(model, s, weights, f, prompt, concurrency, form)[2]
        cache, state = _sums(model, context, concurrency, f, form)
        reading = _sums(model, prompt, concurrency, f, form, reading=True)[0]
        return max(cache, reading) + state + high <= most

    longest = model.positions or s.context
    return {
        "max_context": next((n for n in _down(longest) if holds(n, s.concurrency)), 0),
        "max_concurrency": next((n for n in range(256, 0, -1) if holds(s.context, n)), 0),
    }


def _down(longest: int) -> Iterator[int]:
    yield longest
    yield from range((longest - 1) // STEP * STEP, 0, -STEP)


ENGINE: Final = Engine(
    name="mlx",
    releases=Releases("mlx-lm", newest=(0, 32), oldest=(0, 32), last={}),
    reference=REFERENCE,
    takes=("prompt", "kv_bits", "kv_group_size", "max_kv_size", "prefill_step_size"),
    deploy=deploy,
)
