"""A result as HTML with bars, for notebooks: one self-contained table, no script, no outside reference."""

from __future__ import annotations

from html import escape

from tonnage.estimate.result import Result
from tonnage.report.text import MEANS, heading, verdict_lines
from tonnage.timeline import TIERS, Component
from tonnage.units import gib

COLOURS = {"exact": "#2f6f9f", "derived": "#3f8f5f", "measured": "#7a5fa0", "assumed": "#b0762f"}
CELL = "padding:1px 10px 1px 0;text-align:left;vertical-align:top"


def render(result: Result) -> str:
    """The answer, its lines with bars, and the verdict."""
    rank = result.fullest
    whole = max(rank.tier("device"), 1)
    rows = []
    for tier in TIERS:
        rows += [_row(c, whole) for c in rank.components if c.tier == tier]
        low, high = rank.tier(tier, "low_bytes"), rank.tier(tier, "high_bytes")
        span = f" ({gib(low)} to {gib(high)})" if low != high else ""
        rows.append(
            f'<tr style="font-weight:600"><td style="{CELL}">{tier}</td><td style="{CELL};text-align:right">'
            f'{gib(rank.tier(tier))}</td><td></td><td></td><td style="{CELL}">{escape(MEANS[tier] + span)}</td></tr>'
        )
    head = "".join(f"<div>{escape(line)}</div>" for line in (heading(result), *verdict_lines(result)))
    return (
        f'<div style="font-family:sans-serif">{head}<table style="border-collapse:collapse;margin-top:8px">'
        + "".join(rows)
        + f"</table><div>peak at {escape(rank.peak.name)}</div></div>"
    )


def _row(c: Component, whole: int) -> str:
    share = 160 * max(c.bytes, 0) / whole
    bar = f'<div style="background:{COLOURS[c.trust]};height:11px;width:{share:.1f}px;margin-top:4px"></div>'
    name = c.name.removeprefix("other:").replace("_", " ")
    return (
        f'<tr><td style="{CELL}">{escape(name)}</td><td style="{CELL};text-align:right">{gib(c.bytes)}</td>'
        f'<td style="{CELL};width:164px">{bar}</td><td style="{CELL}">{c.trust}</td>'
        f'<td style="{CELL}">{escape(c.why)}</td></tr>'
    )
