"""Runs of engines: the commands that start them and the logs that they leave, joined to a model and an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tonnage import launch
from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.launch import training
from tonnage.workload import workload
from tonnage.workload.serving import Serve

if TYPE_CHECKING:
    from tonnage.plan.against import Against
    from tonnage.workload.told import Told

BY_PEFT = ("transformers", "trl", "axolotl", "llama-factory")
"""Stacks whose adapters peft makes from the names of their configs."""
Loads = Callable[[Any], Model]
"""Reads a model as ``api.load`` does."""
Places = Callable[[str | None, Any], tuple[Device | None, int]]
"""The device that is named, and what others hold of it. [byte]"""


def started(
    model: Any, command: str | launch.Command | None, said: Mapping[str, Any], to: str | None, load: Loads
) -> tuple[Model, dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    """What a command asks for, ``said`` winning over it.

    Args:
        model: what runs; None for the model that the command names.
        command: what starts the engine, where one is given.
        said: keys of a workload.
        to: the stack for which a command is to be written: its engine is answered for where none is named.
        load: reads the model.

    Returns:
        The model, the keys, what is asked and not answered, and what has to be said of it.
    """
    keys = dict(said)
    if to is not None:
        keys["engine"] = keys.get("engine") or launch.stack(to).name
    if command is None:
        return load(model if model is not None else ""), keys, (), ()
    told = launch.read(command) if isinstance(command, str) else command
    found = load(model if model is not None else launch.named(told))
    return found, *launch.applied(told, found, keys)


def configured(
    model: Any, config: str | training.Job, said: Mapping[str, Any], load: Loads
) -> tuple[Model, dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    """What a training config asks for, ``said`` winning over it.

    Args:
        model: what is trained; None for the model that the config names.
        config: the file, the command that starts the stack, or what was read of it.
        said: keys of a workload; its ``stack`` names the stack whose config it is.
        load: reads the model.

    Returns:
        The model, the keys, what is asked and not answered, and what has to be said of it.

    Raises:
        InputError: another stack is named beside it, or no model is named.
    """
    own = {k: v for k, v in said.items() if v is not None and v != ()}
    named = own.pop("stack", None)
    job = training.read(config, named) if isinstance(config, str) else config
    found, keys = load(model if model is not None else training.named(job)), {**job.said, **own}
    told = job.told
    if "lora_targets" in job.said and "lora_targets" not in own and job.stack in BY_PEFT:
        # Imported late: most configs adapt nothing.
        from tonnage.memory.adapter_patterns import passed_over

        missing = passed_over(found, keys["lora_targets"])
        if missing:
            keys["lora_targets"] = tuple(name for name in keys["lora_targets"] if name not in missing)
            told = (*told, f"no module is called {', '.join(missing)}: peft passes over such names beside others")
    unmodelled = job.unmodelled
    if job.said.get("loss") == "cut" and "loss" not in own:
        # Imported late: as above.
        from tonnage.estimate.savers import odd

        if odd(found, "cut"):
            keys.pop("loss")
            unmodelled += (f"loss = cut is not modelled for the head of {found.model_type}: all logits are answered",)
    return found, keys, unmodelled, told


def together(model: Model, w: Serve, load: Loads) -> Model:
    """The model with those that a workload runs next to it, and the headers of what else it loads."""
    found = model if w.draft is None else model.but(beside={"draft": load(w.draft)})
    if w.mmproj is None:
        return found
    from tonnage.sources import mmproj, weights

    return found.but(files={"mmproj": mmproj.projector(model, w.mmproj, weights.named)})


def written(
    to: str,
    model: Model,
    command: str | launch.Command | None,
    answered: Mapping[str, Any],
    said: Mapping[str, Any],
) -> dict[str, Any]:
    """The command that does what an answer assumes, as a result carries it.

    Args:
        to: the stack.
        model: that was answered for.
        command: what named it, where something did.
        answered: the workload with every default filled in.
        said: the keys that were given.
    """
    from tonnage.sources.catalogue import on_hub

    told = launch.read(command) if isinstance(command, str) else command
    name = (told.model if told is not None else None) or on_hub(model.name or model.model_type)
    text, notes = launch.write(to, name, answered, said)
    return {"stack": to, "text": text, "notes": list(notes)}


def beside_log(
    left: str, right: str, model: Any, said: Mapping[str, Any], load: Loads, place: Places
) -> tuple[str, str, Against] | None:
    """A prediction held against the log that one of two texts names; None where neither does.

    Args:
        left: a launch command, a model, or the log.
        right: the same.
        model: that ran, where the command's cannot be read.
        said: keys of the workload, which win over both.
        load: reads the model.
        place: finds the device.
    """
    from tonnage.plan.against import held
    from tonnage.sources import logs

    found = logs.pair(left, right, launch.known)
    if found is None:
        return None
    asked, path, told = found
    told, version = dated(told, said.get("engine_version"))
    said = said if version is None else {**said, "engine_version": version}
    command = launch.read(asked) if launch.known(asked) else None
    before = _answered(asked) if command is None else {}
    name = before.pop("model", None) or asked if command is None else launch.named(command)
    m = load(model if model is not None else name)
    w = workload(Serve, launch.asked(told, command, m, {**before, **{k: v for k, v in said.items() if v is not None}}))
    m = together(m, w, load)
    where, taken = place(w.gpu, w.in_use)
    return asked, path, held(m, w, where, taken, told, lambda r: logs.told("\n".join((r.capacity or {})["log"])))


def dated(told: Told, asked: str | None) -> tuple[Told, str | None]:
    """A log with what has to be said of its release, and the release as which it is answered.

    Builds of vllm from source call themselves 0.1.dev; what they were built of is not told.

    Args:
        told: by the log.
        asked: the release that is named beside it, which wins.
    """
    from tonnage.engines import Engine
    from tonnage.registry import variant
    from tonnage.releases import shown

    notes: tuple[str, ...] = () if told.figures or told.counts else ("it ends before it tells any size",)
    releases = variant("tonnage.engines", told.engine.replace("-", "_"), "ENGINE", Engine).releases
    if asked is not None or releases.newest == releases.oldest:
        return told.but(notes=(*told.notes, *notes)), asked
    instead = told.release
    if told.release is None:
        notes += (f"it does not tell its release: answered as {shown(releases.newest)}",)
    else:
        version = tuple(int(n) for n in told.release.removeprefix("v").split(".")[:2] if n.isdigit())
        if version < releases.oldest:
            instead = shown(releases.newest)
            notes += (f"its release, {told.release}, is not modelled: answered as {instead} (--engine-version)",)
    return told.but(notes=(*told.notes, *notes)), instead


def _answered(path: str) -> dict[str, Any]:
    """The workload of a result in a file, as ``--json`` printed it, and its model; empty where it is none."""
    from tonnage.devices import device
    from tonnage.tracing.files import found

    result = found(path, device)
    keys = {} if result is None else dict(result["workload"])
    if keys.pop("task", None) != "serve":
        return {}
    # Sizes are bytes in a result, and have a unit where they are said.
    sized = {key: f"{value} B" for key, value in keys.items() if value and Serve.keys[key].kind == "size"}
    return {key: value for key, value in {**keys, **sized}.items() if value not in (None, "none", "checkpoint", [])}


def fitting(said: Mapping[str, Any], load: Loads, place: Places) -> dict[str, Any]:
    """The models of the catalogue that a device holds under one workload, the largest first."""
    from tonnage.plan.inverse import models
    from tonnage.sources.catalogue import rows

    w = workload(Serve, said)
    return models(lambda name: together(load(name), w, load), rows(), w, *place(w.gpu, w.in_use))
