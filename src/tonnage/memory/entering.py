"""What a pass settles before its layers run: its tape, positions, masks, and gradients that are there already."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tonnage.arch.ends import Stem
from tonnage.arch.model import Stack
from tonnage.arch.tape import Tape, Value
from tonnage.tensors import Axis

if TYPE_CHECKING:
    from tonnage.arch.ends import Head
    from tonnage.arch.forward import Forward
    from tonnage.arch.model import Layer, Model
    from tonnage.arch.sight.deep import Deep
    from tonnage.arch.tuning.adapters import Tuning
    from tonnage.memory.caching import Caching
    from tonnage.memory.compiled import Compiled
    from tonnage.memory.deepened import Deepening
    from tonnage.memory.lending import Lending
    from tonnage.memory.prefixed import Waiting
    from tonnage.memory.recompute import Recompute


def tie(tape: Tape, model: Model, tuning: Tuning | None) -> Head | None:
    """The head as it is trained; the tape is told of the weight that it shares, and what of the ends is trained."""
    head, own = model.head, None if tuning is None else tuning.own
    if own is not None and own.copied and head is not None:
        # What is trained is a copy of the table or of the head, and the other is not.
        head = head.but(alias_of=None, bias_alias_of=None)
    tape.tied = None if head is None else head.alias_of
    if tuning is not None and tuning.rows is not None:
        tape.tied = tuning.rows.name if tuning.rows.tied else None
    if own is not None:
        tape.trained = own.ends.__contains__
    return head


def waiting(f: Forward) -> Waiting | None:
    """Keys and values that layers find in their cache; None where it is empty."""
    if not f.prefixes:
        return None
    # Imported late: most models start with empty caches.
    from tonnage.memory.prefixed import Waiting

    return Waiting(f.prefixes)


def lending(
    stack: Stack, f: Forward, recompute: Recompute | None, compiled: Compiled | None, *, held: bool
) -> Lending | None:
    """Which layers make keys and values for others, which checkpoints may hold; None where every layer has its own.

    Raises:
        UnsupportedError: a way to train whose part in this is not told.
    """
    if not any(getattr(sub.block, "borrows", None) for layer, _ in stack.distinct() for sub in layer.sublayers):
        return None
    # Imported late: Gemma's smallest models alone.
    from tonnage.memory.lending import Lending, refuse

    refuse(f, recompute, compiled)
    return Lending(stack, f, held=held)


def position_ids(tape: Tape, stem: Stem, B: Axis, T: Axis, cached: int = 0) -> list[Value]:
    """The position ids that the model hands to every layer; OPT's are a view of those of all that is cached."""
    if stem.position_ids in ("named", "none"):
        return []
    if stem.position_ids == "batch":
        return [tape.new("position ids", (B, ("S", cached + T[1])), "int64")]
    return [tape.new("position ids", (T,), "int64")] if stem.rotary or stem.position_ids == "row" else []


def windows(stack: Stack, keys: int) -> set[int | None]:
    """The windows of a stack's attention blocks, and those for which the model makes masks in any case.

    Where later tokens are not hidden, a mask is made only if there are as many tokens as the window has.
    """
    found: set[int | None] = set(stack.masks)
    for layer, _ in stack.distinct():
        for sub in layer.sublayers:
            if not hasattr(sub.block, "window"):
                continue
            window = sub.block.window
            if getattr(sub.block, "causal", True) or (window is not None and keys >= window):
                found.add(window)
    return found


def begun_by(stack: Stack, tuning: Tuning | None) -> list[frozenset[str]]:
    """For each layer, parameters that it shares with layers above, whose gradients are there before its own."""
    found: list[frozenset[str]] = []
    above: frozenset[str] = frozenset()
    for layer in reversed(stack.layers):
        found.append(above)
        above = above if tuning is None else above | tuning.banks(layer)
    return found[::-1]


def caching(stack: Stack, recompute: Recompute | None, *, held: bool = False) -> Callable[[Layer], Caching | None]:
    """What runs a layer that caches keys and values, ``held`` with the output; nothing of its own where none are."""
    if not stack.caches or recompute is not None:
        return lambda layer: None
    # Imported late: a training step caches none where its config is the model's own.
    from tonnage.memory.caching import Caching

    return lambda layer: Caching(layer.forward, held=held)


def deepened(deep: Deep | None, stack: Stack) -> Deepening | None:
    """The layers to which something is added that was seen; None where nothing is."""
    if deep is None:
        return None
    # Imported late: Qwen3-VL alone.
    from tonnage.memory.deepened import Deepening

    return Deepening(deep, len(stack.layers))


def tape_of(hosts: bool, compiled: Compiled | None) -> type[Tape]:
    """The tape: the usual one, one that keeps nothing on the device, or one that notes what is compiled."""
    if compiled is not None:
        return compiled.tape()
    if not hosts:
        return Tape
    # Imported late: most passes keep what they save.
    from tonnage.arch.hosted import HostedTape

    return HostedTape


def frozen(name: str) -> bool:
    """No weight of the model itself is trained."""
    return False
