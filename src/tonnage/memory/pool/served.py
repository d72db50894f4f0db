"""What engines with a pool have in common: a deployment on its way, its state while decoding, and what they refuse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tonnage.arch.model import Model
from tonnage.errors import InputError, UnsupportedError
from tonnage.formats import FORMATS
from tonnage.memory.pool.pages import Page
from tonnage.memory.pool.paging import Demand
from tonnage.memory.pool.pooled import Load
from tonnage.memory.pool.ranked import Extra
from tonnage.memory.pool.refusals import capability
from tonnage.record import Record
from tonnage.timeline import Level

if TYPE_CHECKING:
    pass


class Served(Record):
    """A deployment on its way.

    Args:
        model: what runs.
        setting: what is asked, as the engine's module was handed it.
        flags: what the engine decided.
        loads: of every stage.
        pages: of every layer that keeps anything.
        stages: which pages every stage holds.
        demand: of a request.
        notes: lines that the engine prints before it plans.
    """

    model: Model
    setting: Any
    flags: Any
    loads: tuple[Load, ...]
    pages: tuple[Page, ...]
    stages: tuple[tuple[int, ...], ...]
    demand: Demand
    notes: tuple[str, ...] = ()


def longest(model: Model) -> int | None:
    """Tokens beyond which an engine refuses to start: scaled angles count, but for Gemma 3, whose positions are scaled.

    vLLM v0.33.0 vllm/config/model.py ``_get_and_verify_max_len``.
    """
    return model.positions if "gemma3" in model.model_type else model.reach or model.positions


def decoding(
    pages: Sequence[Page], stages: Sequence[Sequence[int]], context: int, sequences: int, demand: Demand
) -> tuple[int, int]:
    """State of sequences in steady decoding on the fullest rank, and its growth by one token; whole pages left out.

    Where ranks share the tokens, each holds its part of them, and of a token's growth.

    Returns:
        Both. [byte]
    """

    def size(page: Page, tokens: int) -> int:
        if page.kind == "state":
            return page.state
        kept = demand.encoder if page.kind == "cross" else tokens if page.window is None else min(tokens, page.window)
        return kept // page.rate * page.token

    def at(stage: Sequence[int], tokens: int) -> int:
        return sum(size(pages[i], tokens) for i in stage)

    if not pages:
        return 0, 0
    own = -(-context // demand.shards)
    whole = max(at(stage, own) for stage in stages)
    step = max(page.rate for page in pages)
    growth = max(at(stage, own + step) - at(stage, own) for stage in stages) // (step * demand.shards)
    return whole * sequences, growth


def narrowed(s: Any, plain: str, *, falls_back: bool = True, wide: str = "") -> Any:
    """The setting in the format that an engine settles on: none computes in fp32 unless it is told to.

    vLLM v0.33.0 vllm/config/model.py ``_resolve_auto_dtype``, vllm/platforms/cuda.py ``check_if_supports_dtype``;
    SGLang 0.5.23 configs/model_config.py ``_get_and_verify_dtype``.

    Args:
        s: what is asked.
        plain: what stands for fp32.
        falls_back: whether fp16 stands for bf16 where the device has none, rather than a refusal.
        wide: type of a model that cannot be run in fp16, for which fp32 stands for it.

    Raises:
        InputError: the device has no bf16, or the model cannot be run in what is asked for.
    """
    asked = "dtype" in s.said
    if asked and wide and s.dtype == "fp16":
        raise InputError(
            f"The model type {wide!r} does not support float16. Reason: Numerical instability", key="dtype",
            value=s.dtype, hint="--dtype bf16 or fp32",
        )  # fmt: skip
    dtype = plain if s.dtype in ("fp32", "fp64") and not asked else s.dtype
    if dtype == "bf16" and (capability(s.device) or 80) < 80:
        if asked or not falls_back:
            raise InputError(
                "Bfloat16 is only supported on GPUs with compute capability of at least 8.0", key="dtype", value=dtype,
                hint="--dtype fp16",
            )  # fmt: skip
        dtype = "fp32" if wide else "fp16"
    return s if dtype == s.dtype else s.but(dtype=dtype)


def prediction(model: Model, setting: Any) -> Extra:
    """The layer that predicts several tokens, as the checkpoint stores it; embedding and head are the model's own.

    Raises:
        UnsupportedError: the checkpoint has none.
    """
    if not model.apart:
        raise UnsupportedError(
            f"speculative_tokens: {model.name or model.model_type} has no prediction layer of its own, and other "
            "drafts are not modelled yet", key="speculative_tokens", value=setting.said.get("speculative_tokens"),
        )  # fmt: skip
    from tonnage import quant
    from tonnage.memory.weights import shares, total
    from tonnage.placement.serving import held

    form = FORMATS[setting.dtype]
    found = (
        list(quant.apart(model, setting.recipe))
        if setting.recipe is not None
        else [(1, t, "kept") for t in model.apart]
    )
    own = [(n, t, part) for n, t, part in found if t.role not in ("embedding", "head", "buffer")]
    pieces = held(
        [(n, t) for n, t, _ in own], setting.mesh.__class__(tp=setting.mesh.tp, dp=setting.mesh.dp, ep=setting.mesh.ep)
    )
    cut = [(n, t, part) for (n, t), (_, _, part) in zip(pieces, own, strict=True)]
    level: Level = total(shares(cut, form))
    return Extra("prediction layer", level, f"{len(own)} tensors")
