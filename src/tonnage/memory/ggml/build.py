"""What llama.cpp allocates for one context, buffer by buffer.

Reference: src/llama-context.cpp (constructor, ``output_reserve``, ``llama_init_from_model``) and src/llama-model.cpp of
ggml-org/llama.cpp v0.5.0.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery, Latent
from tonnage.arch.model import Model
from tonnage.errors import InputError
from tonnage.formats import FORMATS
from tonnage.memory.ggml.cache import PRINTED, Caches, Layer, caches, cells, padded, token_bytes
from tonnage.memory.ggml.reserve import DEVICE_ALIGN, HOST_ALIGN, Plan, Rough, compute, rough
from tonnage.memory.ggml.weights import Loaded, Placing, Weight, loaded
from tonnage.record import Record

HEADS: Final = (40, 64, 72, 80, 96, 112, 128, 256, 512)
"""Widths of heads that CUDA's flash attention takes, values as wide as keys."""
UNEVEN_HEADS: Final = ((192, 128), (320, 256), (576, 512))


class Asked(Record):
    """What a server is started with, every choice made.

    Args:
        model: what runs.
        file: its tensors.
        kept: what its layers cache.
        context: ``n_ctx``, over all sequences.
        sequences: ``n_seq_max``.
        unified: one cache for all of them.
        batch, tokens: ``n_batch`` and ``n_ubatch``.
        outputs: tokens of a pass whose logits are asked for.
        flash: whether attention is one operation.
        k, v: formats of the cache.
        placing: which device holds what.
        names: of the accelerators' buffers.
        cuda: whether they are CUDA's.
        swa_full: windowed layers keep every token.
        host_cache: the cache stays in host memory.
        mmap: the file is mapped.
        mlock: what is in host memory is locked there.
        repack: matrices that stay with the CPU are laid out anew.
        fetch: weights in host memory are fetched for large batches (``op_offload``).
        older: another build, a fork, or a graph that was not compared: the compute buffer is a range.
    """

    model: Model
    file: tuple[Weight, ...]
    kept: tuple[Layer, ...]
    context: int
    sequences: int
    unified: bool
    batch: int
    tokens: int
    outputs: int
    flash: bool
    k: str
    v: str
    placing: Placing
    names: tuple[str, ...]
    cuda: bool
    swa_full: bool
    host_cache: bool
    mmap: bool
    mlock: bool
    repack: bool
    fetch: bool
    older: bool


class Build(Record):
    """Buffers of one context. [byte]

    Args:
        asked: what was asked for.
        plan: of the compute buffers.
        weights: by device.
        caches: by device, the host's last.
        tensors: the same without what a backend adds to rows.
        compute: by device, the host's last; None where the graph is not known.
        rough: the compute buffer of the fullest device, where it is not.
        output: the host's buffer of logits.
    """

    asked: Asked
    plan: Plan
    weights: Loaded
    caches: Caches
    tensors: Caches
    compute: tuple[int, ...] | None
    rough: Rough | None
    output: int

    @property
    def devices(self) -> range:
        """The accelerators; host memory alone where there are none."""
        return range(len(self.asked.names)) if self.asked.names else range(1)

    def per_token(self, device: int) -> int:
        """Growth of the caches by one token of one sequence. [byte]"""
        a = self.asked
        return sum(
            token_bytes(layer.keys, layer.values, a.k, a.v)
            for layer in a.kept
            if layer.keys and layer.window is None and self.plan.cache(layer.index) == device
        )


def build(a: Asked, *, sampled: bool = False, measured: bool = False) -> Build:
    """Lay everything out.

    Args:
        a: what was asked for.
        sampled: some layers stand for all in the compute buffers.
        measured: as ``--fit`` measures it, which lays a graph out without allocating.
    """
    devices = len(a.names)
    held = cells(a.kept, a.context, a.sequences, a.tokens, unified=a.unified, swa_full=a.swa_full)
    whole = a.placing.offloaded > a.placing.layers
    plan = Plan(
        model=a.model,
        file=a.file,
        placing=a.placing,
        cells=held,
        tokens=min(held.context, a.tokens),
        sequences=a.sequences,
        outputs=a.outputs,
        flash=a.flash,
        k=a.k,
        v=a.v,
        host_cache=a.host_cache,
        cuda=a.cuda,
        fetch=a.fetch,
        measured=measured,
        pipelined=devices > 1 and whole and not a.host_cache and not a.placing.overrides,
    )
    reserve = compute(plan, sampled=sampled)

    def kept_in(*, cuda: bool) -> Caches:
        return caches(a.kept, held, a.k, a.v, where=plan.cache, devices=devices, padded_values=not a.flash, cuda=cuda)

    return Build(
        asked=a,
        plan=plan,
        weights=loaded(
            a.file,
            a.placing,
            cuda=a.cuda,
            align=DEVICE_ALIGN if a.cuda else HOST_ALIGN,
            repack=not devices and a.repack,
        ),
        caches=kept_in(cuda=a.cuda),
        tensors=kept_in(cuda=False),
        compute=reserve,
        rough=None if reserve is not None else rough(plan),
        output=4 * a.model.vocabulary * a.sequences,
    )


def flash_runs(model: Model) -> bool:
    """Whether CUDA's flash attention takes the model's heads.

    ggml/src/ggml-cuda/fattn.cu ``ggml_cuda_get_best_fattn_kernel``.
    """
    for layer, _ in model.decoder.distinct():
        for sub in layer.sublayers:
            b = sub.block
            if isinstance(b, GroupedQuery):
                even = b.value_width == b.H and b.H in HEADS and (b.H < 512 or b.N >= 2 * b.K)
                if not even and (b.H, b.value_width) not in UNEVEN_HEADS:
                    return False
            if isinstance(b, Latent) and (b.kv_rank + b.rope, b.kv_rank) not in UNEVEN_HEADS:
                return False
    return True


def check_cache(kept: tuple[Layer, ...], k: str, v: str, flash: str) -> None:
    """Refuse formats of the cache that llama.cpp does not start with.

    Raises:
        InputError: quantized values without flash attention, heads that blocks do not divide, or a latent in two
            formats.
    """
    if FORMATS[v].elements > 1 and flash == "off":
        raise InputError(
            f"kv_dtype_v = {v} with flash_attn = off: quantized V cache requires flash_attn to be enabled",
            key="flash_attn", value=flash, hint="--flash-attn auto, or --kv-dtype-v f16",
        )  # fmt: skip
    for layer in kept:
        if layer.keys and not layer.values and k != v:
            raise InputError(
                f"kv_dtype_v = {v}: a latent has one format, {PRINTED.get(k, k)}", key="kv_dtype_v", value=v
            )
        for key, form, width, elements in (
            ("kv_dtype", k, layer.head[0], layer.keys),
            ("kv_dtype_v", v, layer.head[1], layer.values),
        ):
            size = FORMATS[form].elements
            divides = elements % size == 0 if flash == "off" else width % size == 0
            if elements and not divides:
                raise InputError(
                    f"{key} = {form}: its blocks of {size} do not divide heads of {width}", key=key, value=form,
                    hint=f"--{key.replace('_', '-')} f16",
                )  # fmt: skip


def context_of(tokens: int, concurrency: int, slots: int, *, unified: bool) -> int:
    """``n_ctx`` that holds so many sequences of so many tokens."""
    return tokens * concurrency if unified else padded(tokens) * slots


def shares_of(text: str | None, devices: int) -> tuple[float, ...]:
    """``--tensor-split``: devices that it does not reach have no share, and where all are 0 they are equal.

    Raises:
        InputError: no list of shares, or more than there are devices.

    >>> shares_of("3,1", 2), shares_of("1", 2), shares_of(None, 2)
    ((3.0, 1.0), (1.0, 0.0), ())
    """
    if text is None or devices == 0:
        return ()
    try:
        found = tuple(float(part) for part in text.replace("/", ",").split(","))
    except ValueError:
        found = ()
    if not found or len(found) > devices or any(share < 0 for share in found):
        raise InputError(
            f"tensor_split = {text!r} is no list of {devices} shares", key="tensor_split", value=text,
            hint=f"such as {','.join('1' * devices)}; --gpus tells how many devices there are",
        )  # fmt: skip
    return (*found, *(0.0,) * (devices - len(found)))
