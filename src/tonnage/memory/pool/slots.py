"""A pool of single tokens beside slots of recurrent states, as SGLang divides it.

Reference: sgl-project/sglang 0.5.23 python/sglang/srt/model_executor/pool_configurator.py,
python/sglang/srt/mem_cache/kv_cache_configurator.py ``_profile_available_bytes``, ``_handle_max_mamba_cache``.
"""

from __future__ import annotations

from tonnage.record import Record


class Cells(Record):
    """Bytes on one rank.

    Args:
        full: of a token in all layers that keep every token. [byte]
        window: of a token in all layers with windows, where these have a pool of their own. [byte]
        state: of a slot of states. [byte]
        span: tokens of the widest window.
    """

    full: int
    window: int = 0
    state: int = 0
    span: int = 0


class Division(Record):
    """A rank's memory, divided.

    Args:
        tokens: of layers that keep every token, or of windows where all layers have them.
        window_tokens: of the windows' own pool.
        slots: of states, without the one that pads.
        kv_bytes: of the pool, its padding included. [byte]
        state_bytes: of the slots. [byte]
    """

    tokens: int
    window_tokens: int
    slots: int
    kv_bytes: int
    state_bytes: int


def divided(room: int, cells: Cells, *, page: int, ratio: float, states: float, slots: int | None = None) -> Division:
    """Tokens and slots that fit into a rank's room.

    Args:
        room: bytes beside the weights. [byte]
        cells: of the layers.
        page: tokens of a page.
        ratio: tokens of a window's pool for one of the full pool.
        states: memory of states for that of tokens.
        slots: of states, where said.

    >>> divided(1000, Cells(10), page=4, ratio=0.8, states=0.9).tokens
    100
    """
    held = 0
    if cells.state:
        if slots is None:
            slots = max(int((room * states / (1 + states) - cells.state) // cells.state), 0)
        held = (slots + 1) * cells.state
        room -= held
    room = max(room, 0)
    if cells.window and cells.full:
        tokens = int(room // (cells.full + ratio * cells.window)) // page * page
        window = int(tokens * ratio) // page * page
    else:
        tokens = room // (cells.full or cells.window) // page * page if cells.full or cells.window else 0
        window = tokens if cells.window else 0
    rows = ((tokens + page) * cells.full if cells.full else 0) + ((window + page) * cells.window if cells.window else 0)
    return Division(tokens, window, slots or 0, rows, held)


def sequences(d: Division, cells: Cells, context: int, slots_each: int) -> float:
    """Sequences of ``context`` tokens that a division holds."""
    found = []
    if cells.full:
        found.append(d.tokens / context)
    if cells.window:
        found.append(d.window_tokens / min(context, cells.span))
    if cells.state:
        found.append(d.slots / slots_each)
    return min(found, default=0.0)
