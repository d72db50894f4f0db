"""What every layer keeps of a sequence on one rank, in the numbers that engines plan with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tonnage.arch.compressed import Compressed
from tonnage.arch.model import Layer, Model
from tonnage.arch.untraced import Untraced
from tonnage.errors import UnsupportedError
from tonnage.memory.cache import states
from tonnage.placement.sharding import largest_shard
from tonnage.record import Record
from tonnage.tensors import Tensor

KEYS: Final = ("keys", "encoder keys")
VALUES: Final = ("values", "encoder values")
CACHED: Final = (*KEYS, *VALUES, "latent", "rotary key", "index keys")
MIXERS: Final = ("GatedDelta", "KimiDelta", "Mamba1", "Mamba2", "ShortConv", "Lightning")
"""Mixers whose states engines with a pool have slots or pages for."""
CONVOLUTIONS: Final = ("conv_states", "conv1d_state")
"""States that hold the last inputs of a convolution; the others are recurrences."""


class Held(Record):
    """One state tensor of a mixer.

    Args:
        name: as the block calls it.
        elements: of one sequence on this rank; of a convolution those of one token.
        taps: tokens that the convolution sees, its own included; 0 for a recurrence.
    """

    name: str
    elements: int
    taps: int = 0


class Kept(Record):
    """What one layer keeps; a layer may keep several (attention beside a mixer, a latent and its indexer's keys).

    Args:
        kind: "full", "sliding", "chunked", "cross", "latent", "indexer" or "state"; where keys are compressed
            "entries", the indexer's "index entries", and what waits for the next entry, "waiting".
        heads: key/value heads of this rank, those held twice included.
        key: width of a key head; rank of a latent; width of an indexer's key.
        value: width of a value head; rotary width beside a latent.
        window: tokens of a window or of a chunk; None for all.
        states: of a mixer.
        mixer: class of the mixer, whose rules for formats differ.
        rate: tokens of an entry.
    """

    kind: str
    heads: int = 0
    key: int = 0
    value: int = 0
    window: int | None = None
    states: tuple[Held, ...] = ()
    mixer: str = ""
    rate: int = 1

    @property
    def elements(self) -> int:
        """Elements that a token adds. [element]"""
        return self.key + self.value if self.kind == "latent" else self.heads * (self.key + self.value)


def kept(model: Model, pieces: Mapping[str, int], *, entries: bool = False) -> tuple[tuple[Kept, ...], ...]:
    """What each layer of the model keeps on the fullest rank, layer by layer.

    Args:
        model: any model whose state is of a kind that engines know.
        pieces: axis to number of cuts, of dense tensors.
        entries: whether compressed keys are asked for; they are refused where not.

    Raises:
        UnsupportedError: a kind of state that is not modelled in pools.
    """
    found: dict[int, tuple[Kept, ...]] = {}
    out: list[tuple[Kept, ...]] = []
    for stack in model.stacks:
        for layer in stack.layers:
            if id(layer) not in found:
                found[id(layer)] = tuple(_layer(layer, pieces, model.model_type, entries))
            out.append(found[id(layer)])
    return tuple(out)


def _layer(layer: Layer, pieces: Mapping[str, int], model_type: str, entries: bool) -> Iterator[Kept]:
    for sub in layer.sublayers:
        packed = next((b for b in (sub.block, *getattr(sub.block, "parts", ())) if isinstance(b, Compressed)), None)
        if entries and packed is not None:
            yield from _compressed(packed)
            continue
        one = layer.but(sublayers=(sub,))
        tensors = [(largest_shard(t, pieces), window) for t, window in states(one, 1, 1, repeated=False)]
        named: dict[str, tuple[Tensor, int | None]] = {t.name: (t, window) for t, window in tensors}
        mixers = tuple(_held(t) for t, _ in tensors if t.role == "state")
        unknown = [name for name, (t, _) in named.items() if t.role == "cache" and name not in CACHED]
        if unknown or len(named) < len(tensors) or (mixers and _mixer(sub.block) not in MIXERS):
            raise UnsupportedError(
                f"how engines keep the state of {model_type} in pages is not modelled yet",
                key="engine", value=model_type, hint="--engine transformers",
            )  # fmt: skip
        yield from _attention(named, _part(sub.block, "chunked") is True)
        if mixers:
            yield Kept("state", states=mixers, mixer=_mixer(sub.block))


def _attention(named: Mapping[str, tuple[Tensor, int | None]], chunked: bool) -> Iterator[Kept]:
    """Keys and values, a latent, an indexer's keys."""
    key = next((named[name] for name in KEYS if name in named), None)
    value = next((named[name] for name in VALUES if name in named), None)
    if key is not None and value is not None:
        (k, window), (v, _) = key, value
        kind = "cross" if k.name.startswith("encoder") else "full" if window is None else "sliding"
        kind = "chunked" if kind == "sliding" and chunked else kind
        yield Kept(kind, dict(k.axes)["K"], dict(k.axes)["H"], dict(v.axes)["H"], window)
    if "latent" in named:
        t, window = named["latent"]
        rope = named["rotary key"][0] if "rotary key" in named else None
        width = 0 if rope is None else dict(rope.axes)["R"]
        yield Kept("latent", 1, dict(t.axes)["R"], width, window)
    if "index keys" in named:
        yield Kept("indexer", 1, dict(named["index keys"][0].axes)["X"])


def _compressed(block: Compressed) -> Iterator[Kept]:
    """A window of keys that are values, entries of many tokens, the indexer's, and what waits for the next entry."""
    turned = block.compressor.rotary[0].width if block.compressor is not None else block.H // 8
    yield Kept("entries", 1, block.H - turned, turned, block.window)
    for part, kind in ((block.compressor, "entries"), (block.indexer, "index entries")):
        if part is not None:
            inner = turned if kind == "entries" else 0
            span = part.rate * (2 if part.overlaps else 1)
            yield Kept(kind, 1, part.H - inner, inner, rate=part.rate)
            yield Kept("waiting", 1, part.H * (4 if part.overlaps else 2), 0, span, rate=part.rate)


def _held(t: Tensor) -> Held:
    """A state without its batch; taps of a convolution apart."""
    n, taps = 1, 0
    for letter, size in t.axes:
        if letter == "C" and t.name in CONVOLUTIONS:
            # RG-LRU states the inputs that are kept, the others the whole filter.
            taps = size + (t.name == "conv1d_state")
        elif letter != "B":
            n *= size
    return Held(t.name, n, taps)


def _mixer(block: Any) -> str:
    """Class of the part that keeps a state."""
    inner = [part for part in getattr(block, "parts", ()) if hasattr(part, "state")]
    found = inner[0] if inner else block
    # A block whose forward pass is not modelled stands around the one that keeps the state.
    return type(found.block if isinstance(found, Untraced) else found).__name__


def _part(block: Any, name: str) -> Any:
    """An attribute of a block or of one of its parts."""
    for part in (block, *getattr(block, "parts", ())):
        if hasattr(part, name):
            return getattr(part, name)
    return None
