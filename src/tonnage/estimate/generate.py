"""Serving by the model's own code: a prefill and a decoding step, run on the tape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.engines import Deployment, Engine, Setting
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.lines import Terms, lines, reserves
from tonnage.estimate.moments import instants, largest
from tonnage.estimate.result import Fit
from tonnage.estimate.serving import Run, Session
from tonnage.estimate.settle import AS_NEWEST, attention_told, dequantized, kernel, loaded_in
from tonnage.estimate.summary import caching, no_caching_caveat
from tonnage.estimate.verdict import fit
from tonnage.formats import FORMATS, Format, storage_format
from tonnage.memory.cache import has_cache, state_bytes, states
from tonnage.memory.overhead import cublas_workspace
from tonnage.memory.search import most_that
from tonnage.releases import since
from tonnage.tensors import product
from tonnage.timeline import Rank

if TYPE_CHECKING:
    from tonnage.arch.tuning.adapters import Tuning
    from tonnage.memory.weights import Share

MOST_SEQUENCES: Final = 1 << 20
MOST_TOKENS: Final = 1 << 32

NOT_MODELLED: Final = (
    "fragmentation of the caching allocator (assumed, as a range)",
    "scratch of kernels",
    "sampling beyond the fp32 copy of the last logits; beams and assisted decoding",
)

UNPACKING: Final = "what kernels of quantized weights take while they run: unpacked copies, layouts of their own"


def deploy(model: Model, s: Setting, engine: Engine) -> Deployment:
    """What ``generate`` takes to hold ``concurrency`` sequences of ``context`` tokens.

    Raises:
        UnsupportedError: understood, and not modelled yet.
        InputError: contradictory.
    """
    said, device = s.said, s.device
    _same_format(s, engine)
    prompt = said.get("prompt") or s.context
    if prompt > s.context:
        raise InputError(f"prompt = {prompt:,} is longer than context = {s.context:,}", key="prompt", value=prompt)
    model = loaded_in(model, s.dtype)
    caveats = [AS_NEWEST] if s.version[0] < engine.releases.newest[0] else []
    quantized = _stored(model, s, caveats)
    if said.get("attention") in ("flash_attention_2", "flash_attention_3", "flex"):
        raise UnsupportedError(
            f"attention = {said['attention']} is not modelled in serving", key="attention", value=said["attention"],
            hint="--attention flash",
        )  # fmt: skip
    attention, told = kernel(model, said.get("attention", "sdpa"), dtype=s.dtype, device=device)
    session = Session(
        dtype=s.dtype,
        kernel=attention,
        sequences=s.concurrency,
        context=s.context,
        prompt=prompt,
        logits=said.get("logits") or engine.logits,
        latent=since(s.version, engine.latent),
        workspace=cublas_workspace(device.architecture if device is not None else "") if caching(device) else 0,
        shares=quantized,
        tuning=_unpacked(model, s) if quantized else None,
        again=_again(model, s),
    )
    rank, missing, ran = _rank(model, session, device, engine)
    doubt = (*model.ignored, *missing)
    room = _capacity(model, session, FORMATS[s.dtype])
    if device is not None and s.search and not missing:
        room |= _room(model, session, device, engine, s.in_use, doubt)
    asked = said.get("attention")
    return Deployment(
        ranks=(rank,),
        settled={
            "attention": asked or ("eager" if attention == "eager" else "sdpa"),
            "kv_dtype": s.dtype,
            "prompt": prompt,
            "logits": session.logits,
        },
        capacity=room,
        caveats=(
            *caveats,
            *(told if ran else ()),
            *attention_told(ran, asked or "sdpa", device),
            *no_caching_caveat(device),
        ),
        not_modelled=(*missing, *NOT_MODELLED, *([UNPACKING] if quantized and session.tuning is None else [])),
        doubt=doubt,
    )


def _unpacked(model: Model, s: Setting) -> Tuning | None:
    """The packed matrices of a scheme whose products unpack them; None where its kernels are not modelled."""
    from tonnage import quant
    from tonnage.arch.tuning.adapters import Tuning, packed
    from tonnage.memory.adapters import local_names

    recipe = s.recipe
    if recipe is None or recipe.trains is None:
        return None
    names = local_names(model, quant.packed_modules(model, recipe))
    return Tuning(packed=packed(recipe.trains, names, s.dtype, s.dtype, recipe.nested))


def _again(model: Model, s: Setting) -> int:
    """What the block that loading begins with counts twice; newer releases count everything once. [byte]"""
    if s.recipe is not None or s.version >= (5, 0):
        return 0
    # Imported late: only an older release needs it.
    from tonnage.estimate.loading import loader, tied

    return tied(model, s.dtype) if loader(s.version).ties else 0


def _same_format(s: Setting, engine: Engine) -> None:
    """Refuse a cache in another format than the computation's, and several devices."""
    kv = s.said.get("kv_dtype")
    if kv is not None and storage_format(kv, key="kv_dtype").name != s.dtype:
        raise UnsupportedError(
            f"kv_dtype = {kv}: {engine.name} keeps its cache in the format of the weights, {s.dtype}",
            key="kv_dtype", value=kv,
        )  # fmt: skip
    if s.mesh.world > 1:
        raise UnsupportedError(
            f"{s.mesh.world} devices: {engine.name} is modelled on one",
            key="gpus", value=s.mesh.world, hint="leave them out to see the whole model on one, or name another engine",
        )  # fmt: skip


def _stored(model: Model, s: Setting, caveats: list[str]) -> tuple[Share, ...]:
    """The weights by part and format; none where they lie in one format. What has to be said goes to ``caveats``."""
    recipe = s.recipe
    if recipe is None:
        return ()
    from tonnage import quant
    from tonnage.memory.weights import stored, total

    found = stored(model, FORMATS[s.dtype], recipe)
    why = dequantized(recipe, s.device)
    size = total(found).requested
    if why is not None:
        caveats.append(f"{why}; packed they would be {size:,} B")
        return ()
    packed = [s for s in found if s.part != "kept"]
    if not packed:
        caveats.append(f"{recipe.title}: packs none of this model's weights")
    else:
        caveats.append(f"{recipe.title}: {8 * size / max(model.parameters.total, 1):.2f} bits a parameter")
    caveats += (*quant.left(model, recipe), *recipe.told)
    return found


def _rank(model: Model, s: Session, device: Device | None, engine: Engine) -> tuple[Rank, tuple[str, ...], set[str]]:
    run = Run(model, s)
    found = instants(run.moments())
    peak, runner_up = largest(found)
    moment = next(m for m in run.moments() if m.name == peak.name)
    components = lines(moment, run.held.values(), _why(run, engine)) + reserves(
        moment.level.allocated,
        run.weights.allocated,
        caching=caching(device),
        device=device,
        loaded=run.weights.requested + s.again if s.again else 0,
    )
    rank = Rank(
        rank="pp0",
        multiplicity=1,
        static_bytes=run.static().allocated,
        peak=peak,
        runner_up=runner_up,
        components=tuple(components),
        instants=found,
    )
    if device is not None and device.calibration is not None:
        # Imported late: few devices were measured.
        from tonnage.estimate.calibrated import calibrated

        rank = calibrated(rank, device)
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
    context = most_that(lambda n: fits(s.sequences, n), max(longest, s.context))
    return {
        "max_context": context,
        "max_concurrency": most_that(lambda n: fits(n, s.context), MOST_SEQUENCES),
        "log": ["as many as the model has positions"] if context == model.positions else [],
    }
