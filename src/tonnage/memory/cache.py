"""Attention and recurrent state as an engine keeps it."""

from __future__ import annotations

from collections.abc import Iterator

from tonnage.arch.model import Layer, Model
from tonnage.formats import FORMATS, Format
from tonnage.memory.passes import blocks
from tonnage.tensors import Tensor, size
from tonnage.timeline import Level


def states(
    layer: Layer, B: int, S: int, *, latent: bool = True, repeated: bool = True
) -> Iterator[tuple[Tensor, int | None]]:
    """The state tensors of one layer with the window of the block that owns them.

    Args:
        layer: any layer.
        B: sequences.
        S: tokens a sequence.
        latent: a latent cache is kept as the latent; as the heads' own keys and values where not.
        repeated: keys and values that the modelled code first repeats for every query head are cached so (Falcon-40B
            in transformers; other engines cache them once).
    """
    for sub in layer.sublayers:
        block = sub.block
        window = getattr(block, "window", None)
        repeats = repeated and getattr(block, "caches_queries", False)
        expanded = getattr(block, "expanded_state", None) if repeats or not latent else None
        state = expanded or getattr(block, "state", None)
        if state is not None:
            for t in state(B, S):
                yield t, window


def stored_tokens(S: int, window: int | None) -> int:
    """Tokens that a layer keeps of ``S`` in steady decoding: a window keeps its own length.

    transformers shows ``window - 1`` of them and stores one more.
    """
    return S if window is None else min(S, window)


def state_bytes(
    model: Model, B: int, S: int, fmt: Format, *, latent: bool = True, role: str = "cache", whole: bool = False
) -> Level:
    r"""Bytes of a model's state on one device.

    .. math:: \sum_{\ell} B \min(S, W_\ell) \, (K H + K H_v) \, w

    Args:
        model: any model.
        B: sequences.
        S: tokens a sequence. [token]
        fmt: storage of one element, unless the kind keeps a part in a format of its own.
        latent: as in ``states``.
        role: "cache" for what grows with every token, "state" for what does not.
        whole: windowed layers still hold the whole prompt, as right after it was read.

    Returns:
        The level of all layers. [byte]

    Leaves out: block tables, pages, shared prefixes.

    Reference: Pope et al. 2022, arXiv:2211.05102, section 2.
    """
    total = Level()
    for layer, times in (pair for stack in model.stacks for pair in stack.distinct()):
        total = total + layer_state(layer, B, S, fmt, latent=latent, role=role, whole=whole).times(times)
    return total


def layer_state(
    layer: Layer, B: int, S: int, fmt: Format, *, latent: bool = True, role: str = "cache", whole: bool = False
) -> Level:
    """State of one layer. [byte]"""
    requested = allocated = 0
    for t, window in states(layer, B, S, latent=latent):
        if t.role != role:
            continue
        kept = S if whole else stored_tokens(S, window)
        form = fmt if t.dtype is None else FORMATS[t.dtype]
        n = form.nbytes(size(t.axes) // S * kept if role == "cache" else size(t.axes))
        requested += n
        allocated += blocks(n)
    return Level(requested, allocated)


def has_cache(model: Model) -> bool:
    """Whether decoding keeps anything for each token."""
    return any(
        t.role == "cache" for stack in model.stacks for layer, _ in stack.distinct() for t, _ in states(layer, 1, 1)
    )
