"""Host and device memory while a model is loaded, at its peak and above what the program takes without it.

transformers 5 reads a file through a mapping and turns it into parameters one tensor after the other, on four threads
that may run ahead of the one that assigns. What stays in its own format is a view of the mapping: no memory of the
process, but pages that a forward pass brings in. Experts that a file holds one by one are stacked and concatenated,
which takes one more tensor of the size of the largest. Checked against processes that load models of 200 and 440 MB
(tests/memory/test_loading.py holds the readings).

Leaves out: the program, CUDA's context, the allocator's rounding, what the C library keeps of freed
blocks below 32 MiB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tonnage.evidence import MEASURED
from tonnage.formats import FORMATS, Format
from tonnage.memory.store.ways import Subject, Way, line
from tonnage.timeline import Component

V5: Final = "https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers"
LOADER: Final = f"{V5}/core_model_loading.py convert_and_load_state_dict_in_model, GLOBAL_WORKERS"
MERGER: Final = f"{V5}/core_model_loading.py MergeModulelist, Concatenate"
WARMUP: Final = f"{V5}/modeling_utils.py caching_allocator_warmup"
READER: Final = f"{V5}/modeling_utils.py _load_pretrained_model, disable_mmap"
OLD: Final = (
    "https://github.com/huggingface/transformers/blob/v4.48.0/src/transformers/modeling_utils.py "
    "_load_state_dict_into_model, _load_state_dict_into_meta_model"
)
PICKLE: Final = "https://github.com/pytorch/pytorch/blob/v2.13.0/torch/serialization.py load; nn/modules/module.py"
LEGACY: Final = f"{V5}/modeling_gguf_pytorch_utils.py load_gguf_checkpoint"
OFFLOAD: Final = (
    f"{V5}/integrations/accelerate.py accelerate_disk_offload; accelerate v1.15.0 hooks.py AlignDevicesHook"
)
CPP: Final = (
    "https://github.com/ggml-org/llama.cpp/blob/007dbbf3fd17eefe9b47fee45f48f7ba5e62b714/src/llama-model-loader.cpp "
    "load_all_data"
)
DEQUANTIZING: Final = 15
"""Bytes an element that a tensor takes while gguf-py dequantizes it from Q8_0: numbers and scales in fp32, their
product, its copy, and that in the model's format. Read with transformers 5.23.0 and gguf 0.19.0: 14.9."""
WORKERS: Final = 4
"""Threads of transformers' loader; fewer on fewer cores."""
STAGING: Final = (4 * 2**20, 4 * 64 * 2**20)
"""llama.cpp's four buffers for uploads: 1 MiB each, 64 MiB each where files are read directly."""


def other(s: Subject) -> Format:
    """A format that the checkpoint is not in: what ``dtype=`` may ask for."""
    return FORMATS["bf16"] if s.form.bytes == 4 else FORMATS["fp32"]


def _mapped(s: Subject, why: str = "", *, low: int = 0) -> Component:
    why = why or "pages of the files as they are touched; the system may drop them"
    return line("mapped", "weights", s.disk, why, READER, low=low)


def _stacks(s: Subject, form: Format, place: str, *, copies: bool) -> Iterator[Component]:
    """What stacking experts takes at its peak, over the stacked experts themselves."""
    if not s.group:
        return
    group = s.resized(s.group, form)
    why = "the last layer's gate and up matrices, stacked, beside the tensor that they are concatenated to"
    # Behind the largest come the down projections, half its size, which are not there yet where sources are mapped.
    low = group if copies else group // 2
    yield line(place, "other:stacking experts", group, why, MERGER, low=low)


def same(s: Subject) -> Way:
    """``from_pretrained(path)`` on the CPU."""
    lines = [_mapped(s)]
    if s.merged:
        why = "experts that the files hold one by one, stacked into tensors of their own"
        lines.insert(0, line("host", "weights", s.merged, why, MERGER))
    else:
        lines.insert(0, line("host", "weights", 0, "parameters are views of the mapped files", LOADER))
    lines += _stacks(s, s.form, "host", copies=False)
    return Way("cpu", f"transformers 5, safetensors, cpu, in {s.form.name} as the files are", tuple(lines))


def converted(s: Subject) -> Way:
    """``from_pretrained(path, dtype=...)`` on the CPU."""
    form = other(s)
    lines = [
        line("host", "weights", s.of(form), f"every tensor, converted to {form.name}", LOADER),
        *_stacks(s, form, "host", copies=True),
        _mapped(s, "the files, until loading is over"),
    ]
    return Way(f"cpu, {form.name}", f"transformers 5, safetensors, cpu, dtype={form.name}", tuple(lines))


def device(s: Subject) -> Way:
    """``from_pretrained(path, device_map="cuda")``."""
    lines = [
        line("host", "other:workers", 0, "copied from the mapping to the device", LOADER),
        _mapped(s, "the files, until loading is over"),
        line("device", "weights", s.data, f"in {s.form.name}; as much is reserved at once beforehand", WARMUP),
        *_stacks(s, s.form, "device", copies=True),
    ]
    return Way("cuda", "transformers 5, safetensors, device_map='cuda'", tuple(lines))


def device_converted(s: Subject) -> Way:
    """The same, in another format: a tensor is converted on the host before it is copied."""
    form = other(s)
    one = max((t.nbytes * form.bytes // s.form.bytes for t in s.tensors), default=0)
    if s.merged:
        one = max((t.nbytes * form.bytes // s.form.bytes for t in s.tensors if len(t.shape) < 3), default=0)
    why = f"up to {WORKERS} tensors in {form.name} on their way to the device"
    lines = [
        line("host", "other:workers", one, why, LOADER, low=0, high=WORKERS * one),
        _mapped(s, "the files, until loading is over"),
        line("device", "weights", s.of(form), f"in {form.name}; as much is reserved at once beforehand", WARMUP),
        *_stacks(s, form, "device", copies=True),
    ]
    return Way(f"cuda, {form.name}", f"transformers 5, safetensors, device_map='cuda', dtype={form.name}", tuple(lines))


def then_moved(s: Subject) -> Way:
    """``from_pretrained(path).to("cuda")``."""
    lines = [
        line("host", "weights", s.merged, "stacked experts, until they are moved; the rest stays mapped", LOADER),
        *_stacks(s, s.form, "host", copies=False),
        _mapped(s),
        line("device", "weights", s.data, f"one parameter after the other, in {s.form.name}", PICKLE),
    ]
    return Way("cpu, then .to('cuda')", "transformers 5, safetensors, cpu, then .to('cuda')", tuple(lines))


def offloaded(s: Subject) -> Way:
    """``device_map`` with every layer on disk: the least that a forward pass needs."""
    why = "no tensor stays: each is mapped, and copied to where its module runs"
    lines = [
        line("host", "other:workers", 0, why, OFFLOAD, high=s.largest),
        line("device", "other:largest tensor", s.largest, "a module's tensors at a time", OFFLOAD, high=2 * s.largest),
        _mapped(s, "the files while they are read; stacked experts are written anew to the offload folder"),
        line("disk", "other:offload folder", s.merged, "stacked experts, which the files hold one by one", OFFLOAD),
    ]
    return Way("device_map, disk", "transformers 5 and accelerate, all layers offloaded to disk", tuple(lines))


def unmapped(s: Subject) -> Way:
    """``from_pretrained(path, disable_mmap=True)``."""
    file = max((sum(t.nbytes for t in file) for file in s.files), default=0)
    lines = [line("host", "weights", s.data, "tensors read from the files' bytes", READER)]
    if s.merged + s.group > file:
        why = "stacked experts, and the last of them twice, while the state dict still holds what they are made of"
        lines.append(line("host", "other:stacking experts", s.merged + s.group, why, MERGER))
    else:
        why = "the largest file as one string of bytes, while its tensors are made"
        lines.append(line("host", "other:file", file, why, READER))
    return Way("cpu, without mmap", "transformers 5, disable_mmap=True (chosen by itself on hf-mount)", tuple(lines))


def pickle_mapped(s: Subject) -> Way:
    """``pytorch_model.bin`` through ``from_pretrained``: torch.load maps it."""
    lines = [
        line("host", "weights", s.merged, "parameters are views of the mapped archive", PICKLE),
        _mapped(s),
    ]
    return Way(".bin, cpu", "transformers 5, pytorch_model.bin, cpu; torch.load(mmap=True)", tuple(lines))


def pickle_copied(s: Subject) -> Way:
    """``model.load_state_dict(torch.load(path))``."""
    lines = [
        line("host", "weights", s.data, "the model as it was built", PICKLE),
        line("host", "other:state dict", s.data, "the archive's tensors, until the state dict is dropped", PICKLE),
    ]
    return Way(".bin, load_state_dict", "torch.load without mmap, then load_state_dict", tuple(lines))


def pickle_assigned(s: Subject) -> Way:
    """``model.load_state_dict(torch.load(path, mmap=True), assign=True)`` on a model on the meta device."""
    lines = [line("host", "weights", 0, "parameters are the archive's own mapped tensors", PICKLE), _mapped(s)]
    return Way(".bin, mmap and assign", "torch.load(mmap=True), load_state_dict(assign=True)", tuple(lines))


def old_low(s: Subject) -> Way:
    """transformers 4 with ``low_cpu_mem_usage=True``, or from 4.48 at the latest without it too."""
    lines = [
        line("host", "weights", 0, "parameters are views of the mapped files", OLD),
        _mapped(s, "the files as they are touched"),
    ]
    return Way("4.x, low_cpu_mem_usage", "transformers 4, low_cpu_mem_usage=True, torch_dtype='auto'", tuple(lines))


def old_plain(s: Subject) -> Way:
    """transformers 4.38 without it: a whole model, and a file at a time beside it from which it is copied."""
    file = max((sum(t.nbytes for t in file) for file in s.files), default=0)
    lines = [
        line("host", "weights", s.data, "the model as it is built; each tensor is copied into it", OLD),
        line("mapped", "other:state dict", file, "one file at a time", OLD, low=0),
    ]
    return Way("4.38, without it", "transformers 4.38, low_cpu_mem_usage=False, torch_dtype='auto'", tuple(lines))


def old_single(s: Subject) -> Way:
    """transformers 4 without ``torch_dtype``: fp32, whatever the checkpoint is in."""
    whole = s.of(FORMATS["fp32"])
    lines = [
        line("host", "weights", whole, "every tensor in fp32, since torch_dtype is not given", OLD),
        _mapped(s, "the files, until loading is over"),
    ]
    return Way("4.x, no torch_dtype", "transformers 4, torch_dtype not given", tuple(lines))


def dequantized(s: Subject) -> Way:
    """A GGUF file through transformers: every tensor is dequantized on the host before the model is filled."""
    whole = s.of(FORMATS["fp32"])
    one = s.largest // s.form.bytes
    inner = max((t.nbytes for t in s.tensors if ".0." in t.name), default=s.largest) // s.form.bytes
    why = f"the tensor at hand: {DEQUANTIZING} B an element, most of it numpy arrays in fp32"
    lines = [
        line("host", "weights", whole, "a dense state dict, in fp32 unless dtype says otherwise", LEGACY, low=s.data),
        line("host", "other:dequantizing", DEQUANTIZING * inner, why, LEGACY, trust=MEASURED, low=0,
             high=DEQUANTIZING * one),
        line("device", "weights", whole, "with device_map='cuda', beside the host's state dict", LEGACY, low=s.data),
    ]  # fmt: skip
    what = "transformers 5.23, gguf_file=...: dequantized; Qwen 3.5 and LFM 2 alone can stay packed"
    return Way("gguf, dequantized", what, tuple(lines))


WAYS: Final[tuple[Callable[[Subject], Way], ...]] = (
    same, converted, device, device_converted, then_moved, offloaded, unmapped, pickle_mapped, pickle_copied,
    pickle_assigned, old_low, old_plain, old_single, dequantized,
)  # fmt: skip
"""Ways that hold for every model; quantizing while loading and llama.cpp follow in ``quantizing.py``."""


def ways(s: Subject) -> Iterator[Way]:
    """Every way to load the model's own checkpoint."""
    for way in WAYS:
        yield way(s)
