"""A model, a result, a profile or an engine's log, laid beside another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tonnage.api import ModelLike, load, place, serve, train, weights
from tonnage.devices import device
from tonnage.errors import InputError

if TYPE_CHECKING:
    from tonnage.history import History
    from tonnage.plan.against import Against
    from tonnage.reconcile import Difference
    from tonnage.sources.places import Progress


def compare(
    left: str,
    right: str,
    *,
    head: str | None = None,
    ignore_keys: tuple[str, ...] = (),
    ignore_unknown: bool = False,
    progress: Progress | None = None,
) -> tuple[str, str, dict[str, tuple[int, int]], Difference]:
    """A model held against a file of weights, or two files.

    A folder or repository that holds a config and weights is the config on the left and the weights on the right.

    Args:
        left: as ``load`` takes it, or a file of weights.
        right: the same; one of the two is a file.
        head: the class that is counted.
        ignore_keys: config keys to pass over.
        ignore_unknown: pass over every config key that is not understood.
        progress: called with files read and files in all, where headers come from a network.

    Returns:
        Names of both sides, their bytes by component, and the tensors that they do not share.

    Raises:
        InputError: neither is a file of weights.
    """
    from tonnage import reconcile
    from tonnage.checkpoint.names import role
    from tonnage.formats import storage_format

    file = weights(right, beside_config=True, progress=progress)
    if file is None and weights(left, beside_config=True, progress=progress) is not None:
        # The file first: the same answer from the other side.
        b, a, lines, found = compare(
            right, left, head=head, ignore_keys=ignore_keys, ignore_unknown=ignore_unknown, progress=progress
        )
        return a, b, {name: (size[1], size[0]) for name, size in lines.items()}, found.turned()
    if file is None:
        raise InputError(
            "one of the two must be a file of weights", key="right", value=right,
            hint="tonnage compare CONFIG FILE: the file is .safetensors, its index, .gguf, .bin or .pt",
        )  # fmt: skip
    other = weights(left, progress=progress)
    sizes: dict[str, list[int]] = {}
    if other is not None:
        mine = reconcile.found(other)
        for t in other.tensors:
            sizes.setdefault(role(t.name), [0, 0])[0] += t.nbytes
    else:
        model = load(left, head=head, ignore_keys=ignore_keys, ignore_unknown=ignore_unknown, progress=progress)
        mine = reconcile.predicted(model)
        form = storage_format(model.dtype or "bf16")
        for w in model.weights():
            sizes.setdefault(w.role, [0, 0])[0] += (storage_format(w.dtype) if w.dtype else form).nbytes(w.numel)
    theirs = reconcile.found(file, mine)
    for t in file.tensors:
        sizes.setdefault(role(t.name), [0, 0])[1] += t.nbytes
    lines = {name: (a, b) for name, (a, b) in sizes.items()}
    return mine.name, theirs.name, lines, reconcile.compare(mine, theirs)


def beside(left: str, right: str) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """Two results of the JSON contract, where at least one of two texts names a trace, a result or a profile in a file.

    The other may name a model: it is asked for the same workload, where there is one.

    Raises:
        InputError: a trace of a function, or a profile, beside a model.
    """
    from tonnage import profiles
    from tonnage.tracing.files import found

    a, b = (found(side, device) or profiles.result(side) for side in (left, right))
    if a is None and b is None:
        return None
    return a or _as_asked(left, b or {}), b or _as_asked(right, a or {})


def timelines(left: str, right: str) -> tuple[History, History]:
    """The two runs over time, for a page that shows both.

    Raises:
        InputError: a side is no file of a run: a prediction has instants, and no time.
    """
    from tonnage import profiles
    from tonnage.sources import profile
    from tonnage.tracing.files import found

    for key, side in (("left", left), ("right", right)):
        if profile.kind(side) is None and found(side, device) is None:
            raise InputError(
                f"{side} holds no run over time, so that no timeline can be drawn", key=key, value=side,
                hint="tonnage trace MODEL --out FILE writes one, torch.cuda.memory._dump_snapshot another",
            )  # fmt: skip
    return profiles.read(left), profiles.read(right)


def beside_log(
    left: str, right: str, *, model: ModelLike | None = None, **said: Any
) -> tuple[str, str, Against] | None:
    """A launch command, or a model under what the log states, held against an engine's log; None where neither is one.

    ``model`` is the one that ran, where the command's cannot be read; ``said`` are keys of the workload.
    """
    from tonnage import runs

    return runs.beside_log(left, right, model, said, load, place)


def _as_asked(source: str, other: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is predicted for a model under the workload of another result."""
    asked = {key: value for key, value in other["workload"].items() if value not in (None, "none", [], False)}
    task = asked.pop("task", None)
    if "kind" in other:
        raise InputError(
            "a profile does not say what ran, so that nothing can be predicted for it", key="left", value=source,
            hint="name a prediction in a file: tonnage train MODEL ... --json > FILE",
        )  # fmt: skip
    if task not in ("train", "serve"):
        raise InputError("a traced function has no prediction: compare it with another trace", key="left", value=source)
    for key in ("model", "in_use", "stack_version", "engine_version"):
        asked.pop(key, None)
    return (train if task == "train" else serve)(source, suggest=False, **asked).as_dict()
