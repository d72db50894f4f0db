"""What is asked of ``serve``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from tonnage.workload import ATTENTION


def own(kind: str, says: str, choices: tuple[str, ...] = ()) -> Any:
    """A key that only some engines have (``Engine.takes``); its flag on the command line is made of this.

    Args:
        kind: how its value is read: "count", "share" (from 0 to 1), "switch", "size", "choice" or "text".
        says: what it means, in one line.
        choices: the values of a choice.
    """
    return field(default=None, metadata={"kind": kind, "says": says, "choices": choices})


@dataclass(frozen=True, slots=True, kw_only=True, repr=False, eq=False)
class Serve:
    """A serving workload: sequences of one length held at once."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    task: str = "serve"
    gpu: str | None = None
    in_use: str | int | None = None
    dtype: str | None = None
    quant: str | None = None
    gpus: int | None = None
    tp: int | None = None
    pp: int | None = None
    cp: int | None = None
    ep: int | None = None
    dp: int | None = None
    sharding: str | None = None
    engine: str | None = None
    engine_version: str | None = None
    kv_dtype: str | None = None
    context: int | None = None
    concurrency: int | None = None
    # Keys that an engine takes or does not (``Engine.takes``).
    attention: str | None = own("choice", "eager, sdpa, flash (sdpa).", ATTENTION)
    prompt: int | None = own("count", "Tokens read in one pass, the rest being generated (context).")
    logits: str | None = own("choice", "last or all positions of the prompt (last).", ("last", "all"))
