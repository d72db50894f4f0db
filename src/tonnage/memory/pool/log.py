"""vLLM's own lines about its pool, as each release prints them, and what has to be said of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tonnage.memory.overhead import CONTEXT
from tonnage.memory.pool import paging
from tonnage.memory.pool.ranked import Span
from tonnage.memory.pool.served import Served
from tonnage.units import GiB, gib

ONE_LINE: Final = (0, 28)
SWAP: Final = 4 * GiB
"""Host memory for pages that are swapped out, before 0.8."""


def lines(served: Served, budgets: Sequence[Span], pool: paging.Pool) -> list[str]:
    """The lines that the first rank of the release prints."""
    s, load = served.setting, served.loads[0]
    room, longest, times = budgets[0].likely, s.context, f"{pool.concurrency:.2f}x"
    weights = load.weights.allocated
    if s.version < (0, 8):
        return [
            f"model weights take {weights / GiB:.2f}GiB; non_torch_memory takes "
            f"{sum(x.likely for _, x, _ in load.outside) / GiB:.2f}GiB; PyTorch activation peak memory takes "
            f"{(load.peak.likely + load.workspace) / GiB:.2f}GiB; the rest of the memory reserved for KV Cache is "
            f"{room / GiB:.2f}GiB.",
            f"# cuda blocks: {pool.blocks}, # CPU blocks: {SWAP // pool.block_bytes}",
            f"Maximum concurrency for {longest} tokens per request: {times}",
        ]
    out = [
        f"Model loading took {weights / GiB:.4f} GiB"
        if s.version < (0, 14)
        else f"Model loading took {_gib(weights)} GiB"
    ]
    out += served.notes
    if s.version >= (0, 9):
        out.append(f"Available KV cache memory: {f'{room / GiB:.2f}' if s.version < (0, 14) else _gib(room)} GiB")
    out += pool.notes
    if not pool.holds_one:
        return [*out, refusal(pool, room, s.version)]
    size, many = (
        f"GPU KV cache size: {pool.tokens:,} tokens",
        f"Maximum concurrency for {longest:,} tokens per request: {times}",
    )
    return [*out, f"{size}, {many}"] if s.version >= ONE_LINE else [*out, size, many]


def refusal(pool: paging.Pool, room: int, version: tuple[int, int]) -> str:
    """Why it does not start, in its own words."""
    if room - pool.null * pool.block_bytes <= 0:
        return "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"
    there = room - pool.null * pool.block_bytes
    return (
        f"ValueError: To serve at least one request with the model's max seq len ({pool.longest}), "
        f"({_gib(pool.per_request * pool.block_bytes)} GiB KV cache is needed, which is larger than the available KV "
        f"cache memory ({_gib(there)} GiB)"
    )


def _gib(size: int) -> str:
    """As ``format_gib`` prints it."""
    return f"{round(size / GiB, 2)}"


def caveats(served: Served, budgets: Sequence[Span], pools: Sequence[paging.Pool]) -> tuple[str, ...]:
    """What limits the answer."""
    s, flags, (_, likely, most) = served.setting, served.flags, pools
    out = []
    if not most.holds_one:
        out.append("vllm does not start: " + refusal(likely, budgets[0].likely, s.version).removeprefix("ValueError: "))
    elif likely.concurrency * s.mesh.dp < s.concurrency:
        out.append(
            f"from {int(likely.concurrency * s.mesh.dp) + 1:,} sequences of {s.context:,} tokens on, requests queue"
        )
    if s.concurrency > flags.batch.rows * s.mesh.dp:
        out.append(
            f"max_num_seqs = {flags.batch.rows:,}: no more than that many run at once, the others of the "
            f"{s.concurrency:,} queue"
        )
    why = stopped(served, budgets)
    return tuple(out) if why is None else (why,)


def stopped(served: Served, budgets: Sequence[Span]) -> str | None:
    """Why the device is too small for what is asked, whatever the pool's plan; None where it is not."""
    s, flags = served.setting, served.flags
    capacity = s.device.capacity
    if s.said.get("kv_cache_memory") is None and s.said.get("num_gpu_blocks_override") is None:
        asked = int(capacity.bytes * flags.utilization)
        if s.in_use + asked > capacity.bytes - CONTEXT[0] and s.in_use:
            return (
                f"vllm refuses to start where less than its share is free: others hold {gib(s.in_use)}, and "
                f"{flags.utilization:g} of {gib(capacity.bytes)} is {gib(asked)}"
            )
        return None
    least = min(load.before.low + b.low for load, b in zip(served.loads, budgets, strict=True)) + CONTEXT[0] + s.in_use
    if least <= capacity.high:
        return None
    return f"out of memory: a pool of that size and what lies beside it take at least {gib(least)}"
