"""What is asked of ``serve``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True, repr=False, eq=False)
class Serve:
    """A serving workload: sequences of one length held at once."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    task: str = "serve"
    gpu: str | None = None
    in_use: str | int | None = None
    dtype: str | None = None
    quant: str | None = None
    attention: str | None = None
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
    prompt: int | None = None
    logits: str | None = None
