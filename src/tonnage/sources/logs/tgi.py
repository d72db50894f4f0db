"""What text-generation-inference prints about memory, from 2.0 to 3.3.7: settings, blocks and tokens, and no sizes.

Wordings: huggingface/text-generation-inference v3.3.7, launcher/src/main.rs (arguments as Rust prints a structure,
attention, prompt tokens), server/text_generation_server/models/flash_causal_lm.py ``warmup`` (blocks),
backends/v3/src/lib.rs and main.rs (tokens and lengths).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from tonnage.sources.logs import Log
from tonnage.sources.logs._sizes import pattern, plain
from tonnage.workload.told import Told

OURS: Final = re.compile(r"text_generation|text-generation|KV-cache blocks: |max_batch_prefill_tokens")
BLOCKS: Final = pattern(r"KV-cache blocks: <whole>, size: <whole>")
TOKENS: Final = pattern(r"Setting max batch total tokens to <whole>")
PROMPT: Final = pattern(r"Default `max_batch_prefill_tokens` to <whole>")
SHARDS: Final = pattern(r"Sharding model on <whole> processes")
LENGTH: Final = pattern(r"Maximum total tokens defaulted to <whole>")
ATTENTION: Final = re.compile(r"Using attention (\w+)|Using Attention = (\w+)")
ARGUMENTS: Final = re.compile(r"\bArgs \{")
STOPPED: Final = re.compile(
    r"(Not enough memory to handle .{0,120}|`max_total_tokens` must be <= .{0,120}|CUDA out of memory.{0,160})"
)
COUNTS: Final = {
    "num_shard": "tp", "max_total_tokens": "context", "max_batch_prefill_tokens": "max_batch_prefill_tokens",
}  # fmt: skip
LONGEST: Final = 200
"""Lines of arguments at most."""


def read(lines: Iterable[str]) -> Told | None:
    """What the lines tell; the first warm-up counts."""
    said: dict[str, Any] = {}
    counts: dict[str, float] = {}
    notes: dict[str, None] = {}
    arguments: list[str] | None = None
    model, ours = None, False
    for raw in lines:
        line = plain(raw)
        ours = ours or OURS.search(line) is not None
        start = ARGUMENTS.search(line)
        if start is not None and arguments is None:
            arguments = [line[start.end() :]]
        elif arguments is not None and 0 < len(arguments) < LONGEST and not _ended(arguments[-1]):
            arguments.append(line)
        _line(line, said, counts)
        attention, stopped = ATTENTION.search(line), STOPPED.search(line)
        if attention is not None:
            notes[f"it computes attention with {attention.group(1) or attention.group(2)}"] = None
        if stopped is not None and ours:
            notes[f"it stopped: {stopped.group(1).strip()}"] = None
    if arguments is not None:
        model, stated = _stated(" ".join(arguments))
        said = {**said, **stated}
    if not ours or not (counts or said):
        return None
    return Told(engine="tgi", model=model, said=said, counts=counts, notes=tuple(notes))


def _ended(line: str) -> bool:
    return line.rstrip().endswith("}") and not line.startswith("    ")


def _line(line: str, said: dict[str, Any], counts: dict[str, float]) -> None:
    """Figures of one line."""
    blocks, tokens = BLOCKS.search(line), TOKENS.search(line)
    if blocks is not None:
        counts.setdefault("blocks", int(blocks.group(1)))
        counts.setdefault("block_size", int(blocks.group(2)))
    if tokens is not None:
        # Blocks are told by the first shard, tokens are those of the shard that has fewest.
        counts.setdefault("tokens", int(tokens.group(1)))
    for key, says in (("max_batch_prefill_tokens", PROMPT), ("tp", SHARDS), ("context", LENGTH)):
        found = says.search(line)
        if found is not None:
            said.setdefault(key, int(found.group(1)))


def _stated(text: str) -> tuple[str | None, dict[str, Any]]:
    """The model and the keys of arguments as Rust prints them, on one line or on many."""
    out: dict[str, Any] = {}
    for name, key in COUNTS.items():
        found = re.search(rf"\b{name}: (?:Some\(\s*)?(\d{{1,12}})\b", text)
        if found is not None and int(found.group(1)) > 0:
            out[key] = int(found.group(1))
    share = re.search(r"\bcuda_memory_fraction: ([01]?\.\d+|1\.0)\b", text)
    if share is not None:
        out["cuda_memory_fraction"] = float(share.group(1))
    cache = re.search(r"\bkv_cache_dtype: Some\(\s*Fp8(e\dm\d)", text, re.I)
    if cache is not None:
        out["kv_dtype"] = f"fp8_{cache.group(1).lower()}"
    model = re.search(r'\bmodel_id: "([^"]{1,300})"', text)
    return (model.group(1) if model is not None else None), out


LOG: Final = Log("tgi", read, "server/text_generation_server/models/flash_causal_lm.py")
