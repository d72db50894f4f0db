"""ExecuTorch: a decoder exported by ``export_llm``, lowered to XNNPACK or not, on the CPU of a phone or a board.

Read in pytorch/executorch 1.5.1: examples/models/llama/export_llama_lib.py and extension/llm/export (recipes),
examples/models/llama/source_transformation/quantize.py (what is packed), exir/memory_planning.py (the arena),
backends/xnnpack/runtime/XNNWeightsCache.cpp (weights packed anew when a model is loaded), extension/llm/runner (the
file is mapped). The program's planned memory, its constants and its weights were compared with real exports, what the
process holds with runs of them (``scripts/executorch/``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Gated
from tonnage.arch.model import Model
from tonnage.engines import Deployment, Engine, Setting
from tonnage.errors import InputError, UnsupportedError
from tonnage.evidence import ASSUMED, DERIVED
from tonnage.formats import FORMATS
from tonnage.memory.planned import decoder as lowered
from tonnage.memory.planned import portable
from tonnage.memory.planned.constants import Constants, Packing, constants, tied
from tonnage.memory.planned.decoder import Decoder, delegates, within
from tonnage.memory.planned.greedy import aligned, arenas
from tonnage.releases import Releases
from tonnage.timeline import Component, Instant, Rank, exact, ranged
from tonnage.units import KiB

CODE: Final = "https://github.com/pytorch/executorch/blob/v1.5.1/"
PLANNER: Final = CODE + "exir/memory_planning.py"
RECIPES: Final = CODE + "examples/models/llama/export_llama_lib.py"
RUNTIME: Final = CODE + "backends/xnnpack/runtime/XNNWeightsCache.cpp"

LENGTH: Final = 128
"""``export.max_seq_length`` and ``export.max_context_length`` where nothing is said."""
SHORTEST: Final = 4
"""Least ``max_seq_length``: the example that is traced has 3 tokens, and one less than the length is exported for."""
PADDING: Final = 64
"""What the planner adds to an arena that XNNPACK reads, which may read beyond a tensor's end. [byte]"""
SCALAR: Final = 4
"""The one constant beside weights and tables. [byte]"""
XNNPACK: Final = "xnnpack"
PORTABLE: Final = "portable"
"""No backend: ExecuTorch's own kernels."""
KERNELS: Final = (64 * KiB, 512 * KiB)
"""What a run of those takes beside the arena: 0.1 MB for one token, 0.5 MB for 126 were seen. [byte]"""

INT8: Final = "int8"
"""``quantize_kv_cache``: a scale in fp32 and a zero point in int8 for each token and head."""
FORM: Final = {4: "fp32", 2: "bf16"}
FAMILIES: Final = {"llama": False, "qwen2": True, "qwen3": True, "phi3": True}
"""Families that are modelled, and whether the export turns halves of heads or neighbouring pairs."""
DELEGATE: Final = (6 * KiB, 10 * KiB + 512, 16 * KiB)
"""What the runtime keeps for one step of XNNPACK's: 7.9 to 13.4 KB in eleven models that were run. [byte]"""
SPARE: Final = 512 * KiB
"""What a first long input takes beyond that, at most: 0.2 to 0.4 MB were seen, beside a row of each token. [byte]"""

NOT_MODELLED: Final = (
    "the application, its libraries and its tokenizer",
    "pages of the file that stay mapped: they are clean, and the system may take them back (unless they are locked)",
    "several methods in one program; adapters; pruned vocabularies; caches with an attention sink",
)


def deploy(model: Model, s: Setting) -> Deployment:
    """What a runner holds that has loaded the exported program and read an input of its greatest length.

    Raises:
        UnsupportedError: a model, a backend or a format whose program is not modelled.
        InputError: what the export would refuse.
    """
    context = s.said.get("context", LENGTH)
    longest = s.said.get("max_seq_length", min(LENGTH, context))
    _check(model, s, context, longest)
    caveats = []
    if "context" not in s.said or "max_seq_length" not in s.said:
        caveats.append(
            f"exported for {context:,} tokens, inputs of {longest:,}: --context and --max-seq-length are the export's "
            "max_context_length and max_seq_length, 128 where nothing is said"
        )
    backend, dtype = s.said.get("backend", XNNPACK), s.said.get("dtype", "fp32")
    decoder = _decoder(model, longest - 1, FORMATS[dtype].nbytes(1), packed=s.said.get("kv_dtype") == INT8)
    packing = _packing(model, s, decoder.element)
    held = constants(model, packing, lowered=backend == XNNPACK)
    if held.left:
        caveats.append(f"{held.left} matrices stay in fp32: their columns do not divide into groups of {packing.group}")
    found = _lines(model, decoder, packing, held, context, backend)
    weights = sum(c.bytes for c in found if c.name in ("weights", "other:rotary tables"))
    total = sum(c.bytes for c in found)
    instants = (Instant("the program is loaded", weights), Instant("the longest input is read", total))
    kept = sum(c.bytes for c in found if c.tier == "requested")
    rank = Rank(
        rank="0", multiplicity=1, static_bytes=kept, peak=instants[1], runner_up=instants[0], components=found,
        instants=instants,
    )  # fmt: skip
    cache = _cache(decoder, context)
    if s.device is not None and s.device.unified:
        caveats.append("beyond its share of the memory an application is ended by the system, without an error")
    return Deployment(
        ranks=(rank,),
        settled={
            "dtype": dtype, "kv_dtype": INT8 if decoder.packed else dtype, "context": context,
            "max_seq_length": longest, "backend": backend,
            "qmode": packing.mode, "group_size": packing.group if packing.mode else None,
            "embedding_quantize": s.said.get("embedding_quantize"),
        },
        capacity={
            "kv_bytes": cache, "kv_bytes_per_token": cache // context, "tokens": None, "blocks": None,
            "max_context": None, "max_concurrency": None, "log": [f"Required memory for activation in bytes: [0, "
                                                                 f"{_planned(found)}]"],
        },
        caveats=tuple(caveats),
        not_modelled=NOT_MODELLED,
        doubt=(*model.ignored,),
    )  # fmt: skip


def _check(model: Model, s: Setting, context: int, longest: int) -> None:
    said = s.said
    if s.mesh.world > 1 or s.concurrency > 1:
        what = f"{s.mesh.world} devices" if s.mesh.world > 1 else f"{s.concurrency} sequences at once"
        raise UnsupportedError(
            f"{what}: a program is exported for one sequence on one device",
            key="gpus" if s.mesh.world > 1 else "concurrency", value=s.concurrency,
        )  # fmt: skip
    backend = said.get("backend", XNNPACK)
    if backend not in (XNNPACK, PORTABLE):
        raise UnsupportedError(
            f"backend = {backend}: what it lays out is its own compiler's, and is not modelled", key="backend",
            value=backend, hint="--backend xnnpack",
        )  # fmt: skip
    _check_model(model)
    if s.recipe is not None:
        raise UnsupportedError(
            f"{s.recipe.title}: the export packs weights by recipes of its own", key="quant", value=s.recipe.method,
            hint="--quant none --qmode 8da4w --group-size 128 --embedding-quantize 4,32",
        )  # fmt: skip
    if backend == PORTABLE:
        _check_portable(model, said)
    elif said.get("dtype") not in (None, "fp32"):
        raise UnsupportedError(
            f"dtype = {said['dtype']}: with XNNPACK a program computes in fp32; others are not modelled yet",
            key="dtype", value=said["dtype"], hint="--qmode 8da4w packs the weights; --backend portable takes bf16",
        )  # fmt: skip
    if said.get("kv_dtype") not in (None, "fp32", INT8):
        raise InputError(
            f"kv_dtype = {said['kv_dtype']}: a cache is fp32, or int8 (quantize_kv_cache)", key="kv_dtype",
            value=said["kv_dtype"], hint="--kv-dtype int8",
        )  # fmt: skip
    if said.get("kv_dtype") == INT8 and _attention(model).rotary_width is not None:
        raise UnsupportedError(
            f"an int8 cache of {model.model_type}: the steps that pack it are not modelled yet", key="kv_dtype",
            value=INT8, hint="--kv-dtype fp32",
        )  # fmt: skip
    if context < longest:
        raise InputError(
            f"max_context_length {context} must be >= max_seq_len {longest}", key="max_seq_length", value=longest
        )  # fmt: skip
    if longest < SHORTEST:
        raise InputError(
            f"max_seq_length = {longest}: the export traces 3 tokens, which have to be fewer",
            key="max_seq_length", value=longest, hint=f"{SHORTEST} or more",
        )  # fmt: skip


def _check_portable(model: Model, said: Mapping[str, Any]) -> None:
    odd = next((key for key in ("qmode", "embedding_quantize", "kv_dtype") if said.get(key) is not None), None)
    if odd is not None or FAMILIES[model.model_type] or said.get("dtype") not in (None, "fp32", "bf16"):
        what = odd or ("dtype" if said.get("dtype") not in (None, "fp32", "bf16") else "engine")
        raise UnsupportedError(
            "backend = portable is modelled for llama in fp32 or bf16, nothing packed", key=what,
            value=said.get(what, model.model_type), hint="--backend xnnpack",
        )  # fmt: skip


def _check_model(model: Model) -> None:
    layer: Any = model.decoder.layers[0].sublayers if model.stacks else ()
    kinds = [type(sub.block) for sub in layer]
    if model.model_type not in FAMILIES or kinds != [GroupedQuery, Gated] or model.head is None:
        raise UnsupportedError(
            f"{model.class_name or model.model_type}: its exported program is not modelled", key="engine",
            value=model.model_type, hint=f"modelled: {', '.join(FAMILIES)} with a language head",
        )  # fmt: skip
    if layer[0].block.o_bias or layer[1].block.bias:
        raise UnsupportedError(
            "the export's own model has no biases behind attention and in the feed-forward", key="engine",
            value=model.model_type,
        )  # fmt: skip


def _attention(model: Model) -> GroupedQuery:
    block = model.decoder.layers[0].sublayers[0].block
    assert isinstance(block, GroupedQuery)
    return block


def _decoder(model: Model, tokens: int, element: int, *, packed: bool) -> Decoder:
    attention, feed = _attention(model), model.decoder.layers[0].sublayers[1].block
    assert isinstance(feed, Gated)
    return Decoder(
        tokens=tokens, width=model.width, layers=len(model.decoder.layers), heads=attention.N,
        kv_heads=attention.K, head=attention.H, inner=feed.F, vocabulary=model.vocabulary, element=element,
        halves=FAMILIES[model.model_type], turned=attention.rotary_width or attention.H,
        head_norms=attention.q_norm is not None, packed=packed,
    )  # fmt: skip


def _packing(model: Model, s: Setting, element: int) -> Packing:
    """What ``qmode``, ``group_size`` and ``embedding_quantize`` say."""
    mode, group, text = s.said.get("qmode"), s.said.get("group_size"), s.said.get("embedding_quantize")
    if group is not None and mode is None:
        raise InputError(
            "group_size without a qmode packs nothing", key="group_size", value=group, hint="--qmode 8da4w"
        )  # fmt: skip
    if group is not None and (group % 32 or group & (group - 1)):
        raise InputError(
            f"group_size = {group}: XNNPACK's blocks of 4 bits have 32, 64, 128, ... weights", key="group_size",
            value=group,
        )  # fmt: skip
    bits, width = None, 0
    if text is not None:
        first, _, second = text.partition(",")
        if first not in ("2", "4", "8") or not (second.isdecimal() or second.lower() == "none"):
            raise InputError(
                f'embedding_quantize = {text}: "<bitwidth>,<groupsize>" with 2, 4 or 8 bits is meant',
                key="embedding_quantize", value=text, hint="4,32; 8,0 for a scale a row",
            )  # fmt: skip
        bits, width = int(first), int(second) if second.isdecimal() else 0
        if width and model.width % width:
            raise InputError(
                f"embedding_quantize = {text}: rows of {model.width:,} do not divide into groups of {width}",
                key="embedding_quantize", value=text, hint=f"{first},32; {first},0 for a scale a row",
            )  # fmt: skip
    return Packing(mode=mode, group=group or 128, bits=bits, width=width, element=element)


def _cache(d: Decoder, context: int) -> int:
    """Keys and values; with int8, their scales and zero points as well. [byte]"""
    kept = (d.head, 4, 1) if d.packed else (d.head * d.element,)
    return 2 * d.layers * sum(aligned(context * d.kv_heads * each) for each in kept)


def _planned(lines: tuple[Component, ...]) -> int:
    """The arena: caches, tensors between steps and padding. [byte]"""
    return sum(c.bytes for c in lines if c.name in ("kv_cache", "activations"))


def _lines(
    model: Model, d: Decoder, packing: Packing, held: Constants, context: int, backend: str
) -> tuple[Component, ...]:
    tables = 2 * context * d.turned // (1 if d.halves else 2) * d.element + SCALAR
    padding = PADDING if backend == XNNPACK else 0
    low, likely, high = (n + padding for n in arenas((lowered if padding else portable).lives(d)))
    what = f"in {FORM[d.element]}" if packing.mode is None else f"{packing.mode} in groups of {packing.group}"
    if packing.bits is not None:
        what += f", table of {packing.bits} bit"
    words = f"{model.parameters.total:,} parameters, {what}" + (
        "; the tied head is stored again" if padding and tied(model) is not None else ""
    )
    return (
        exact("weights", held.bytes, words, RECIPES, trust=DERIVED),
        exact("other:rotary tables", tables, f"cosines and sines of {context:,} positions", RECIPES, trust=DERIVED),
        exact("kv_cache", _cache(d, context), f"{context:,} tokens, all of them reserved in the arena", PLANNER,
              trust=DERIVED),
        ranged("activations", low, likely, high,
               f"the rest of the arena, for inputs of up to {d.tokens:,} tokens; the range: the planner's order of "
               "tensors of one size is not known", PLANNER, tier="requested", trust=DERIVED),
        _workspace(d, held.packed, backend),
    )  # fmt: skip


def _workspace(d: Decoder, packed: int, backend: str) -> Component:
    """What the runtime takes beside arena and weights."""
    row = d.tokens * max(d.inner, d.width) * SCALAR
    if backend != XNNPACK:
        low, likely = KERNELS
        words = "assumed: buffers that kernels take for a moment"
        return ranged("workspace", low, likely, likely + SPARE + row, words, RUNTIME, tier="allocated", trust=ASSUMED)
    inside = within(d)
    least, usual, most = (inside + packed + n * delegates(d) for n in DELEGATE)
    words = (
        f"assumed: XNNPACK's own tensors ({inside:,} B), sums and biases beside packed weights ({packed:,} B), 6 to "
        f"16 KiB for each of {delegates(d)} steps that it takes"
    )
    return ranged("workspace", least, usual, most + SPARE + row, words, RUNTIME, tier="allocated", trust=ASSUMED)


ENGINE: Final = Engine(
    name="executorch",
    releases=Releases("executorch", newest=(1, 5), oldest=(1, 5), last={}),
    reference=RECIPES,
    takes=("max_seq_length", "backend", "qmode", "group_size", "embedding_quantize"),
    deploy=deploy,
)
