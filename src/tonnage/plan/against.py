"""A prediction held against what a run printed: figure by figure, and which assumption would explain a difference.

An assumption explains a difference only where the whole estimate, made again with it, gives the figure to the last
digit that was printed, and loses none that was right before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.errors import TonnageError
from tonnage.estimate.result import Result
from tonnage.estimate.serve import answer
from tonnage.memory.overhead import CONTEXT
from tonnage.record import Record
from tonnage.units import GiB, gib
from tonnage.workload.serving import Serve
from tonnage.workload.told import Figure, Told

Reader = Callable[[Result], Told | None]
"""Reads the lines that a result says an engine will print."""

BATCHES: Final = (1024, 2048, 4096, 8192, 16384, 32768)
POOL: Final = frozenset({"tokens", "blocks"})
"""What tells how large a pool is."""
ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SCHEMES: Final = ("none", "fp8", "awq-int4", "gptq-int4", "ct-int8", "nf4", "nvfp4", "mxfp4")
FILES: Final = ("fp16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "q3_k_m", "q2_k")
DEGREES: Final = (1, 2, 4, 8)
VLLM_RELEASES: Final = (
    "0.6", "0.8", "0.9", "0.12", "0.14", "0.16", "0.18", "0.20", "0.21", "0.24", "0.26", "0.28", "0.32", "0.33",
)  # fmt: skip
"""Releases with which a rule of vLLM's pool changed."""


ALTERNATIVES: Final[Mapping[str, tuple[tuple[str, tuple[Any, ...]], ...]]] = {
    "vllm": (
        ("kv_dtype", ("fp8", "bf16", "fp16", "int8_per_token_head", "nvfp4", "fp8_ds_mla")),
        ("max_num_batched_tokens", BATCHES),
        ("max_num_seqs", ROWS),
        ("engine_version", VLLM_RELEASES),
        ("prefix_caching", (True, False)),
        ("speculative_tokens", (1, 2, 3, 4, 5)),
        ("block_size", (16, 32, 64, 128)),
        ("quant", SCHEMES),
        ("tp", DEGREES),
        ("dtype", ("bf16", "fp16")),
    ),
    "sglang": (
        ("kv_dtype", ("fp8_e4m3", "fp8_e5m2", "bf16", "fp16")),
        ("quant", SCHEMES),
        ("tp", DEGREES),
        ("page_size", (1, 16, 32, 64)),
        ("dtype", ("bf16", "fp16")),
    ),
    "tensorrt-llm": (
        ("kv_dtype", ("fp8", "bf16", "fp16", "nvfp4")),
        ("max_num_tokens", BATCHES),
        ("quant", SCHEMES),
        ("tp", DEGREES),
        ("dtype", ("bf16", "fp16")),
    ),
    "tgi": (
        ("kv_dtype", ("fp8_e4m3", "fp8_e5m2")),
        ("max_batch_prefill_tokens", BATCHES),
        ("quant", SCHEMES),
        ("tp", DEGREES),
        ("dtype", ("bf16", "fp16")),
    ),
    "llamacpp": (
        ("kv_dtype", ("f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl", "bf16")),
        ("ubatch_size", (128, 256, 512, 1024, 2048, 4096)),
        ("flash_attn", ("on", "off")),
        ("parallel", (1, 2, 4, 8)),
        ("swa_full", (True, False)),
        ("quant", FILES),
        ("logits", ("all", "last")),
        ("mmap", (True, False)),
    ),
}
"""Single changes that people make without saying so, by engine."""


class Line(Record):
    """A figure of the log and what is predicted for it, at least, likely and at most; None where nothing is."""

    figure: Figure
    predicted: tuple[int, int, int] | None

    @property
    def state(self) -> str:
        """How they compare: "equal" (as printed), "in range", "differs", or "unpredicted"."""
        if self.predicted is None:
            return "unpredicted"
        low, likely, high = self.predicted
        if self.figure.hit(likely):
            return "equal"
        return "in range" if low - self.figure.half <= self.figure.bytes <= high + self.figure.half else "differs"


class Against(Record):
    """A prediction held against a log.

    Args:
        result: the prediction.
        told: the log.
        lines: its figures.
        counts: tokens and the like: name, predicted and printed.
        missing: what is predicted and not printed.
        stated: keys that the log states otherwise than the prediction has them: key, predicted, stated.
        follows: whether the tokens that are printed follow from the memory that is printed for the pool; None where one
            of the two is not.
        explained: changes of keys, and the figures that follow from them.
        notes: in words.
    """

    result: Result
    told: Told
    lines: tuple[Line, ...]
    counts: tuple[tuple[str, float | None, float], ...]
    missing: tuple[str, ...]
    stated: tuple[tuple[str, Any, Any], ...]
    follows: bool | None
    explained: tuple[tuple[Mapping[str, Any], tuple[str, ...]], ...]
    notes: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether a figure lies outside of what is predicted."""
        return any(line.state == "differs" for line in self.lines)


def held(model: Model, w: Serve, device: Device | None, in_use: int, told: Told, reader: Reader) -> Against:
    """Hold the answer to a workload against a log.

    Args:
        model: that ran.
        w: what it was asked.
        device: on which; None where none is named.
        in_use: what others held there. [byte]
        told: by its log.
        reader: of the lines that an answer says the engine will print.

    Raises:
        UnsupportedError: the workload is not modelled.
        InputError: it is contradictory.
    """
    run = _Run(model, w, device, in_use, told, reader)
    result = run.answered({})
    assert result is not None
    own = reader(result)
    lines = tuple(Line(f, _predicted(result, f, own)) for f in told.figures)
    printed = {f.key for f in told.figures}
    counts = tuple((name, _count(result, name, own), n) for name, n in told.counts.items())
    stated = tuple(_stated(result, told))
    return Against(
        result=result,
        told=told,
        lines=lines,
        counts=counts,
        missing=tuple(_called(f) for f in (own.figures if own is not None else ()) if f.key not in printed),
        stated=stated,
        follows=run.follows({}, own) if told.counts.keys() & POOL and told.figure("kv_cache") is not None else None,
        explained=tuple(run.explanations(result, stated)),
        notes=tuple(run.notes(result)),
    )


def _called(figure: Figure) -> str:
    return f"{figure.name} {figure.device}".strip()


def _predicted(result: Result, figure: Figure, own: Told | None) -> tuple[int, int, int] | None:
    """What is predicted for a figure of the first rank."""
    rank = result.ranks[0]
    if figure.parts:
        found = [c for c in rank.components if c.name in figure.parts]
        if found:
            low, likely, high = (sum(getattr(c, k) for c in found) for k in ("low_bytes", "bytes", "high_bytes"))
            return low, likely, high
        return None
    twin = own.figure(*figure.key) if own is not None else None
    if twin is None and not figure.device and own is not None:
        # A sum over all devices.
        parts = [f.bytes for f in own.figures if f.name == figure.name]
        whole = sum(parts)
        return (whole, whole, whole) if parts else None
    around = [
        c for r in result.ranks for c in r.components
        if c.name == figure.name and (not figure.device or c.why.startswith(f"{figure.device} "))
    ]  # fmt: skip
    if twin is not None and figure.device:
        return twin.bytes, twin.bytes, twin.bytes
    if twin is not None:
        low, high = sum(c.low_bytes for c in around[:1]), sum(c.high_bytes for c in around[:1])
        return min(low or twin.bytes, twin.bytes), twin.bytes, max(high, twin.bytes)
    if not figure.device or not around:
        return None
    return sum(c.low_bytes for c in around), sum(c.bytes for c in around), sum(c.high_bytes for c in around)


def _count(result: Result, name: str, own: Told | None) -> float | None:
    """What is predicted for a number that is printed."""
    if own is not None and name in own.counts:
        return own.counts[name]
    found = (result.capacity or {}).get(name, result.workload.get(name))
    return None if found is None else float(found)


def _stated(result: Result, told: Told) -> Iterator[tuple[str, Any, Any]]:
    """Keys that the log states otherwise."""
    same = {"bfloat16": "bf16", "float16": "fp16", "f16": "fp16", "fp8_e4m3": "fp8"}
    for key, value in told.said.items():
        mine = result.workload.get(key)
        if mine is not None and same.get(str(mine), mine) != same.get(str(value), value):
            yield key, mine, value


class _Run:
    """One workload that is answered again and again, with changes."""

    def __init__(self, model: Model, w: Serve, device: Device | None, in_use: int, told: Told, reader: Reader) -> None:
        self.model, self.w, self.device, self.in_use, self.told, self.reader = model, w, device, in_use, told, reader

    def answered(self, change: Mapping[str, Any]) -> Result | None:
        """The answer with some keys changed; None where the change is refused."""
        try:
            return answer(self.model, self.w.but(**change), self.device, in_use=self.in_use, capacity=False)
        except TonnageError:
            if not change:
                raise
            return None

    def hits(self, change: Mapping[str, Any], result: Result | None = None) -> frozenset[str]:
        """What the answer gives as the log prints it."""
        result = result if result is not None else self.answered(change)
        if result is None:
            return frozenset()
        own = self.reader(result)
        out = set()
        for figure in self.told.figures:
            found = _predicted(result, figure, own)
            if found is not None and figure.hit(found[1]):
                out.add(_called(figure))
        if self.follows(change, own):
            out.add("tokens")
        return frozenset(out)

    def follows(self, change: Mapping[str, Any], own: Told | None) -> bool:
        """Whether the tokens follow from the bytes that the log itself prints for the pool."""
        # The oldest releases print blocks and no tokens.
        name = "tokens" if "tokens" in self.told.counts else "blocks"
        tokens, room = self.told.counts.get(name), self.told.figure("kv_cache")
        if tokens is None:
            return False
        if room is None or self.told.engine == "llamacpp":
            return own is not None and own.counts.get("tokens") == tokens
        if self.told.engine == "sglang":
            mine = own.figure("kv_cache") if own is not None else None
            n = own.counts.get("tokens") if own is not None else None
            return mine is not None and bool(n) and abs(mine.bytes / (n or 1) * tokens - room.bytes) <= room.half * 2
        if self.told.engine == "tensorrt-llm":
            result = self.answered(change)
            token = 0 if result is None else int((result.capacity or {}).get("kv_bytes_per_token") or 0)
            return abs(token * tokens - room.bytes) <= room.half
        found = [
            self.answered({**change, "kv_cache_memory": size})
            for size in (room.bytes - room.half, room.bytes + room.half)
        ]
        sizes = [int((r.capacity or {}).get(name) or 0) for r in found if r is not None]
        return len(sizes) == 2 and sizes[0] <= tokens <= sizes[1]

    def explanations(
        self, result: Result, stated: tuple[tuple[str, Any, Any], ...]
    ) -> Iterator[tuple[Mapping[str, Any], tuple[str, ...]]]:
        """Changes that give figures that the prediction does not."""
        right = self.hits({}, result)
        own = self.reader(result)
        lines = [Line(f, _predicted(result, f, own)) for f in self.told.figures]
        wrong = {_called(line.figure) for line in lines if line.state == "differs"}
        if self.told.counts.keys() & POOL and "tokens" not in right:
            wrong.add("tokens")
        if not wrong:
            return
        together = {key: value for key, _, value in stated}
        tried: list[Mapping[str, Any]] = [together] if together else []
        tried += [c for c in self._alternatives(result) if c not in tried]
        found = [(change, hits) for change in tried if right <= (hits := self.hits(change)) and hits & wrong]
        for change, hits in found:
            if not any(hits < other for _, other in found):
                yield change, tuple(sorted(hits - right))
        if self.told.engine == "sglang" and "kv_cache" in wrong:
            yield from self._others()

    def _others(self) -> Iterator[tuple[Mapping[str, Any], tuple[str, ...]]]:
        """What others hold, where the memory that was free before loading is that much less, and the pool with it."""
        told, device = self.told, self.device
        pool = told.figure("kv_cache")
        if told.free is None or device is None or self.in_use or pool is None:
            return
        gap = device.capacity.bytes - CONTEXT[1] - told.free
        if gap < GiB // 2:
            return
        again = _Run(self.model, self.w, device, gap, told, self.reader).answered({})
        found = _predicted(again, pool, self.reader(again)) if again is not None else None
        if found is not None and abs(found[1] - pool.bytes) <= pool.bytes // 50:
            yield {"in_use": f"{gib(gap)}"}, ("kv_cache within 2 %",)

    def _alternatives(self, result: Result) -> Iterator[Mapping[str, Any]]:
        """Single changes that people make without saying so."""
        now = result.workload
        for key, values in ALTERNATIVES.get(self.told.engine, ()):
            for value in values:
                if value != now.get(key):
                    yield {key: value}

    def notes(self, result: Result) -> Iterator[str]:
        """What the log says beside its figures."""
        told, device = self.told, self.device
        yield from told.notes
        if told.total is not None and device is not None and not (
            device.capacity.low * 0.995 <= told.total <= device.capacity.high * 1.005
        ):  # fmt: skip
            mine = gib(device.capacity.bytes)
            yield f"the log's device has {gib(told.total)}, and {device.name} {mine}: another one"
        if told.total is not None and told.free is not None and told.total - told.free > CONTEXT[2]:
            yield (
                f"{gib(told.free)} of {gib(told.total)} were free when it started: others held up to "
                f"{gib(told.total - told.free - CONTEXT[0])}"
            )
        share = self._share()
        said = result.workload.get("gpu_memory_utilization")
        if share is not None and said is not None and abs(share - said) > 1e-9:
            yield (
                f"gpu_memory_utilization = {share:g}, not {said:g}: that share of {gib(told.total or 0)}, less what "
                "the log prints of weights and profile run, is the memory that it prints for the cache"
            )

    def _share(self) -> float | None:
        """The share of the device, in hundredths, that the log's own figures add up to; None where they give none."""
        told = self.told
        named = {f.name: f for f in told.figures}
        first = ("consumed",) if "consumed" in named else ("weights", "other:non-torch")
        used = [named[n] for n in first if n in named]
        parts = [*used, *(named[n] for n in ("activations", "kv_cache") if n in named)]
        whole = len(parts) == (3 if "consumed" in named else 4)
        if told.engine != "vllm" or told.total is None or not whole or "gpu_memory_utilization" in told.said:
            return None
        total, loose = sum(f.bytes for f in parts), sum(f.half for f in parts) + told.total // 1000
        share = round(total / told.total, 2)
        return share if 0 < share <= 1 and abs(share * told.total - total) <= loose else None
