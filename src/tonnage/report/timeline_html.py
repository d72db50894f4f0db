"""A history as one HTML file: bytes alive over time by component, zoom, hover, and what is alive at any instant.

Plain JavaScript inside the file, which asks for nothing outside; what a profile says is text, never markup.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any, Final

from tonnage.history import Book, History, Life, Pile, Span
from tonnage.units import gib

MOST: Final = 200_000
"""Storages that are drawn one by one; the smallest beyond that stand as sums."""
STEPS: Final = 2_000
"""Moments at which those sums are told."""
NAMES: Final = 30
"""Components that have a colour of their own."""
FRAMES: Final = 40
"""Frames of a stack that are shown."""
PAGE: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "timeline.html")
REST: Final = "other:more kinds"


def render(history: History, title: str | None = None, most: int = 0) -> str:
    """The page.

    Args:
        history: to draw.
        title: of the page; the name of the file where None.
        most: that the axis reaches at least, so that two pages have one scale. [byte]
    """
    title = title if title is not None else os.path.basename(history.file)
    with open(PAGE, encoding="utf-8") as file:
        page = file.read()
    text = json.dumps({**data(history, title), "most": most}, separators=(",", ":"), ensure_ascii=False)
    # Inside a script element only these could end it or hide its end.
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    before, between = page.split("@TITLE@")
    head, tail = between.split("@DATA@")
    return f"{before}{escape(title)}{head}{text}{tail}"


def render_pair(left: History, right: History) -> str:
    """One page with two histories side by side, on one scale; each can be zoomed and asked by itself."""
    tiers = {history.tier: history for history in (left, right)}
    most = max(h.highest(tier) or 0 for h in (left, right) for tier in (*tiers, *h.others))
    frames = "".join(
        f'<iframe title="{escape(os.path.basename(h.file))}" srcdoc="{escape(render(h, most=most))}"></iframe>'
        for h in (left, right)
    )
    title = " | ".join(escape(os.path.basename(h.file)) for h in (left, right))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>'
        "body{margin:0;display:flex;flex-wrap:wrap}iframe{border:0;flex:1 1 560px;min-width:0;height:100vh}"
        f"</style></head><body>{frames}</body></html>\n"
    )


def data(history: History, title: str) -> dict[str, Any]:
    """What the page draws."""
    shown = reduced(history)
    names = _names(shown.lives)
    number = {name: i for i, name in enumerate(names)}
    texts: dict[str, int] = {"": 0}
    stacks: dict[tuple[str, ...], int] = {}

    def told(text: str) -> int:
        return texts.setdefault(text, len(texts))

    lives = shown.lives
    columns = {
        "size": [life.size for life in lives],
        "name": [number.get(life.name, number.get(REST, 0)) for life in lives],
        "what": [told(life.what) for life in lives],
        "where": [told(life.where) for life in lives],
        "stack": [stacks.setdefault(life.stack[:FRAMES], len(stacks)) for life in lives],
    }
    rows = [[told(frame) for frame in stack] for stack in stacks]
    return {
        "title": title,
        "about": about(history),
        "tier": history.tier,
        "names": names,
        "texts": list(texts),
        "stacks": rows,
        "lives": columns,
        "order": list(shown.order),
        "times": [shown.times[0], *(b - a for a, b in pairwise(shown.times))] if shown.times else [],
        "others": {tier: list(_changes(levels)) for tier, levels in shown.others.items()},
        "spans": [list(span) for span in shown.spans],
        "peak": shown.peak(),
        "begin": min(shown.begin, max(len(shown.order) - 1, 0)),
        "notes": list(shown.notes),
    }


def about(history: History) -> str:
    """One line: what the file is, and the most of each tier that it tells."""
    tiers = (history.tier, *(t for t in (*history.others, *history.peaks) if t != history.tier))
    most = ", ".join(f"{tier} {gib(history.highest(tier) or 0)}" for tier in dict.fromkeys(tiers))
    device = f" of {history.device}" if history.device else ""
    return f"{history.kind}{device}: {len(history.order):,} events, {len(history.lives):,} storages; at most {most}"


def _names(lives: Sequence[Life]) -> list[str]:
    """Components, the one with the largest storages at the bottom of the stack; beyond so many, one for all."""
    sums: dict[str, int] = {}
    for life in lives:
        sums[life.name] = sums.get(life.name, 0) + life.size
    lasting = ("weights", "other:before the recording", "other:buffers", "optimizer_state", "kv_cache", "gradients")
    ranked = sorted(sums, key=lambda n: (lasting.index(n) if n in lasting else len(lasting), -sums[n]))
    return ranked if len(ranked) <= NAMES else [*ranked[: NAMES - 1], REST]


def _changes(levels: Iterable[int]) -> Iterable[tuple[int, int]]:
    before = None
    for position, level in enumerate(levels):
        if level != before:
            yield position, level
            before = level


def reduced(history: History, most: int = MOST) -> History:
    """The same history with so many storages at most: the smallest become sums by component."""
    if len(history.lives) <= most:
        return history
    ranked = sorted(range(len(history.lives)), key=lambda n: -history.lives[n].size)
    kept = frozenset(ranked[:most])
    book, moved, taken = _summed(history, kept)
    told = (
        f"{len(history.lives) - most:,} storages, of {history.lives[ranked[most]].size:,} B at most, are drawn as sums"
    )
    return history.but(
        lives=book.lives,
        order=book.order,
        times=[history.times[i] for i in taken] if history.times else (),
        others={tier: [levels[i] for i in taken] for tier, levels in history.others.items()},
        spans=tuple(Span(s.name, moved[s.start], moved[s.stop]) for s in history.spans),
        begin=moved[history.begin],
        notes=(*history.notes, told),
    )


def _summed(history: History, kept: frozenset[int]) -> tuple[Book, list[int], list[int]]:
    """Events of what is kept and of sums; where each event went, and from which each came."""
    book, piles, sums = Book(), dict[str, Pile](), dict[str, int]()
    number: dict[int, int] = {}
    moved, taken = [0] * (len(history.order) + 1), list[int]()
    every = max(1, len(history.order) // STEPS)
    for position, n in enumerate(history.order):
        moved[position] = len(book.order)
        own = n if n >= 0 else ~n
        if own not in kept:
            life = history.lives[own]
            sums[life.name] = sums.get(life.name, 0) + (life.size if n >= 0 else -life.size)
        elif n >= 0:
            number[n] = len(book.lives)
            book.order.append(len(book.lives))
            book.lives.append(history.lives[n])
        else:
            book.order.append(~number[own])
        if position % every == every - 1 or position == len(history.order) - 1:
            _told(book, piles, sums)
        taken += [position] * (len(book.order) - len(taken))
    moved[-1] = len(book.order)
    return book, moved, taken


def _told(book: Book, piles: dict[str, Pile], sums: Mapping[str, int]) -> None:
    for name, level in sums.items():
        if name not in piles:
            piles[name] = Pile(book, Life(0, name, "many small storages"))
        piles[name].to(level)
