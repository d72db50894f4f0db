"""The answer to ``serve``: memory to run a model, and how much context and concurrency are left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.engines import Engine
from tonnage.errors import InputError
from tonnage.estimate.lines import Terms, lines, reserves
from tonnage.estimate.moments import Largest
from tonnage.estimate.result import Fit, Rank, Result
from tonnage.estimate.serving import Run, Session
from tonnage.estimate.settle import (
    AS_NEWEST,
    KNOWN_ENGINES,
    attention_told,
    checkpoint_format,
    chosen,
    default_length,
    dequantized,
    filled,
    kernel,
    one_device,
    quantization,
    refuse,
    tokens_within,
)
from tonnage.estimate.summary import caching, no_caching_caveat, summary
from tonnage.estimate.verdict import fit
from tonnage.formats import FORMATS, Format, storage_format
from tonnage.memory.cache import has_cache, state_bytes, states
from tonnage.memory.overhead import cublas_workspace
from tonnage.releases import shown, since
from tonnage.tensors import product
from tonnage.workload.serving import Serve

if TYPE_CHECKING:
    from tonnage.memory.weights import Share
    from tonnage.quant import Recipe

DEFAULT_CONTEXT: Final = 8192
MOST_SEQUENCES: Final = 1 << 20
MOST_TOKENS: Final = 1 << 32

NOT_MODELLED: Final = (
    "fragmentation of the caching allocator (assumed, as a range)",
    "scratch of kernels",
    "sampling beyond the fp32 copy of the last logits; beams and assisted decoding",
)


UNPACKING: Final = "what kernels of quantized weights take while they run: unpacked copies, layouts of their own"


def answer(model: Model, w: Serve, device: Device | None, *, in_use: int = 0, capacity: bool = True) -> Result:
    """Memory of holding ``concurrency`` sequences of ``context`` tokens.

    Args:
        model: what runs.
        w: the workload.
        device: where; None asks for the memory only.
        in_use: what other processes hold there. [byte]
        capacity: whether the largest context and concurrency are searched for.

    Raises:
        UnsupportedError: understood, and not modelled yet.
        InputError: contradictory.
    """
    degrees = one_device(w)
    engine: Engine = chosen(
        "tonnage.engines", "ENGINE", Engine, w.engine or "transformers", key="engine", known=KNOWN_ENGINES
    )
    version, newer = engine.releases.read(w.engine_version, key="engine_version")
    recipe, requantized = quantization(model, w.quant)
    dtype = checkpoint_format(model, w.dtype)
    if recipe is not None and recipe.dtype is not None and FORMATS[dtype].bytes == 2:
        dtype = recipe.dtype
    if w.kv_dtype is not None and storage_format(w.kv_dtype, key="kv_dtype").name != dtype:
        refuse(w, "kv_dtype", f"{engine.name} keeps its cache in the format of the weights, {dtype}")
    context = w.context or default_length(model, DEFAULT_CONTEXT)
    prompt = w.prompt or context
    if prompt > context:
        raise InputError(f"prompt = {prompt:,} is longer than context = {context:,}", key="prompt", value=prompt)
    caveats = [*tokens_within(model, context, "context"), *([newer] if newer else [])]
    caveats += [AS_NEWEST] if version[0] < engine.releases.newest[0] else []
    caveats += requantized
    quantized = _stored(model, recipe, dtype, device, caveats)
    attention, told = kernel(model, w.attention or "sdpa", dtype=dtype, device=device)
    architecture = device.architecture if device is not None else ""
    session = Session(
        dtype=dtype,
        kernel=attention,
        sequences=w.concurrency or 1,
        context=context,
        prompt=prompt,
        logits=w.logits or engine.logits,
        latent=since(version, engine.latent),
        workspace=cublas_workspace(architecture) if caching(device) else 0,
        shares=quantized,
    )
    rank, missing, ran = _rank(model, session, device, engine)
    doubt = (*model.ignored, *missing)
    verdict = None if device is None else fit(rank, device, in_use, doubt=doubt)
    values: dict[str, Any] = {
        **degrees,
        "dtype": dtype,
        "quant": "none" if recipe is None else w.quant or "checkpoint",
        "attention": w.attention or ("eager" if attention == "eager" else "sdpa"),
        "engine": engine.name,
        "engine_version": w.engine_version or shown(version),
        "kv_dtype": dtype,
        "context": context,
        "concurrency": session.sequences,
        "prompt": prompt,
        "logits": session.logits,
    }
    room = _capacity(model, session, FORMATS[dtype])
    if device is not None and capacity and not missing:
        room |= _room(model, session, device, engine, in_use, doubt)
    return Result(
        model=summary(model, trainable=False),
        workload={"task": "serve", "model": model.name or model.model_type, **filled(w, values)},
        defaulted=model.defaulted,
        ignored=model.ignored,
        ranks=(rank,),
        fit=verdict,
        capacity=room,
        caveats=(
            *caveats,
            *(told if ran else ()),
            *attention_told(ran, w.attention or "sdpa", device),
            *no_caching_caveat(device),
        ),
        not_modelled=(*missing, *NOT_MODELLED, *([UNPACKING] if quantized else [])),
        extras={"attention_kernel": attention, "incomplete": list(doubt)},
    )


def _stored(
    model: Model, recipe: Recipe | None, dtype: str, device: Device | None, caveats: list[str]
) -> tuple[Share, ...]:
    """The weights by part and format; none where they lie in one format. What has to be said goes to ``caveats``."""
    if recipe is None:
        return ()
    from tonnage import quant
    from tonnage.memory.weights import stored, total

    found = stored(model, FORMATS[dtype], recipe)
    why = dequantized(recipe, device)
    size = total(found).requested
    if why is not None:
        caveats.append(f"{why}; packed they would be {size:,} B")
        return ()
    packed = [s for s in found if s.part != "kept"]
    if not packed:
        caveats.append(f"{recipe.title}: packs none of this model's weights")
    else:
        caveats.append(f"{recipe.title}: {8 * size / max(model.parameters.total, 1):.2f} bits a parameter")
    if quant.leaves_experts(model, recipe):
        caveats.append("stacked experts are no linear modules: they stay as they are")
    caveats += recipe.told
    return found


def _rank(model: Model, s: Session, device: Device | None, engine: Engine) -> tuple[Rank, tuple[str, ...], set[str]]:
    run = Run(model, s)
    largest = Largest(run.moments())
    moment = next(m for m in run.moments() if m.name == largest.best.name)
    components = lines(moment, run.held.values(), _why(run, engine)) + reserves(
        moment.level.allocated, run.weights.allocated, caching=caching(device)
    )
    rank = Rank(
        rank="pp0",
        multiplicity=1,
        static_bytes=run.static().allocated,
        peak=next(i for i in largest.instants if i.name == moment.name),
        runner_up=largest.runner_up,
        components=tuple(components),
        instants=largest.instants,
    )
    ran = {name for reading in (run.prefill, run.decode) if reading is not None for name in reading.kernels}
    return rank, tuple(run.missing), ran


def _why(run: Run, engine: Engine) -> dict[str, tuple[str, str, Terms]]:
    """Words, reference and terms of the lines that are no activations."""
    s, w = run.session, run.form.bytes
    P = run.model.parameters.total
    per_token: dict[str, int] = {}
    fixed: dict[str, int] = {}
    for stack in run.model.stacks:
        for layer, times in stack.distinct():
            for t, window in states(layer, 1, 1, latent=s.latent):
                shape = product(tuple(a for a in t.axes if a[0] not in ("B", "S")), w)
                into = per_token if t.role == "cache" else fixed
                label = f"{t.name} {shape}" + (f" (window {window:,})" if window else "")
                into[label] = into.get(label, 0) + times
    cache = "; ".join(f"{n} layers x {label}" for label, n in per_token.items())
    many = f"B {s.sequences} x " if s.sequences > 1 else ""
    terms: Terms = tuple((label, "layers", n) for label, n in per_token.items())
    shares: dict[str, tuple[str, str, Terms]] = {
        share.what: (
            f"{share.part}: {share.elements:,} x {share.format}, {share.tensors} tensors",
            "quant/",
            (("n", f"elements in {share.format}", share.elements),),
        )
        for share in s.shares
    }
    return {
        **shares,
        "weights": (f"{P:,} parameters x {w} B ({s.dtype}), {run.tensors} tensors", engine.reference,
                    (("P", "parameters", P), ("w", f"bytes of an element in {s.dtype}", w))),
        "other:buffers": ("inverse frequencies and the like, in fp32", engine.reference, ()),
        "kv_cache": (f"{many}S tokens x ({cache})", engine.reference, terms),
        "recurrent_state": (
            many + "; ".join(f"{n} layers x {label}" for label, n in fixed.items()),
            engine.reference,
            tuple((label, "layers", n) for label, n in fixed.items()),
        ),
    }  # fmt: skip


def _capacity(model: Model, s: Session, fmt: Format) -> dict[str, Any]:
    """State of the workload in steady decoding, and its growth by one token."""

    def size(sequences: int, tokens: int) -> int:
        return state_bytes(model, sequences, tokens, fmt, latent=s.latent).requested

    fixed = state_bytes(model, s.sequences, s.context, fmt, latent=s.latent, role="state").requested
    return {
        "kv_bytes": size(s.sequences, s.context) + fixed,
        "kv_bytes_per_token": size(1, s.context + 1) - size(1, s.context) if has_cache(model) else 0,
        "tokens": None,
        "blocks": None,
        "max_context": None,
        "max_concurrency": None,
        "log": [],
    }


def _room(
    model: Model, s: Session, device: Device, engine: Engine, in_use: int, doubt: tuple[str, ...]
) -> dict[str, Any]:
    """Largest context at this concurrency and largest concurrency at this context that still fit."""

    def fits(sequences: int, tokens: int) -> bool:
        prompt = tokens if s.prompt == s.context else min(s.prompt, tokens)
        rank, _, _ = _rank(model, s.but(sequences=sequences, context=tokens, prompt=prompt), device, engine)
        verdict: Fit = fit(rank, device, in_use)
        return verdict.verdict == "fits"

    longest = model.positions if model.positions is not None else MOST_TOKENS
    context = _largest(lambda n: fits(s.sequences, n), max(longest, s.context))
    return {
        "max_context": context,
        "max_concurrency": _largest(lambda n: fits(n, s.context), MOST_SEQUENCES),
        "log": ["as many as the model has positions"] if context == model.positions else [],
    }


def _largest(holds: Any, most: int) -> int:
    """The largest number up to ``most`` for which ``holds`` is true; 0 when it never is."""
    if not holds(1):
        return 0
    low, high = 1, 2
    while high <= most and holds(high):
        low, high = high, high * 2
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low
