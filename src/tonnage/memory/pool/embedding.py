"""Models that vLLM runs to embed, to score or to classify: no head over the vocabulary, a pooler for the sampler.

Read in vllm-project/vllm v0.9.2 to v0.33.0 vllm/config/model.py ``_SUFFIX_TO_DEFAULTS``,
``is_chunked_prefill_supported``; vllm/engine/arg_utils.py; vllm/model_executor/models/adapters.py
``_create_pooling_model_cls``, bert.py, roberta.py; vllm/v1/worker/gpu_model_runner.py ``_dummy_pooler_run``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.errors import InputError
from tonnage.memory.passes import blocks
from tonnage.memory.pool.ranked import Extra, Span
from tonnage.releases import Version
from tonnage.timeline import Level

POOLS: Final = (
    "ForTextEncoding", "EmbeddingModel", "ForSequenceClassification", "ForTokenClassification",
    "ForAudioClassification", "ForImageClassification", "ForVideoClassification", "ClassificationModel",
    "ForRewardModeling", "RewardModel",
)  # fmt: skip
"""Endings of classes that are pooled where nothing is said; "Model" too, but for those that end in "LMHeadModel"."""
MASKED: Final[Mapping[str, Version]] = {"BertForMaskedLM": (0, 26)}
"""Classes whose head over the vocabulary is run for every token, from which release on."""
FP32: Final = 4


def pooled(model: Model, said: Mapping[str, Any]) -> bool:
    """Whether a model is pooled: said so, by its class, or as it only reads.

    Raises:
        InputError: a model that only reads is asked to write.
    """
    reads = model.head is None or model.classes is not None or (not model.causal and len(model.stacks) == 1)
    if said.get("runner") == "generate" and reads:
        raise InputError(
            f"This model does not support `--runner generate`: {model.class_name or model.model_type} writes nothing",
            key="runner", value="generate", hint="--runner pooling",
        )  # fmt: skip
    name = model.class_name
    ends = name.endswith(POOLS) or (name.endswith("Model") and not name.endswith("LMHeadModel") and name != "Model")
    return said.get("runner") == "pooling" or (said.get("runner") is None and (reads or ends))


def per_token(model: Model, version: Version) -> bool:
    """Whether the pooler hands back an entry of the vocabulary for every token."""
    since = MASKED.get(model.class_name)
    return since is not None and version >= since and model.head is not None


def without_head(model: Model, version: Version) -> Model:
    """The model as it is loaded to be pooled: a classifier stays, a head over the vocabulary does not."""
    if model.classes is not None or per_token(model, version):
        return model
    tensors = {id(t) for t in model.pooler}
    return model.but(head=None, extra=tuple(t for t in model.extra if id(t) not in tensors))


def decoder(model: Model, width: int, version: Version) -> Extra | None:
    """The head's own copy of the embedding, where every token goes through it."""
    if not per_token(model, version):
        return None
    n = model.vocabulary * model.width * width
    return Extra("head, a copy of the embedding", Level(n, blocks(n)), f"{model.vocabulary:,} rows")


def outputs(model: Model, tokens: int, rows: int, width: int, version: Version) -> Span:
    """Bytes of what the pooler makes of a full batch: a vector in fp32 of every request, or of every token."""
    if per_token(model, version):
        n = tokens * model.vocabulary
        return Span(n * width, n * (width + FP32), n * (width + 2 * FP32))
    whole = FP32 * model.width
    return Span(rows * whole, rows * whole, tokens * whole)
