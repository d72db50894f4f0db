"""llama.cpp as a server starts it, whichever program that is: what is asked, what is refused, what else would fit.

Follows ggml-org/llama.cpp v0.5.0: src/llama-model.cpp, src/llama-context.cpp, src/llama-kv-cache*.cpp,
src/llama-graph.cpp, ggml/src/ggml-alloc.c, ggml/src/ggml-backend.cpp, ggml/src/ggml-cuda/, common/common.cpp,
tools/server/server.cpp, tools/server/server-context.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.errors import InputError
from tonnage.memory.ggml.build import Asked, Build, build
from tonnage.memory.ggml.cache import PRINTED
from tonnage.memory.ggml.choices import MOST_SLOTS, at, checked, chosen, drafts
from tonnage.memory.ggml.fitting import settled_by_fit
from tonnage.memory.ggml.report import log, ranks
from tonnage.memory.ggml.served import Defaults, Served
from tonnage.memory.ggml.vision.served import Room, Seen, seen
from tonnage.memory.ggml.vision.served import log as picture_log
from tonnage.record import Record
from tonnage.timeline import Rank

NOT_MODELLED: Final = (
    "split modes row and tensor; prediction layers that draft; adapters",
    "the server's prompt cache in host memory (--cache-ram, 8 GiB at most by default) and its context checkpoints",
)
UNKNOWN: Final = "the graph of this architecture: its compute buffer is a range"
SAMPLING: Final = "the draft's sampling on the device (--spec-draft-backend-sampling)"


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
    checked(model, s, d)
    a, caveats = chosen(model, s, d)
    room = Room(context=a.context // (1 if a.unified else a.sequences), ubatch=a.tokens)
    pictures, unseen = seen(model, a.names, s.said, room, cuda=a.cuda)
    fits, told = settled_by_fit(a, s, d, pictures)
    caveats += (*told, *unseen, *(pictures.caveats if pictures is not None else ()))
    found = build(fits)
    drafted = _draft(found, s)
    settled = _settled(a, fits, s)
    missing = [UNKNOWN] if found.compute is None else []
    missing += [SAMPLING] if drafted is not None else []
    return Answer(
        ranks=ranks(found, d.reference, drafted, pictures),
        settled=settled,
        capacity=_capacity(model, s.but(context=settled.get("context", s.context)), found, drafted, pictures, d),
        caveats=caveats,
        not_modelled=(*missing, *d.not_modelled, *NOT_MODELLED),
        doubt=(*model.ignored,),
    )


def _draft(found: Build, s: Served) -> Build | None:
    """The draft model's buffers, for a context of as many tokens; None without one."""
    model = found.asked.model.beside.get("draft")
    return None if model is None else build(drafts(found.asked, model, s))


def _settled(before: Asked, a: Asked, s: Served) -> dict[str, Any]:
    out: dict[str, Any] = {
        "tp": 1,
        "pp": max(len(a.names), 1),
        "kv_dtype": PRINTED.get(a.k, a.k),
        "kv_dtype_v": PRINTED.get(a.v, a.v),
        "n_gpu_layers": a.placing.offloaded,
        "parallel": a.sequences,
        "kv_unified": a.unified,
        "flash_attn": "on" if a.flash else "off",
        "batch_size": a.batch,
        "ubatch_size": a.tokens,
        "logits": "all" if a.outputs == a.batch > a.sequences else "last",
        "swa_full": a.swa_full,
        "kv_offload": not a.host_cache,
        "mmap": a.mmap,
        "op_offload": a.fetch,
        "fit": bool(s.said.get("fit")),
    }
    if a.placing is not before.placing:
        # Said so, it would keep --fit from moving what it moved.
        out["n_gpu_layers"] = None
    if a.context != before.context:
        each = a.context // (s.concurrency if a.unified else a.sequences)
        out["context"] = min(each, a.model.positions or each)
    return out


def _capacity(
    model: Model, s: Served, found: Build, drafted: Build | None, pictures: Seen | None, d: Defaults
) -> dict[str, Any]:
    """State of the workload, and what else would fit."""
    fullest = max(found.devices, key=lambda i: found.caches.on(i) + found.caches.states[i])
    room: dict[str, Any] = {"max_context": None, "max_concurrency": None}
    if s.device is not None and s.search and found.asked.names:
        room = _room(model, s, s.device, found.asked, pictures, d)
    return {
        "kv_bytes": found.tensors.on(fullest) + found.tensors.states[fullest],
        "kv_bytes_per_token": found.per_token(fullest),
        "tokens": None,
        "blocks": None,
        **room,
        "log": [
            *log(found),
            *(_second(drafted) if drafted is not None else ()),
            *(picture_log(pictures) if pictures is not None else ()),
        ],
    }


def _second(draft: Build) -> list[str]:
    """What is printed of a draft model."""
    return [f"common_speculative_init_result: loading draft model '{draft.asked.model.name}'", *log(draft)]


def _room(model: Model, s: Served, device: Device, placed: Asked, pictures: Seen | None, d: Defaults) -> dict[str, Any]:
    """Largest context at this concurrency and largest concurrency at this context that fit, layers placed so."""

    def fits(context: int, concurrency: int) -> bool:
        try:
            a, _ = chosen(model, s.but(context=context, concurrency=concurrency), d)
        except InputError:
            return False
        found = build(at(a, s, d, a.context).but(placing=placed.placing), sampled=True)
        lines = ranks(found, d.reference, _draft(found, s), pictures)
        need = max(r.tier("device", "high_bytes") for r in lines)
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
