"""What vLLM's profile run reaches: a forward pass over a full batch of tokens, then the sampler over all rows.

The engine gives its pool what is left of its share of the device, so the peak of this run is memory that a pool never
gets. Two instants compete: the widest moment of a layer's forward pass, and the sampler, whose scratch is a multiple of
rows x vocabulary. What a row of the sampler costs follows from the operations that the release runs.

References: vllm-project/vllm v0.33.0 vllm/v1/worker/gpu/model_runner.py ``profile_run``, ``_dummy_sampler_run``,
vllm/v1/worker/gpu/sample/; v0.11.0 vllm/v1/sample/ops/topk_topp_sampler.py; pytorch v2.8.0
aten/src/ATen/native/cuda/Sort.cpp and SortStable.cu for the scratch of a sort.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.memory.pool.ranked import Span
from tonnage.placement.mesh import Mesh
from tonnage.placement.sharding import cuts, largest_shard
from tonnage.record import Record
from tonnage.releases import Since, Version, since
from tonnage.units import MiB

LOGITS: Final = 2 + 4
"""Bytes of a logit: in 16 bit as the head makes it, and once more in fp32."""
SORT: Final = 4 + 8 + 8 + 12
"""Sorted values, their indices, the indices that are sorted along, and the double buffers of a radix sort."""
DRAW: Final = 4 + 4
"""Probabilities, and the random numbers or masked logits beside them."""

SAMPLER: Final[Since[tuple[int, int, int]]] = (
    ((0, 18), (LOGITS, LOGITS + DRAW, LOGITS + DRAW)),
    ((0, 0), (LOGITS + SORT, LOGITS + SORT, LOGITS + SORT)),
)
"""Bytes of a row of the sampler for each entry of the vocabulary: at least, likely and at most.

Until 0.17 top-p sorts with torch. From 0.18 on a kernel finds the thresholds; where neither it nor FlashInfer's runs,
nothing is drawn from probabilities that are written out."""

PENALTIES: Final = 33
"""Eighths of a byte for each row and entry of the vocabulary that the second model runner keeps: counts in int32, and
a bit of the prompt. vllm/v1/worker/gpu/sample/penalties.py ``PenaltiesState``"""

RUNNER_2: Final[Since[frozenset[str] | None]] = (
    ((0, 29), None),
    ((0, 25), frozenset({"*dense"})),
    ((0, 24), frozenset({"qwen3", "deepseek_v2", "deepseek_v3", "qwen2_moe", "granitemoe", "llama", "mistral"})),
    ((0, 22), frozenset({"qwen3"})),
    ((0, 0), frozenset()),
)
"""Models that the second model runner serves by default; None for all. vllm/config/vllm.py ``use_v2_model_runner``,
``DEFAULT_V2_MODEL_RUNNER_ARCHITECTURES`` of each release."""

SCRATCH: Final[Since[int]] = (((0, 8), 12 * MiB), ((0, 0), 0))
"""What the run leaves besides since the first release of its second engine: 5 to 17 MB in five rows of an H100 (llm-d
table)."""


LATENT_PAGE: Final = 64
INDEXED, INDEXED_KEY = 40, 132
"""Requests of the longest length whose index keys are gathered at once, and bytes of a key in fp8 with its scale."""


class Peak(Record):
    """The most that a profile run has alive beside the weights, and what it leaves behind.

    Args:
        low, likely, high: bytes that come and go. [byte]
        instant: which moment is the largest.
        runner_up: the other moment and its bytes.
        resident: bytes that stay. [byte]
        why: how the size comes about.
    """

    low: int
    likely: int
    high: int
    instant: str
    runner_up: tuple[str, int]
    resident: int
    why: str


class Batch(Record):
    """What is run at most in one step.

    Args:
        tokens: of all requests together.
        rows: requests.
    """

    tokens: int
    rows: int


class Encoded(Record):
    """What an encoder's part of the profile run takes.

    Args:
        live: bytes while it runs. [byte]
        kept: of its output, which stays while the language model runs. [byte]
        why: how the size comes about.
    """

    live: Span
    kept: int
    why: str


def second_runner(model: Model, version: Version) -> bool:
    """Whether the second model runner serves a model by default."""
    told = since(version, RUNNER_2)
    if told is None:
        return True
    if "*dense" in told:
        return not experts(model)
    return model.model_type in told


def experts(model: Model) -> bool:
    """Whether tokens are routed to experts."""
    return any(t.role == "expert" for layer, _ in model.decoder.distinct() for t in layer.weights())


def profile(
    model: Model,
    mesh: Mesh,
    batch: Batch,
    version: Version,
    *,
    width: int,
    compiled: bool,
    longest: int = 0,
    encoder: Encoded | None = None,
    pooler: Span | None = None,
) -> Peak:
    """Memory of the profile run on one rank of the last stage.

    Args:
        model: what runs.
        mesh: the degrees.
        batch: tokens and rows.
        version: of the engine.
        width: bytes of an element of an activation.
        compiled: whether the layers run compiled, which frees a layer's input as soon as it is read.
        longest: tokens of the longest request, for which latents reserve room to be expanded.
        encoder: of pictures or sound, run before on the largest that it takes; None where there is none.
        pooler: bytes of what it makes, in place of the sampler; None where there is a sampler.
    """
    D, T = model.width, batch.tokens
    V = -(-model.vocabulary // 64) * 64
    rows = min(batch.rows, T)
    beside = T * D * width + rows * D * width
    low, likely, high = (n * rows * V + beside for n in since(version, SAMPLER))
    last = "sampler of the profile run"
    if pooler is not None:
        low, likely, high = (n + beside for n in (pooler.low, pooler.likely, pooler.high))
        last = "pooler of the profile run"
    body = forward(model, mesh, T, width, _expanded(model, mesh, batch, version, longest, width))
    residual = T * D * width
    # Run by hand, a feed-forward's caller still holds its input beside the residual stream while the output is made.
    passes = (body + residual * 2, body + residual * (2 if compiled else 3), body + residual * 4)
    scratch = since(version, SCRATCH)
    second = PENALTIES * rows * V // 8 if second_runner(model, version) and pooler is None else 0
    sampling = likely >= passes[1]
    bytes_of_a_row = since(version, SAMPLER)[1]
    why = (
        f"pooler over {rows:,} requests, hidden states of {T:,} tokens"
        if sampling and pooler is not None
        else f"sampler: {rows:,} rows x {V:,} entries x {bytes_of_a_row} B, hidden states of {T:,} tokens"
        if sampling
        else f"forward pass of {T:,} tokens, widest layer"
    )
    if encoder is not None:
        low, likely, high = (n + encoder.kept for n in (low, likely, high))
        passes = (passes[0] + encoder.kept, passes[1] + encoder.kept, passes[2] + encoder.kept)
        widest = max(likely, passes[1])
        if encoder.live.likely > widest:
            return Peak(
                low=max(encoder.live.low, low, passes[0]),
                likely=encoder.live.likely + scratch,
                high=max(encoder.live.high, high, passes[2]) + 2 * scratch,
                instant="encoder of the profile run",
                runner_up=(last if sampling else "forward pass of the profile run", widest),
                resident=second,
                why=encoder.why,
            )
        high = max(high, encoder.live.high)
    return Peak(
        low=max(low, passes[0]),
        likely=max(likely, passes[1]) + scratch,
        high=max(high, passes[2]) + 2 * scratch,
        instant=last if sampling else "forward pass of the profile run",
        runner_up=("forward pass of the profile run", passes[1]) if sampling else (last, likely),
        resident=second,
        why=why,
    )


def forward(model: Model, mesh: Mesh, T: int, width: int, beside: int = 0) -> int:
    """Widest moment inside any layer, without the residual stream; ``beside`` is what a latent's attention adds."""
    return max(_layer(layer.sublayers, mesh, T, width, beside) for layer, _ in model.decoder.distinct())


def _layer(sublayers: Iterable[Any], mesh: Mesh, T: int, width: int, beside: int) -> int:
    return max(
        (_block(sub.block, mesh, T, width) + (beside if _latent(sub.block) else 0) for sub in sublayers), default=0
    )


def _latent(block: Any) -> Any:
    """The part of a block that keeps a latent."""
    return next((part for part in (block, *getattr(block, "parts", ())) if hasattr(part, "kv_rank")), None)


def _expanded(model: Model, mesh: Mesh, batch: Batch, version: Version, longest: int, width: int) -> int:
    """Keys and values of latents of earlier chunks, for which the profile run takes room, and an indexer's buffer.

    vllm/model_executor/layers/attention/mla_attention.py ``determine_chunked_prefill_workspace_size``,
    vllm/v1/attention/backends/mla/indexer.py ``get_max_prefill_buffer_size``; before 0.11 in other files. [byte]
    """
    found = [p for layer, _ in model.decoder.distinct() for sub in layer.sublayers if (p := _latent(sub.block))]
    if not found or not longest or version < (0, 9):
        return 0
    latent = found[0]
    tokens = max(min(max(8 * longest, 4 * batch.rows * LATENT_PAGE), 65536), batch.rows * LATENT_PAGE)
    indexed = any("indexer" in t.name for layer, _ in model.decoder.distinct() for t in layer.weights())
    heads, wide = int(-(-latent.N // mesh.tp)), int(latent.nope + latent.VH)
    return tokens * heads * wide * width + (INDEXED * longest * INDEXED_KEY if indexed else 0)


def _block(block: Any, mesh: Mesh, T: int, width: int) -> int:
    """Outputs of a block's matrices that live together, as wide as each matrix is on the side away from the residual.

    A gated feed-forward has gate and up (fused) and their product, attention the queries, keys, values and the output
    of its heads; experts have two buffers for every token and expert that is chosen, each as wide as the wider side.
    """
    table, wide, routed = cuts(mesh), 0, 0
    for t in block.weights():
        axes = largest_shard(t, table.of(t)).axes
        dims = dict(axes)
        if t.role == "expert" and "F" in dims:
            F, D = dims["F"], dims.get("D", 0)
            routed = max(routed, _used(block) * (max(2 * F, D) + max(F, D)) + D)
        elif t.role in ("attention", "feed_forward", "shared_expert", "mixer") and len(axes) > 1:
            side = next((letter for letter in ("D", "R") if letter in dims), None)
            if side is not None:
                wide += prod(n for letter, n in axes if letter != side)
    return T * width * max(wide, routed)


def _used(block: Any) -> int:
    """Experts that a token is routed to."""
    found = (getattr(part, "used", None) for part in (block, *getattr(block, "parts", ())))
    return next((n for n in found if n), 1)
