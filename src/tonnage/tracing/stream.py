"""What a trace tells: storages, the order of their births and deaths, and marks between them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from tonnage.errors import InputError
from tonnage.record import Record
from tonnage.timeline import Allocate, Event, Free

SCHEMA: Final = 1
PARAMETER, BUFFER, INPUT, GRADIENT, STATE = "parameter", "buffer", "input", "gradient", "state"
CACHE, RECURRENT, SCRATCH, WORKSPACE, OTHER = "cache", "recurrent", "scratch", "workspace", ""
UNREQUESTED: Final = frozenset((SCRATCH, WORKSPACE))
"""Kinds that no tensor holds: what kernels and libraries take for themselves."""

PHASE, LAYER = "phase", "layer"
LOSS: Final = "loss"
"""The module of what a loss function does, which is no module of the model."""
OUTSIDE: Final = -1
"""The layer of what belongs to none."""


class Born(NamedTuple):
    """One storage.

    Args:
        size: as asked for. [byte]
        op: that made it; for those that were there before, what they are.
        module: whose code ran; in a backward pass, whose node.
        kind: what it is for, where that is known; empty for tensors that come and go.
        layer: number of the layer it belongs to, or OUTSIDE.
        shape, dtype: of the tensor as it was made; the storage may be viewed otherwise.
        node: of autograd whose backward made it; empty in a forward pass.
    """

    size: int
    op: str
    module: str
    kind: str
    layer: int
    shape: tuple[int, ...]
    dtype: str
    node: str


class Mark(NamedTuple):
    """Where a phase or a layer begins: before the event at ``position``."""

    position: int
    what: str
    value: str | int


class Traced(Record):
    """A trace.

    Args:
        born: every storage.
        order: events: ``n`` is the birth of ``born[n]``, ``~n`` its death.
        marks: phases and layers, by position.
        told: what else is known: parameters, releases, kernels, the workload.
    """

    born: list[Born]
    order: list[int]
    marks: list[Mark]
    told: dict[str, Any]

    def phases(self) -> list[tuple[str, int, int]]:
        """Every phase with its first event and the one after its last."""
        starts = [(str(m.value), m.position) for m in self.marks if m.what == PHASE]
        ends = [position for _, position in starts[1:]] + [len(self.order)]
        return [(name, start, end) for (name, start), end in zip(starts, ends, strict=True)]

    def events(self) -> Iterator[Event]:
        """The one event stream of ``timeline``."""
        phase = ""
        begins = {m.position: str(m.value) for m in self.marks if m.what == PHASE}
        for position, n in enumerate(self.order):
            phase = begins.get(position, phase)
            if n < 0:
                yield Free(~n)
            else:
                b = self.born[n]
                yield Allocate(n, b.size, op=b.op, phase=phase, module=b.module)


def as_dict(traced: Traced) -> dict[str, Any]:
    """A trace as JSON: texts once, storages as rows of numbers."""
    texts: dict[str, int] = {}

    def number(text: str) -> int:
        return texts.setdefault(text, len(texts))

    rows = [
        [
            b.size,
            number(b.op),
            number(b.module),
            number(b.kind),
            b.layer,
            list(b.shape),
            number(b.dtype),
            number(b.node),
        ]
        for b in traced.born
    ]
    return {
        "schema": SCHEMA,
        "trace": traced.told,
        "texts": list(texts),
        "born": rows,
        "order": traced.order,
        "marks": [list(m) for m in traced.marks],
    }


def from_dict(found: Any, file: str | None = None) -> Traced:
    """A trace of its JSON.

    Raises:
        InputError: no trace, or one that contradicts itself.
    """
    if not is_trace(found):
        raise InputError(
            "no trace of tonnage", file=file, hint="tonnage trace MODEL --task train --out FILE writes one"
        )
    if found.get("schema") != SCHEMA:
        raise InputError(f"a trace of schema {found.get('schema')!r}, not {SCHEMA}", key="schema", file=file)
    try:
        texts = [str(t) for t in found["texts"]]
        born = [
            Born(int(size), texts[op], texts[module], texts[kind], int(layer), tuple(map(int, shape)), texts[dtype],
                 texts[node])
            for size, op, module, kind, layer, shape, dtype, node in found["born"]
        ]  # fmt: skip
        order = [int(n) for n in found["order"]]
        marks = [Mark(int(at), str(what), v if isinstance(v, int) else str(v)) for at, what, v in found["marks"]]
        sound = _sound(born, order)
    except (KeyError, TypeError, ValueError, IndexError) as e:
        raise InputError(f"a damaged trace: {e!r}"[:200], file=file) from None
    if not sound:
        raise InputError("a damaged trace: a storage dies before it is born, or twice", file=file)
    return Traced(born, order, marks, dict(found["trace"]))


def is_trace(found: Any) -> bool:
    """Whether a JSON value is meant to be a trace."""
    return isinstance(found, dict) and isinstance(found.get("trace"), dict) and isinstance(found.get("born"), list)


def _sound(born: list[Born], order: list[int]) -> bool:
    alive: set[int] = set()
    for n in order:
        if n >= 0:
            if n in alive or n >= len(born) or born[n].size < 0:
                return False
            alive.add(n)
        elif ~n in alive:
            alive.remove(~n)
        else:
            return False
    return True


def read(path: str) -> Traced:
    """A trace from a file.

    Raises:
        SourceError: the file cannot be read.
        InputError: it is no trace.
    """
    from tonnage.errors import SourceError

    try:
        with open(path, "rb") as file:
            found = json.load(file)
    except OSError as e:
        raise SourceError(f"cannot read {path}: {e.strerror or e}", file=path) from None
    except (ValueError, RecursionError) as e:
        raise InputError(f"not JSON: {e}"[:200], file=path) from None
    return from_dict(found, path)


def write(traced: Traced, path: str) -> None:
    """A trace into a file.

    Raises:
        SourceError: the file cannot be written.
    """
    from tonnage.errors import SourceError

    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(as_dict(traced), file, separators=(",", ":"))
    except OSError as e:
        raise SourceError(f"cannot write {path}: {e.strerror or e}", file=path) from None
