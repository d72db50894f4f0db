"""A result as a table for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from tonnage.estimate.result import Result
from tonnage.timeline import Component, Rank
from tonnage.units import count, gib

BAR: Final = 12
PAIRED: Final = ("dpo", "orpo", "cpo", "simpo", "reward", "embed")
"""Objectives whose batch is counted in pairs of sequences."""
LABELS: Final = {
    "requested": "tensors",
    "allocated": "allocated",
    "reserved": "reserved",
    "device": "device",
}
MEANS: Final = {
    "requested": "live tensors",
    "allocated": "torch.cuda.max_memory_allocated",
    "reserved": "torch.cuda.max_memory_reserved",
    "device": "what the driver shows",
}
APART: Final = ("llamacpp", "ollama", "lmstudio", "mlx", "executorch")
"""Engines that allocate without torch."""
THEIRS: Final = MEANS | {
    "allocated": "buffers, padded as the engine pads them",
    "reserved": "and what its allocator keeps",
}


def width() -> int:
    """Columns of the terminal; 110 where there is none."""
    # shutil's function does this as well, but imports four compressors.
    import os

    said = os.environ.get("COLUMNS", "")
    try:
        found = int(said) if said.isdecimal() and int(said) else os.get_terminal_size().columns
    except OSError:
        return 110
    return max(60, min(found, 160))


def render(result: Result) -> str:
    """The answer, its lines, the verdict, and what it leaves out."""
    columns = width()
    rank = result.fullest
    parts = [heading(result), *verdict_lines(result), ""]
    parts += _lines(rank, columns, THEIRS if result.workload.get("engine") in APART else MEANS)
    parts += _host(result, columns)
    parts += ["", *_instants(rank, result)]
    if result.capacity is not None:
        parts += ["", *_capacity(result)]
    for title, notes in (("note", result.caveats), ("not modelled", result.not_modelled)):
        parts += wrapped(title, notes, columns)
    if "table" in result.extras:
        from tonnage.report.inverse import render as rows

        parts += ["", rows(result.extras["table"])]
    if "command" in result.extras:
        parts += ["", *(f"# {note}" for note in result.extras["command"]["notes"]), result.extras["command"]["text"]]
    return "\n".join(parts)


def _tuned(m: Mapping[str, Any], w: Mapping[str, Any]) -> str:
    """Adapters and what they stand beside, or which part is trained."""
    if w["adapter"] is None:
        part = bool(w["train_only"]) or w["freeze_layers"] is not None
        return f"; {count(m['trainable_parameters'])} trained" if part else ""
    frozen = f", the rest frozen in {w['quant']}" if w["quant"] != "none" else ""
    rank = f" of rank {w['lora_rank']}" if w["lora_rank"] else ""
    on = f" on {', '.join(w['lora_targets'])}" if w["lora_targets"] else ""
    return f"; {w['adapter']}{rank}{on}: {count(m['trainable_parameters'])} trained{frozen}"


def heading(result: Result) -> str:
    """What was asked, in one line."""
    m, w = result.model, result.workload
    size = f"{count(m['parameters'])} parameters"
    if m["active_parameters"] != m["parameters"]:
        size += f" ({count(m['active_parameters'])} active)"
    if w["task"] == "train":
        counted = "pair" if w.get("objective") in PAIRED else "sequence"
        sequences = counted if w["batch"] == 1 else f"{counted}s"
        objective = "" if w.get("objective") in (None, "sft") else f"{w['objective']}, "
        how = f"{objective}{w['precision']}, {w['optimizer']}, {w['batch']} {sequences} of {w['seq']:,} tokens"
        how += ", recomputing" if w["recompute"] == "full" else ""
        how += _tuned(m, w)
    elif w["task"] == "trace":
        how = str(w["target"])
    else:
        sequences = "sequence" if w["concurrency"] == 1 else "sequences"
        stored = f", {w['quant']}" if w["quant"] != "none" else ""
        how = f"{w['dtype']}{stored}, {w['engine']}, {w['concurrency']} {sequences} of {w['context']:,} tokens"
    return f"{w['task']} {m['name']}: {size}; {how}"


def verdict_lines(result: Result) -> list[str]:
    """Whether it fits, and what would make it fit."""
    fit, rank = result.fit, result.fullest
    device, low, high = rank.tier("device"), rank.tier("device", "low_bytes"), rank.tier("device", "high_bytes")
    needs = f"{gib(device)} ({gib(low)} to {gib(high)})"
    if fit is None:
        return [f"needs {needs}; name a device with --gpu for a verdict"]
    spare = f"{gib(fit.spare_bytes)} to spare" if fit.spare_bytes >= 0 else f"{gib(-fit.spare_bytes)} too much"
    pooled = (result.capacity or {}).get("blocks") is not None or (result.capacity or {}).get("tokens") is not None
    words = {"fits": "FITS", "does not fit": "DOES NOT FIT", "uncertain": "UNCERTAIN"}[fit.verdict]
    held = 0 if pooled else fit.capacity_bytes - device - fit.spare_bytes
    spare = f"pool: {spare}" if pooled else spare
    others = f", {gib(held)} in use by others" if held else ""
    out = [f"{words} on {fit.device}: {needs} of {gib(fit.capacity_bytes)}{others}, {spare}"]
    if fit.suggestion is not None:
        s = fit.suggestion
        alters = f"; changes {', '.join(s.alters)}" if s.alters else ""
        out.append(f"it would fit with {s.text}: {gib(s.device_bytes)}{alters}")
    return out


def _lines(rank: Rank, columns: int, means: Mapping[str, str]) -> list[str]:
    whole = max(rank.tier("device"), 1)
    out = []
    for tier in ("requested", "allocated", "reserved", "device"):
        for c in (c for c in rank.components if c.tier == tier):
            out.append(_line(c, whole, columns))
        low, high = rank.tier(tier, "low_bytes"), rank.tier(tier, "high_bytes")
        span = f" ({gib(low)} to {gib(high)})" if low != high else ""
        out.append(f"{'= ' + LABELS[tier]:<17}{gib(rank.tier(tier)):>12}  {' ' * BAR}  {means[tier]}{span}")
    return out


def _host(result: Result, columns: int) -> list[str]:
    """What lies in host memory, of all ranks."""
    found = [c for rank in result.ranks for c in rank.components if c.tier == "host"]
    whole = sum(c.bytes for c in found)
    total = f"{'= host':<17}{gib(whole):>12}  {' ' * BAR}  beside the device"
    return [*(_line(c, max(whole, 1), columns) for c in found), total] if found else []


def _line(c: Component, whole: int, columns: int) -> str:
    name = c.name.removeprefix("other:").replace("_", " ")
    text = f"  {name:<15}{gib(c.bytes):>12}  {bar(c.bytes, whole)}  {c.trust:<8} "
    return text + cut(c.why, columns - len(text))


def bar(part: int, whole: int) -> str:
    """A bar of eighths of a character, as long as ``part`` is of ``whole``."""
    eighths = round(8 * BAR * part / whole) if part > 0 else 0
    full, rest = divmod(min(eighths, 8 * BAR), 8)
    return ("█" * full + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[rest]).ljust(BAR)


def cut(text: str, columns: int) -> str:
    """As much of a text as fits."""
    columns = max(columns, 24)
    return text if len(text) <= columns else text[: columns - 1].rstrip() + "…"


def _instants(rank: Rank, result: Result) -> list[str]:
    second = rank.runner_up
    text = f"peak at {rank.peak.name!r}, {gib(rank.peak.bytes)} allocated"
    if second is not None:
        text += f"; next {second.name!r}, {gib(second.bytes)}"
    between = {"train": "steps", "serve": "requests"}.get(result.workload["task"], "calls")
    return [text, f"resident between {between}: {gib(rank.static_bytes)}"]


def _capacity(result: Result) -> list[str]:
    c = result.capacity or {}
    out = [f"state of the sequences: {gib(c['kv_bytes'])}; one token more: {c['kv_bytes_per_token']:,} B"]
    if c["tokens"] is not None:
        return [*out, *_pool(result, c)]
    logged = [line for line in c["log"] if ": " in line]
    if c["max_context"] is not None:
        told = "".join(f" ({note})" for note in c["log"] if note not in logged)
        out.append(
            f"largest context that fits: {c['max_context']:,} tokens{told}; largest concurrency: "
            f"{c['max_concurrency']:,}"
        )
    return [*out, *(f"log: {line}" for line in logged)]


def _pool(result: Result, c: Mapping[str, Any]) -> list[str]:
    """A pool of an engine: its size, what it holds, and the engine's own lines."""
    w = result.workload
    blocks = f" in {c['blocks']:,} blocks" if c["blocks"] is not None else ""
    out = [
        f"pool: {c['tokens']:,} tokens{blocks}",
        f"largest context of {w['concurrency']:,} at once: {c['max_context']:,} tokens; largest concurrency at "
        f"{w['context']:,} tokens: {c['max_concurrency']:,}",
    ]
    return [*out, *(f"log: {line}" for line in c["log"])]


def wrapped(title: str, notes: Sequence[str], columns: int) -> list[str]:
    """Notes under one title, broken at the terminal's edge."""
    out = []
    for i, note in enumerate(notes):
        lead = f"{title + ':':<14}" if i == 0 else " " * 14
        for line in _broken(note, columns - 14):
            out.append(lead + line)
            lead = " " * 14
    return out


def _broken(text: str, columns: int) -> Iterable[str]:
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > columns:
            yield line
            line = word
        else:
            line = f"{line} {word}" if line else word
    yield line


def table(rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Columns as wide as their widest cell; those in ``right`` are set right."""
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
