"""Peaks of the jobs that make a checkpoint out of another: saving, merging, converting, quantizing, calibrating.

Leaves out: the program, CUDA's context, the allocator's rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tonnage import quant
from tonnage.evidence import ASSUMED, MEASURED
from tonnage.formats import FORMATS
from tonnage.memory.adapters import targeted
from tonnage.memory.store.checkpoints import RANK
from tonnage.memory.store.ways import Subject, Way, line
from tonnage.quant import Entry
from tonnage.record import Record
from tonnage.tensors import size

SAVING: Final = (
    "https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/modeling_utils.py save_pretrained; "
    "core_model_loading.py revert_weight_conversion"
)
COPYING: Final = (
    "https://github.com/huggingface/safetensors/blob/v0.8.0/bindings/python/py_src/safetensors/torch.py _to_ndarray"
)
PEFT: Final = "https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/lora/layer.py merge, get_delta_weight"
DYNAMIC: Final = "https://github.com/pytorch/pytorch/blob/v2.13.0/torch/ao/quantization/quantize.py quantize_dynamic"
CPP: Final = "https://github.com/ggml-org/llama.cpp/blob/007dbbf3fd17eefe9b47fee45f48f7ba5e62b714"
CONVERTER: Final = f"{CPP}/convert_hf_to_gguf.py prepare_tensors, LazyTorchTensor; gguf-py/gguf/lazy.py"
QUANTIZER: Final = f"{CPP}/src/llama-quant.cpp llama_model_quantize_impl: f32_conv_buf, work, read_data"
IMATRIX: Final = f"{CPP}/tools/imatrix/imatrix.cpp IMatrixCollector, struct Stats"
GPTQ: Final = (
    "llm-compressor 0.14.0 modifiers/gptq/base.py _hessians, gptq_quantize.py quantize_weight, helpers.py "
    "factorize_hessian; pipelines/sequential; arXiv:2210.17323"
)
AWQ: Final = "autoawq 0.2.9 awq/quantize/quantizer.py quantize, _search_best_scale; arXiv:2306.00978"
SAMPLES: Final = 512
TOKENS: Final = 2048
"""Calibration: llm-compressor's default number of samples, and the length that the GPTQ paper and its examples take."""
AWQ_SAMPLES: Final = (128, 512)
"""autoawq's ``max_calib_samples`` and ``max_calib_seq_len``: blocks of 512 tokens, at most 128."""
PACKING: Final = 1.34
"""Bytes an element of the largest matrix over the copied model; read with torch 2.13.0."""
DELTA: Final = (8, 12, 16)
"""Bytes an element that merging takes on the CPU: the product of the adapter's matrices in fp32, scaled, and the sum.
11.4 read with peft 0.21.2, bf16 weights and adapters in fp32."""


class Heaviest(Record):
    """What calibrating needs of the layer with most parameters.

    Args:
        layer: bytes of its tensors. [byte]
        hessians: elements of all its Hessians: the squared width of each linear module's input.
        widest: elements of the largest Hessian.
        matrix: elements of the largest linear module.
        inputs: widths of the inputs of its linear modules, added up.
        once: the same, of all experts only one.
    """

    layer: int
    hessians: int
    widest: int
    matrix: int
    inputs: int
    once: int


def heaviest(s: Subject, entries: list[Entry]) -> Heaviest:
    """The layer with most parameters, and its linear modules; experts count one by one."""
    of: dict[int, list[int]] = {}
    for _, t, m in entries:
        if t.layer is None or t.role == "buffer":
            continue
        at = of.setdefault(t.layer, [0, 0, 0, 0, 0, 0])
        at[0] += s.form.nbytes(t.numel)
        if m is not None and (m.linear or m.batch) and m.role != "router":
            n = size(m.batch)
            at[1] += n * m.columns**2
            at[2] = max(at[2], m.columns**2)
            at[3] = max(at[3], m.rows * m.columns)
            at[4] += n * m.columns
            at[5] += m.columns
    return Heaviest(*max(of.values(), default=[0, 0, 0, 0, 0, 0]))


def saving(s: Subject, entries: list[Entry]) -> Way:
    """``model.save_pretrained(path)`` of a model on the CPU."""
    host = line("host", "other:saving", 0, "tensors are written from where they lie", SAVING)
    if s.merged:
        why = "experts are taken apart again: gate and up matrices of a file are copied"
        host = line("host", "other:saving", min(s.merged * 2 // 3, _file(s)), why, SAVING, high=min(s.merged, _file(s)))
    disk = line("disk", "weights", s.disk, "safetensors files", SAVING)
    return Way("save_pretrained", "beside the model itself, on the CPU", (host, disk))


def saving_device(s: Subject, entries: list[Entry]) -> Way:
    """The same of a model on a device: safetensors copies all tensors of a file to the host before it writes."""
    why = "tensors of the largest file, copied to the host all at once"
    lines = [
        line("host", "other:saving", _file(s), why, COPYING),
        line("disk", "weights", s.disk, "safetensors files", SAVING),
    ]
    if s.merged:
        why = "experts are taken apart again: gate and up matrices are copied on the device"
        lines.append(line("device", "other:saving", min(s.merged * 2 // 3, _file(s)), why, SAVING, high=s.merged))
    return Way("save_pretrained, cuda", "beside the model itself, on the device", tuple(lines))


def _file(s: Subject) -> int:
    return max((sum(t.nbytes for t in file) for file in s.files), default=0)


def merging(s: Subject, entries: list[Entry]) -> Way:
    """``merge_and_unload()`` of a LoRA on all linear modules, loaded on the CPU."""
    found = targeted(s.model, entries, ("all-linear",))
    changed = sum(times * s.form.nbytes(m.rows * m.columns) for times, m in found)
    adapter = sum(times * 4 * RANK * (m.rows + m.columns) for times, m in found)
    largest = max((m.rows * m.columns for _, m in found), default=0)
    low, usual, high = (n * largest for n in DELTA)
    return Way(
        "merge a LoRA",
        f"peft merge_and_unload on the CPU; rank {RANK} on all linear modules",
        (
            line("host", "weights", changed + s.merged, "weights that are added to: a write copies a mapped page",
                 PEFT, high=s.data),
            line("host", "other:adapter", adapter, "two matrices a module, in fp32", PEFT, low=adapter // 2),
            line("host", "other:delta", usual, "the largest module's update in fp32 and what is made of it", PEFT,
                 trust=MEASURED, low=low, high=high),
            line("mapped", "weights", s.disk, "the base model's files", PEFT, low=0),
            line("disk", "weights", s.disk, "the merged model's files", SAVING),
        ),
    )  # fmt: skip


def converting(s: Subject, entries: list[Entry]) -> Way:
    """``convert_hf_to_gguf.py --outtype f16``: lazily, a tensor at a time."""
    one = s.largest // s.form.bytes
    if s.merged:
        # A file's stack is of gate or of up matrices alone, half of what transformers concatenates.
        dense = max((t.nbytes for t in s.tensors if len(t.shape) < 3), default=0)
        one = max(s.group // 2, dense) // s.form.bytes
    wide = 0 if s.form.bytes == 4 or s.form.name == "fp16" else 4
    return Way(
        "convert_hf_to_gguf",
        "to f16, lazily; --no-lazy holds the whole model instead",
        (
            line("host", "other:largest tensor", one * (wide + 2),
                 f"{one:,} elements in fp32 and in fp16; experts of a layer are one tensor", CONVERTER,
                 low=one * 2, high=one * (2 * wide + 2 + s.form.bytes)),
            line("mapped", "weights", s.disk, "the checkpoint's files", CONVERTER, low=0),
            line("disk", "weights", s.of(FORMATS["fp16"]), "the GGUF file, without its metadata", CONVERTER),
        ),
    )  # fmt: skip


def requantizing(s: Subject, entries: list[Entry]) -> Way:
    """``llama-quantize``: a tensor at a time."""
    one = s.largest // s.form.bytes if not s.merged else max(s.group // 2, s.largest // 4) // s.form.bytes
    return Way(
        "llama-quantize",
        "f16 or bf16 GGUF to any type",
        (
            line("host", "other:conversion", 4 * one, f"the largest tensor, {one:,} elements, in fp32", QUANTIZER),
            line("host", "other:work", 4 * one, "as much for the result, which it takes for an upper bound", QUANTIZER,
                 low=one // 4),
            line("mapped", "weights", s.of(FORMATS["fp16"]), "the source file's pages", QUANTIZER, low=0),
        ),
    )  # fmt: skip


def importance(s: Subject, entries: list[Entry]) -> Way:
    """``llama-imatrix``: sums of squares of every matrix' inputs, beside a run of the model."""
    sums = 0
    for times, _, m in entries:
        if m is not None and m.role != "router":
            sums += times * size(m.batch) * m.columns
    return Way(
        "llama-imatrix",
        "beside a run of the model (tonnage serve --engine llamacpp)",
        (
            line("host", "other:sums", 4 * sums, f"{sums:,} sums in fp32: one for each input of each matrix", IMATRIX,
                 high=12 * sums),
            line("disk", "other:sums", 4 * sums, "the importance matrix, without names", IMATRIX, high=5 * sums),
        ),
    )  # fmt: skip


def dynamic(s: Subject, entries: list[Entry]) -> Way:
    """``torch.ao.quantization.quantize_dynamic`` of a model in fp32, which it copies whole unless told not to."""
    single = FORMATS["fp32"]
    whole = s.of(single)
    largest = max((m.rows * m.columns for _, _, m in entries if m is not None and m.linear), default=0)
    return Way(
        "quantize_dynamic",
        "torch dynamic int8; with inplace=True without the copy",
        (
            line("host", "weights", whole, "a deep copy of the model in fp32, packed module by module", DYNAMIC),
            line("host", "other:packing", round(PACKING * largest), "int8 copies of the matrix at hand", DYNAMIC,
                 trust=MEASURED, low=0, high=3 * largest),
            line("mapped", "weights", whole, "the model that is copied, where its files are mapped", DYNAMIC, low=0),
        ),
    )  # fmt: skip


def gptq(s: Subject, entries: list[Entry]) -> Way:
    """GPTQ layer by layer: Hessians of all linear modules of the layer at hand."""
    h, hidden = heaviest(s, entries), s.form.nbytes(SAMPLES * TOKENS * s.model.width)
    forward = s.form.nbytes(TOKENS * h.once)
    return Way(
        "gptq",
        f"llm-compressor, layer by layer; {SAMPLES} samples of {TOKENS:,} tokens",
        (
            line("device", "weights", h.layer, f"the layer at hand in {s.form.name}", GPTQ),
            line("device", "other:hessians", 4 * h.hessians,
                 "in fp32, the squared input width of each of its linear modules", GPTQ),
            line("device", "other:working copies", 4 * (h.matrix + h.widest),
                 "the matrix at hand in fp32, and a copy of its Hessian", GPTQ, low=4 * h.matrix,
                 high=4 * (2 * h.matrix + 3 * h.widest)),
            line("device", "activations", forward, "one sample through the layer: inputs of its modules", GPTQ,
                 trust=ASSUMED, low=forward // 2, high=4 * forward),
            line("host", "weights", s.merged, "the model stays on the host, mapped but for stacked experts", GPTQ,
                 high=s.data),
            line("mapped", "weights", s.disk, "the checkpoint's files", GPTQ, low=0),
            line("host", "activations", hidden, "inputs of the layer at hand for all samples", GPTQ, low=hidden,
                 high=2 * hidden),
        ),
    )  # fmt: skip


def awq(s: Subject, entries: list[Entry]) -> Way:
    """AWQ layer by layer: inputs of every linear module for all samples."""
    h, tokens = heaviest(s, entries), AWQ_SAMPLES[0] * AWQ_SAMPLES[1]
    features, hidden = s.form.nbytes(tokens * h.once), s.form.nbytes(tokens * s.model.width)
    return Way(
        "awq",
        f"autoawq, layer by layer; {AWQ_SAMPLES[0]} samples of {AWQ_SAMPLES[1]} tokens",
        (
            line("device", "weights", h.layer, f"the layer at hand in {s.form.name}", AWQ),
            line("device", "activations", 3 * hidden, "all samples at once: the layer's input and two outputs", AWQ,
                 trust=ASSUMED, low=hidden, high=3 * hidden + features),
            line("device", "other:working copies", 2 * s.form.nbytes(h.matrix), "a matrix scaled and quantized", AWQ,
                 trust=ASSUMED, low=s.form.nbytes(h.matrix), high=4 * s.form.nbytes(h.matrix)),
            line("host", "activations", features, "inputs of each module for all samples; an expert sees some",
                AWQ,
                low=features // 4,
                high=s.form.nbytes(tokens * h.inputs),),
            line("host", "weights", s.data, "the model", AWQ, low=0),
        ),
    )  # fmt: skip


JOBS: Final[tuple[Callable[[Subject, list[Entry]], Way], ...]] = (
    saving, saving_device, merging, converting, requantizing, importance, dynamic, gptq, awq,
)  # fmt: skip


def ways(s: Subject) -> Iterator[Way]:
    """Every job for one model."""
    entries = quant.entries(s.model, by_layer=False)
    for job in JOBS:
        yield job(s, entries)
