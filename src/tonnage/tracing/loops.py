"""The loops that are traced: optimizer steps as the Trainer runs them, and generation as ``generate`` does."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch

from tonnage.errors import UnsupportedError
from tonnage.tracing import texts
from tonnage.tracing.models import DTYPES
from tonnage.tracing.optimizers import Made
from tonnage.tracing.recorder import Recorder
from tonnage.tracing.stream import BUFFER, CACHE, GRADIENT, INPUT, LOSS, PARAMETER, RECURRENT

DEPTH: Final = 6
"""Of a cache: how deep its tensors lie."""


def autocast(job: Mapping[str, Any]) -> AbstractContextManager[Any]:
    """Autocast, where the precision has it."""
    return torch.autocast("cuda", dtype=DTYPES[job["autocast"]]) if job["autocast"] else nullcontext()


def ids(job: Mapping[str, Any], tokens: int, device: str) -> torch.Tensor:
    """Token ids of a batch."""
    return torch.empty((job["batch"], tokens), dtype=torch.int64, device=device)


def train(model: Any, job: Mapping[str, Any], r: Recorder, device: str, made: Made) -> None:
    """Optimizer steps, two of them unless the first is asked for: forward, loss, backward, step."""
    extra: dict[str, Any] = {}
    job = texts.flattened(job)
    if getattr(model, "main_input_name", "") == "input_features":
        inputs = {"input_features": _features(model, job, device)}
    else:
        inputs = {"input_ids": ids(job, job["seq"], device)}
        inputs["labels"] = inputs["input_ids"]
    if job.get("pictures"):
        # Imported late: most batches are of text.
        from tonnage.tracing import pictures

        inputs |= pictures.inputs(model.config, job, inputs["input_ids"])
    if getattr(model.config, "is_encoder_decoder", False):
        inputs["labels"] = ids(job, job["targets"], device)
    if job["logits"]:
        # The labels of as many tokens: a part of the batch's.
        inputs["labels"] = inputs["labels"][:, -job["logits"] :]
        extra["logits_to_keep"] = job["logits"]
    if job.get("texts"):
        inputs |= texts.inputs(job["texts"], inputs["input_ids"])
    # What stands for a tensor has one.
    given = [getattr(t, "tensor", t) for t in {id(t): t for t in inputs.values()}.values()]
    for t in given:
        if isinstance(t, torch.Tensor):
            r.there(t, INPUT, "")
    # Bound here, so that the last step's loss lives until this one's takes its place.
    loss: Any = None
    out: Any = None
    for step in range(1, job["steps"] + 1):
        for _ in range(min(job["accumulate"], 2)):
            r.enter(f"step{step}.forward")
            with autocast(job):
                out = model(**inputs, **extra)
                loss = out.loss
                if not job["keep_outputs"]:
                    out = None
            r.enter(f"step{step}.backward")
            # The gradient that the pass starts from.
            r.outside = LOSS
            if made.backward is not None:
                before, r.item = r.item, made.item
                made.backward(loss)
                r.item = before
            else:
                loss.backward()
            if not job["keep_step"]:
                out = None
            _grown(model, r)
            if job["lora"] is not None or job["recompute"]:
                # Without its graph, whose leaves would hold the embedding's output, or T5's bias over the encoder.
                loss = loss.detach()
        r.enter(f"step{step}.optimizer")
        if job["clips"]:
            torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        before, r.item = r.item, made.item
        for o in made.steppers:
            o.step()
        r.item = before
        # A step may have put others in their places.
        _grown(model, r)
        if not job["keep_last"]:
            out = None
        if not job["keep_gradients"]:
            model.zero_grad()
    r.enter("end")


def _features(model: Any, job: Mapping[str, Any], device: str) -> torch.Tensor:
    """Whisper's features of sound, as long as its encoder asks for."""
    if not hasattr(model.config, "num_mel_bins") or not hasattr(model.config, "max_source_positions"):
        raise UnsupportedError(
            f"{type(model).__name__} is given features of sound whose shape is not known", key="model",
            hint="trace it with code of your own: tonnage trace file.py:function",
        )  # fmt: skip
    rows = 2 * model.config.max_source_positions
    dtype = next(model.parameters()).dtype
    return torch.empty((job["batch"], model.config.num_mel_bins, rows), dtype=dtype, device=device)


def _grown(model: Any, r: Recorder) -> None:
    """Tell which storages are gradients of parameters, and those of parameters that were cast on the way."""
    for p in model.parameters():
        r.is_for(p, PARAMETER)
        if p.grad is not None:
            r.is_for(p.grad, GRADIENT)


def serve(model: Any, job: Mapping[str, Any], r: Recorder, device: str) -> None:
    """A prompt read at once, and the last token of the context: greedy, as ``generate`` writes it."""
    prompt, context = job["prompt"], job["context"]
    with torch.no_grad():
        r.enter("prefill")
        given = ids(job, prompt, device)
        r.there(given, INPUT, "")
        cache = _forward(model, given, None, job, r, last=job["logits"] == "last")
        rest = context - 1 - prompt
        if context > prompt and cache is None:
            raise UnsupportedError(
                f"{type(model).__name__} keeps no cache", key="prompt", hint="--prompt as long as the context"
            )
        if context > prompt:
            r.enter("between")
            if rest > 0:
                cache = _forward(model, ids(job, rest, device), cache, job, r, last=True)
            del given
            r.enter("decode")
            given = ids(job, context - 1, device)
            r.there(given, INPUT, "")
            token = ids(job, 1, device)
            r.there(token, INPUT, "")
            cache = _forward(model, token, cache, job, r, last=True)
        r.enter("end")


def _forward(model: Any, given: torch.Tensor, cache: Any, job: Mapping[str, Any], r: Recorder, *, last: bool) -> Any:
    """One pass; the next token's logits in fp32, as sampling takes them. Returns the cache."""
    takes = inspect.signature(model.forward).parameters
    extra: dict[str, Any] = {}
    if last and "logits_to_keep" in takes:
        extra["logits_to_keep"] = 1
    name = "cache_params" if "cache_params" in takes else "past_key_values"
    if cache is not None:
        extra[name] = cache
    with autocast(job):
        out = model(input_ids=given, use_cache=True, **extra)
    logits = out.logits[:, -1, :].to(copy=True, dtype=torch.float32)
    del logits
    cache = getattr(out, name, None)
    for t, kind in _held(cache):
        r.is_for(t, kind if t.is_floating_point() else BUFFER)
    return cache


def _held(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[torch.Tensor, str]]:
    """Tensors of a cache, whatever it is made of; those of its states do not grow."""
    if isinstance(value, torch.Tensor):
        yield value, RECURRENT if "state" in name else CACHE
    elif depth < DEPTH and isinstance(value, list | tuple):
        for part in value:
            yield from _held(part, name, depth + 1)
    elif depth < DEPTH and (isinstance(value, dict) or hasattr(value, "__dict__")):
        for key, part in list((value if isinstance(value, dict) else value.__dict__).items()):
            yield from _held(part, key if isinstance(key, str) else name, depth + 1)
