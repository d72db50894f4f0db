"""Bytes of files: safetensors to the byte, torch's archives and GGUF with their overhead.

A safetensors file is 8 bytes, a JSON header that is padded to a multiple of 8, and the tensors one after the other
without gaps (https://github.com/huggingface/safetensors/blob/v0.8.0/safetensors/src/tensor.rs, ``prepare``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from tonnage.arch.model import Model
from tonnage.formats import FORMATS, Format
from tonnage.record import Record

SAFETENSORS: Final = "https://github.com/huggingface/safetensors/blob/v0.8.0/safetensors/src/tensor.rs prepare"
SHARDS: Final = (
    "https://github.com/huggingface/huggingface_hub/blob/v2.4.0/src/huggingface_hub/serialization/_base.py "
    "split_state_dict_into_shards_factory; transformers v5.23.0 modeling_utils.py save_pretrained, "
    "max_shard_size='50GB'"
)
ARCHIVE: Final = (
    "https://github.com/pytorch/pytorch/blob/v2.13.0/torch/serialization.py _save, caffe2/serialize/inline_container.cc"
)
SHARD: Final = 50 * 10**9
"""``max_shard_size`` of transformers 5; version 4 splits at 5 GB."""

DTYPES: Final = {
    "uint64": "U64", "int64": "I64", "fp64": "F64", "complex64": "C64", "fp32": "F32", "uint32": "U32",
    "int32": "I32", "bf16": "BF16", "fp16": "F16", "uint16": "U16", "int16": "I16", "fp8_e5m2fnuz": "F8_E5M2FNUZ",
    "fp8_e4m3fnuz": "F8_E4M3FNUZ", "fp8_e8m0": "F8_E8M0", "fp8_e4m3": "F8_E4M3", "fp8_e5m2": "F8_E5M2", "int8": "I8",
    "uint8": "U8", "fp4_e2m1": "F4", "bool": "BOOL",
}  # fmt: skip
"""Names of formats in a header, in the order in which a file holds them: the widest first."""


class Kept(Record):
    """A tensor on its way to a file.

    Args:
        name: as the file has it.
        shape: outermost dimension first.
        format: of its elements.
        nbytes: what it takes. [byte]
    """

    name: str
    shape: tuple[int, ...]
    format: str
    nbytes: int


def padded(n: int, to: int) -> int:
    """``n``, rounded up to a multiple.

    >>> padded(9, 8)
    16
    """
    return -(-n // to) * to


def header_bytes(tensors: Iterable[Kept]) -> int:
    """Bytes before the first tensor of a safetensors file: the header's length, the header, its padding. [byte]

    The only metadata is ``{"format": "pt"}``, as transformers writes it; names need no escapes.

    >>> header_bytes([Kept("w", (2, 3), "bf16", 12)])
    104
    """
    order = {name: i for i, name in enumerate(DTYPES)}
    size, at = len('{"__metadata__":{"format":"pt"}}'), 0
    for t in sorted(tensors, key=lambda t: (order[t.format], t.name)):
        dims = ",".join(map(str, t.shape))
        kind = DTYPES[t.format]
        size += len(f',"{t.name}":{{"dtype":"{kind}","shape":[{dims}],"data_offsets":[{at},{at + t.nbytes}]}}')
        at += t.nbytes
    return 8 + padded(size, 8)


def split(tensors: Sequence[Kept], limit: int = SHARD) -> list[list[Kept]]:
    """Files of a checkpoint: tensors in order, a new file where the next would pass the limit."""
    files: list[list[Kept]] = []
    current: list[Kept] = []
    size = 0
    for t in tensors:
        if t.nbytes > limit:
            files.append([t])
            continue
        if size + t.nbytes > limit:
            files.append(current)
            current, size = [], 0
        current.append(t)
        size += t.nbytes
    return [*files, current] if current else files


def index_bytes(files: Sequence[Sequence[Kept]], parameters: int) -> int:
    """Bytes of ``model.safetensors.index.json``; 0 for a single file. [byte]"""
    if len(files) < 2:
        return 0
    total = sum(t.nbytes for file in files for t in file)
    head = f'{{\n  "metadata": {{\n    "total_parameters": {parameters},\n    "total_size": {total}\n  }},\n'
    lines = [len(f'    "{t.name}": "model-00001-of-00001.safetensors"') for file in files for t in file]
    return len(head) + len('  "weight_map": {\n') + sum(lines) + 2 * len(lines) - 1 + len("  }\n}\n")


LOST: Final = (
    "inv_freq", "position_ids", "token_type_ids", "embed_positions", "normalizer", "embed_scale", "pos_encoding",
    "mup_vector", "_layernorm.weight", "transformer.bias", "attn.attention.bias", "embed_positions.weights",
)  # fmt: skip
"""Endings of buffers that are registered as not persistent, so that no file has them."""


CONVERSIONS: Final = (
    "transformers v5.23.0 conversion_mapping.py, as core_model_loading.py revert_weight_conversion undoes it"
)
STACKED: Final = frozenset(
    (
        "aria_text", "gpt_oss", "granitemoe", "granitemoe_swa", "granitemoehybrid", "granitemoeshared", "hy_v4",
        "inkling2_text", "inkling_text", "llama4", "llama4_text", "minimax_m3_vl_text", "zaya",
    )
)  # fmt: skip
"""Types whose files hold the experts of a layer as one tensor; files of all others hold them one by one."""
RENAMED: Final = frozenset(
    (
        "aria_text", "axk1", "axk2", "bailing_hybrid", "deepseek_v4", "ernie4_5_moe", "esm", "exaone_moe", "flint",
        "fuyu", "gemma3", "gemma3n_text", "got_ocr2", "gpt_neox", "granitemoe", "granitemoehybrid", "granitemoeshared",
        "gte", "hrm_text", "hy_v3", "hy_v4", "inkling2_text", "jina_embeddings_v3", "kimi_linear", "kolibri1",
        "laguna", "lfm3", "luke", "mimo_v2_flash", "minimax", "minimax_m2", "mixtral", "mra", "nemotron_h",
        "nomic_bert", "olmo_hybrid", "phimoe", "ultrabert", "ultravbert",
    )
)  # fmt: skip
"""Types whose files have other names than the modules that transformers builds, beside experts one by one."""


def saved(model: Model, form: Format) -> list[Kept]:
    """What ``save_pretrained`` writes under the names that transformers builds; tied tensors once."""
    out = []
    for t in map(model.kept, model.tensors()):
        if t.alias_of is None and not (t.role == "buffer" and t.name.endswith(LOST)):
            own = form if t.dtype is None else FORMATS[t.dtype]
            out.append(Kept(t.name, t.shape, own.name, own.nbytes(t.numel)))
    return out


def written(model: Model, form: Format) -> list[Kept]:
    """The same as files have it: experts one by one where they do."""
    found = saved(model, form)
    if model.model_type in STACKED:
        return found
    return [part for t in found for part in one_by_one(t)]


def one_by_one(t: Kept) -> list[Kept]:
    """A tensor of stacked experts as older checkpoints have it: a gate, an up and a down matrix for each expert."""
    module, _, last = t.name.rpartition(".")
    names = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",), "up_proj": ("up_proj",)}.get(last)
    if names is None or len(t.shape) != 3:
        return [t]
    E, outs, ins = t.shape
    rows, n = outs // len(names), t.nbytes // E // len(names)
    return [Kept(f"{module}.{e}.{name}.weight", (rows, ins), t.format, n) for e in range(E) for name in names]


def archive_bytes(storages: Iterable[int], pickle: int, name: str) -> int:
    """Bytes of a zip archive that ``torch.save`` writes. [byte]

    Each storage is a record of its own at a multiple of 64 bytes, with a header before it and a descriptor behind it,
    and a line in the directory at the end. Records beyond 4 GiB take a few bytes more, which is left out.

    Args:
        storages: sizes. [byte]
        pickle: size of ``data.pkl``. [byte]
        name: of the archive within the file.
    """
    at = directory = 0
    records = [("data.pkl", pickle), (".format_version", 1), (".storage_alignment", 2), ("byteorder", 6)]
    records += [(f"data/{i}", n) for i, n in enumerate(storages)]
    for called, n in [*records, ("version", 2), (".data/serialization_id", 40)]:
        label = len(name) + 1 + len(called)
        # The padding is an extra field, which takes four bytes at the least.
        at = padded(at + 30 + label + 4, 64) + n + 16
        directory += 46 + label
    # The end of the directory is written in its 64-bit form as well, always.
    return at + directory + 56 + 20 + 22
