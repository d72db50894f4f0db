"""The answer to ``serve``: memory to run a model, and how much context and concurrency are left."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.engines import Deployment, Engine, Setting
from tonnage.engines import engine as engine_of
from tonnage.errors import InputError
from tonnage.estimate.result import Fit, Result
from tonnage.estimate.settle import (
    checkpoint_format,
    default_length,
    filled,
    quantization,
    serving_mesh,
    tokens_within,
)
from tonnage.estimate.summary import summary
from tonnage.estimate.verdict import fit, held
from tonnage.formats import FORMATS
from tonnage.record import stated
from tonnage.releases import shown
from tonnage.workload.serving import OWN, Serve

DEFAULT_CONTEXT: Final = 8192
UNLISTED: Final = "whether this release has the model's architecture"


def answer(
    model: Model,
    w: Serve,
    device: Device | None,
    *,
    in_use: int = 0,
    capacity: bool = True,
    doubt: tuple[str, ...] = (),
) -> Result:
    """Memory of holding ``concurrency`` sequences of ``context`` tokens.

    Args:
        model: what runs.
        w: the workload.
        device: where; None asks for the memory only.
        in_use: what other processes hold there. [byte]
        capacity: whether the largest context and concurrency are searched for.
        doubt: what was asked and is not answered; it forbids "fits".

    Raises:
        UnsupportedError: understood, and not modelled yet.
        InputError: contradictory.
    """
    engine = engine_of(w.engine)
    _takes(engine, w)
    version, newer = engine.releases.read(w.engine_version, key="engine_version")
    mesh = serving_mesh(w)
    recipe, requantized = quantization(model, w.quant)
    dtype = checkpoint_format(model, w.dtype)
    if recipe is not None and recipe.dtype is not None and FORMATS[dtype].bytes == 2:
        dtype = recipe.dtype
    context = w.context or default_length(model, DEFAULT_CONTEXT)
    beyond = tokens_within(model, context, "context")
    setting = Setting(
        version=version,
        dtype=dtype,
        recipe=recipe,
        context=context,
        concurrency=w.concurrency or 1,
        mesh=mesh,
        device=device,
        in_use=in_use,
        said={name: value for name, value in stated(w).items() if value is not None},
        search=capacity,
    )
    found = _deployed(model, setting, engine)
    found = found.but(doubt=(*found.doubt, *doubt)) if doubt else found
    if device is not None and device.calibration is not None:
        # Imported late: few devices were measured.
        from tonnage.estimate.calibrated import calibrated, refuse_pools

        refuse_pools(found.capacity, device)
        found = found.but(ranks=tuple(calibrated(rank, device) for rank in found.ranks))
    values: dict[str, Any] = {
        "gpus": mesh.world,
        **{key: getattr(mesh, key) for key in ("tp", "pp", "cp", "ep", "dp")},
        "sharding": "none",
        "dtype": dtype,
        "quant": "none" if recipe is None else w.quant or "checkpoint",
        "engine": engine.name,
        "engine_version": w.engine_version or shown(version),
        "context": context,
        "concurrency": setting.concurrency,
        **found.settled,
    }
    return Result(
        model=summary(model, trainable=0),
        workload={"task": "serve", "model": model.name or model.model_type, **filled(w, values)},
        defaulted=model.defaulted,
        ignored=model.ignored,
        ranks=found.ranks,
        fit=_verdict(found, setting),
        capacity=found.capacity,
        caveats=(*beyond, *([newer] if newer else []), *requantized, *doubt, *found.caveats),
        not_modelled=found.not_modelled,
        extras={"incomplete": list(found.doubt)},
    )


def _takes(engine: Engine, w: Serve) -> None:
    """Refuse keys that other engines have."""
    for name in OWN:
        if getattr(w, name) is not None and name not in engine.takes:
            there = ", ".join(engine.takes) or "none of its own"
            raise InputError(
                f"{name}: {engine.name} has no such setting", key=name, value=getattr(w, name),
                hint=f"keys of {engine.name}: {there}",
            )  # fmt: skip


def _deployed(model: Model, s: Setting, engine: Engine) -> Deployment:
    if engine.deploy is not None:
        return _listed(model, s, engine) if engine.listed else engine.deploy(model, s)
    from tonnage.estimate.generate import deploy

    return deploy(model, s, engine)


def _listed(model: Model, s: Setting, engine: Engine) -> Deployment:
    """What an engine plans that serves the architectures of a list."""
    from tonnage.memory.pool.registries import settle

    assert engine.deploy is not None
    notes, known = settle(engine.name, model, s.said, s.version)
    found = engine.deploy(model, s)
    unknown = () if known else (UNLISTED,)
    return found.but(caveats=(*notes, *found.caveats), not_modelled=(*unknown, *found.not_modelled))


def _verdict(found: Deployment, s: Setting) -> Fit | None:
    """Whether the fullest rank fits, or the pool holds what is asked for."""
    if s.device is None:
        return None
    if found.held is not None:
        return held(found.held, s.concurrency, found.spare, s.device, doubt=found.doubt)
    fullest = max(found.ranks, key=lambda r: r.tier("device"))
    return fit(fullest, s.device, s.in_use, doubt=found.doubt)
