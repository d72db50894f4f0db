"""Serving engines: versioned records of how an engine fills memory.

An engine that runs a model's own code (transformers) needs no more than the record: the forward passes tell. One that
plans its memory by rules of its own (a pool of pages, a graph reserved for the worst case) states them in a function of
its module, ``deploy``, from a ``Setting`` to a ``Deployment``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.placement.mesh import Mesh
from tonnage.record import Record
from tonnage.registry import chosen
from tonnage.releases import Releases, Since, Version
from tonnage.timeline import Rank

if TYPE_CHECKING:
    from tonnage.quant import Recipe


class Setting(Record):
    """What an engine is asked to hold, with what is the same for all engines settled.

    Args:
        version: release of the engine.
        dtype: format in which is computed, and of weights that are not quantized.
        recipe: how quantized weights are stored; None where they are not.
        context: tokens of one sequence when it is full; the longest that the engine is told to take.
        concurrency: sequences of that length to be held at once.
        mesh: degrees of parallelism.
        device: each rank's; None where none is named.
        in_use: what other processes hold on it. [byte]
        said: the keys of the workload that were given, by name.
        search: whether the largest context and concurrency are looked for.
    """

    version: Version
    dtype: str
    recipe: Recipe | None
    context: int
    concurrency: int
    mesh: Mesh
    device: Device | None
    in_use: int
    said: Mapping[str, Any]
    search: bool = True


class Deployment(Record):
    """How an engine lays its memory out.

    Args:
        ranks: the ranks that differ, in the order of the global rank; each one's lines are what it holds at its peak.
        settled: keys of the workload that the engine decided or corrected.
        capacity: as a result holds it: ``kv_bytes``, ``kv_bytes_per_token``, ``tokens``, ``blocks``, ``max_context``,
            ``max_concurrency``; ``log`` are the engine's own lines.
        held: sequences of ``context`` tokens that its pool holds, at least, likely and at most; None where it takes
            what it is asked to hold.
        spare: bytes of the pool beyond what is asked for; negative where it lacks them. [byte]
        caveats: what has to be said of the answer.
        not_modelled: what is left out.
        doubt: reasons why it may take more than is answered; any of them forbids "fits".
    """

    ranks: tuple[Rank, ...]
    settled: Mapping[str, Any]
    capacity: Mapping[str, Any]
    held: tuple[float, float, float] | None = None
    spare: int = 0
    caveats: tuple[str, ...] = ()
    not_modelled: tuple[str, ...] = ()
    doubt: tuple[str, ...] = ()


Deploy = Callable[[Model, Setting], Deployment]


class Engine(Record):
    """One engine's policy.

    Args:
        name: as the command line takes it.
        releases: which are modelled.
        reference: the code.
        latent: a latent cache is kept as the latent; as the heads' own keys and values where not.
        logits: positions for which the prefill makes logits.
        takes: keys of a workload that this engine has beside those that all have.
        deploy: how it plans its memory; None where it runs the model's own code and takes what that takes.
        listed: whether ``data/served`` lists the architectures that it serves.
    """

    name: str
    releases: Releases
    reference: str
    latent: Since[bool] = (((0, 0), True),)
    logits: str = "last"
    takes: tuple[str, ...] = ()
    deploy: Deploy | None = None
    listed: bool = False


def engine(name: str | None) -> Engine:
    """The engine of that name; None is transformers' ``generate``.

    Raises:
        InputError: there is none.
    """
    asked = name or "transformers"
    return chosen("tonnage.engines", asked, "ENGINE", Engine, key="engine", what="engine")
