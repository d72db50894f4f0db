"""The smallest single change that would make a workload fit, re-estimated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.errors import TonnageError
from tonnage.estimate.result import Result, Suggestion
from tonnage.workload.serving import Serve
from tonnage.workload.training import Train

Change = tuple[Mapping[str, Any], tuple[str, ...], str]
"""The keys that change, what they alter of the training or the answer, and the change in words."""

NO_CHANGE: Final = "no single change of those that are modelled makes it fit"


def suggested(
    result: Result,
    model: Model,
    w: Train | Serve,
    device: Device,
    in_use: int,
    beside: Mapping[str, Model] | None = None,
) -> Result:
    """The result with a suggestion, or with a caveat that there is none.

    Changes that alter nothing of what is trained or answered come first; among equals, the one that leaves least to
    spare is the smallest.
    """
    best: tuple[bool, int, Suggestion] | None = None
    for change, alters, text in _changes(result, w):
        again = _estimate(model, w, change, device, in_use, beside)
        if again is None or again.fit is None or again.fit.verdict != "fits":
            continue
        size = again.fullest.tier("device")
        found = Suggestion(change=change, alters=alters, verdict=again.fit.verdict, device_bytes=size, text=text)
        if best is None or (bool(alters), again.fit.spare_bytes) < best[:2]:
            best = (bool(alters), again.fit.spare_bytes, found)
    assert result.fit is not None
    if best is None:
        return result.but(caveats=(*result.caveats, NO_CHANGE))
    return result.but(fit=result.fit.but(suggestion=best[2]))


def _estimate(
    model: Model,
    w: Train | Serve,
    change: Mapping[str, Any],
    device: Device,
    in_use: int,
    beside: Mapping[str, Model] | None,
) -> Result | None:
    """The answer to the changed workload; None where it is refused."""
    changed = w.but(**change)
    try:
        if isinstance(changed, Train):
            # A change that surely fits needs no replay of the allocator.
            changed = changed.but(replay=False)
            from tonnage.estimate.train import answer as train

            return train(model, changed, device, in_use=in_use, beside=beside)
        from tonnage.estimate.serve import answer as serve

        return serve(model, changed, device, in_use=in_use, capacity=False)
    except TonnageError:
        return None


def _changes(result: Result, w: Train | Serve) -> Iterator[Change]:
    if isinstance(w, Train):
        yield from _training(result.workload, result.extras.get("attention_kernel") == "eager")
    else:
        yield from _serving(result)


def _training(w: Mapping[str, Any], eager: bool) -> Iterator[Change]:
    batch, seq = w["batch"], w["seq"]
    if w["recompute"] == "none":
        yield {"recompute": "full"}, (), "recompute the activations of every layer (--recompute full)"
    if w.get("reference") == "resident" and w["objective"] in ("dpo", "kto"):
        text = "the reference's log-probabilities computed before training (--reference precomputed)"
        yield {"reference": "precomputed"}, (), text
    if w.get("rollout") == "vllm":
        yield {"rollout": "vllm-sleep"}, (), "vLLM and the training in turns (--rollout vllm-sleep)"
    if eager:
        yield {"attention": "sdpa"}, (), "fused attention (--attention sdpa)"
    if w["optimizer"] in ("adamw-foreach", "adamw-loop"):
        yield {"optimizer": "adamw-fused"}, (), "the fused step of the same optimizer (--optimizer adamw-fused)"
    for parts in _halvings(batch):
        change = {"batch": batch // parts, "accumulate": w["accumulate"] * parts}
        if batch % parts == 0:
            yield (
                change,
                (),
                f"{batch // parts} sequences a pass, {parts} times the passes "
                f"(--batch {change['batch']} --accumulate {change['accumulate']})",
            )
    if w["precision"] in ("fp32", "tf32", "bf16-mixed"):
        yield {"precision": "bf16"}, ("precision",), "weights, gradients and states in bf16 (--precision bf16)"
    if w["optimizer"].startswith("adamw"):
        for name in ("sgd-momentum", "sgd"):
            yield {"optimizer": name}, ("optimizer",), f"another optimizer (--optimizer {name})"
    for parts in _halvings(seq):
        shorter = seq // parts
        yield {"seq": shorter}, ("seq",), f"shorter sequences (--seq {shorter})"


def _pooled(w: Mapping[str, Any]) -> Iterator[Change]:
    """Changes for engines with a pool: more devices, a narrower cache, a larger share; eager leaves graphs out."""
    if not w.get("ep") or w["ep"] == 1:
        for tp in (2 * w["tp"], 4 * w["tp"], 8 * w["tp"]):
            gpus = w["gpus"] // w["tp"] * tp
            yield {"tp": tp, "gpus": gpus}, (), f"tensor parallelism over {tp} devices (--tp {tp})"
    for key in ("gpu_memory_utilization", "mem_fraction_static", "free_gpu_memory_fraction"):
        share = w.get(key)
        if share is not None and share < 0.95:
            yield {key: 0.95}, (), f"a larger share of the device (--{key.replace('_', '-')} 0.95)"
    if w.get("enforce_eager") is False:
        yield {"enforce_eager": True}, (), "no CUDA graphs (--enforce-eager)"
    if w["kv_dtype"] in ("bf16", "fp16"):
        yield {"kv_dtype": "fp8_e4m3"}, ("kv_dtype",), "keys and values in fp8 (--kv-dtype fp8_e4m3)"


def _serving(result: Result) -> Iterator[Change]:
    w = result.workload
    if (result.capacity or {}).get("tokens") is not None:
        yield from _pooled(w)
    eager = w["attention"] == "eager"
    context, concurrency, room = w["context"], w["concurrency"], result.capacity or {}
    if w["logits"] == "all":
        yield {"logits": "last"}, (), "logits of the last position only (--logits last)"
    if w.get("reference") == "resident" and w["objective"] in ("dpo", "kto"):
        text = "the reference's log-probabilities computed before training (--reference precomputed)"
        yield {"reference": "precomputed"}, (), text
    if w.get("rollout") == "vllm":
        yield {"rollout": "vllm-sleep"}, (), "vLLM and the training in turns (--rollout vllm-sleep)"
    if eager:
        yield {"attention": "sdpa"}, (), "fused attention (--attention sdpa)"
    if w["prompt"] is not None and w["prompt"] > 512:
        yield {"prompt": 512}, ("prompt",), "a shorter prompt (--prompt 512)"
    if concurrency > 1 and (room.get("max_concurrency") or 0) >= 1:
        n = room["max_concurrency"]
        yield {"concurrency": n}, ("concurrency",), f"fewer sequences at once (--concurrency {n})"
    if (room.get("max_context") or 0) >= 1 and room["max_context"] < context:
        n = room["max_context"]
        asked = w["prompt"]
        prompt = f" --prompt {n}" if asked is not None and n < asked < context else ""
        change = {"context": n} if asked is None else {"context": n, "prompt": min(asked, n)}
        yield change, ("context",), f"a shorter context (--context {n}{prompt})"
    if w["dtype"] == "fp32":
        yield {"dtype": "bf16"}, ("dtype",), "weights in bf16 (--dtype bf16)"


def _halvings(n: int) -> Iterator[int]:
    parts = 2
    while parts <= n:
        yield parts
        parts *= 2
