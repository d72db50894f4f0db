"""Sizes of files against files that libraries wrote, to the byte where the format decides them.

Recorded with transformers 5.23.0, safetensors 0.8.0, torch 2.13.0 (CPU) and huggingface_hub 2.4.0, from randomly
initialised models of the configs below.
"""

from __future__ import annotations

import ctypes
import itertools

import pytest
from stored_models import LLAMA, MIXTRAL

import tonnage as tn
from tonnage.formats import FORMATS
from tonnage.memory.store.checkpoints import optimizer_bytes, parameters
from tonnage.memory.store.files import plain
from tonnage.memory.store.storing import (
    DTYPES,
    Kept,
    archive_bytes,
    header_bytes,
    index_bytes,
    one_by_one,
    saved,
    split,
    written,
)
from tonnage.memory.store.ways import subject


@pytest.mark.parametrize(("form", "size"), [("bf16", 221_272_360), ("fp32", 442_540_296)])
def test_save_pretrained_writes_a_file_of_this_size(form, size):
    way = plain(subject(tn.load(LLAMA), FORMATS[form]), form)
    assert way.total("disk") == size
    assert way.trust == "exact"


def test_shards_and_their_index():
    model = tn.load(LLAMA)
    files = split(saved(model, FORMATS["bf16"]), 50 * 10**6)
    assert index_bytes(files, model.parameters.total) == 3233
    sizes = [header_bytes(file) + sum(t.nbytes for t in file) for file in files]
    # Where a file ends depends on the order of tensors within a layer, which is not ours.
    assert len(sizes) == 4
    assert sum(sizes) == pytest.approx(65_536_136 + 48_245_056 + 65_536_128 + 41_955_056, abs=64)
    assert sizes[0] == 65_536_136


def test_experts_one_by_one_under_other_names_are_within_the_range():
    way = plain(subject(tn.load(MIXTRAL)), "bf16")
    assert way.trust == "derived"
    assert way.total("disk", "low_bytes") <= 198_893_776 <= way.total("disk", "high_bytes")
    assert way.total("disk") == pytest.approx(198_893_776, rel=1e-5)


def test_a_tensor_of_experts_holds_what_its_parts_hold():
    for t in saved(tn.load(MIXTRAL), FORMATS["bf16"]):
        assert sum(part.nbytes for part in one_by_one(t)) == t.nbytes
    names = [t.name for t in written(tn.load(MIXTRAL), FORMATS["bf16"]) if ".layers.0.mlp.experts." in t.name]
    assert len(names) == 8 * 3


def test_a_pickled_state_dict_within_a_tenth_of_a_percent():
    sizes = [t.nbytes for t in saved(tn.load(LLAMA), FORMATS["bf16"])]
    # The archive is exact for the recorded pickle of 7,195 bytes.
    assert archive_bytes(sizes, 7195, "pytorch_model") == 221_284_028
    assert archive_bytes(sizes, 80 * len(sizes), "pytorch_model") == pytest.approx(221_284_028, rel=1e-4)


@pytest.mark.parametrize(("width", "layers", "size"), [(64, 2, 858_736), (1024, 4, 176_033_483)])
def test_optimizer_pt_of_adamw(width, layers, size):
    config = {**LLAMA, "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers,
              "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 1000}  # fmt: skip
    tensors = parameters(subject(tn.load(config), FORMATS["bf16"]))
    assert optimizer_bytes(tensors) == pytest.approx(size, rel=1e-3)
    # A tenth of a percent would be no test of a large file: the overhead itself is within two percent.
    data = sum(2 * t.nbytes + 4 for t in tensors)
    assert optimizer_bytes(tensors) - data == pytest.approx(size - data, rel=0.02)


def test_headers_as_safetensors_writes_them():
    safetensors = pytest.importorskip("safetensors")
    spelt = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "int64": "int64", "uint8": "uint8",
             "fp8_e4m3": "float8_e4m3fn", "bool": "bool", "int32": "int32"}  # fmt: skip
    shapes = [(), (3,), (128, 64), (7, 5, 3)]
    tensors = []
    for i, (form, shape) in enumerate(itertools.product(spelt, shapes)):
        n = FORMATS[form].nbytes(max(1, _numel(shape)))
        tensors.append(Kept(f"layers.{i * 37 % 101}.weight_{form}", shape, form, n))
    held = {t.name: ctypes.create_string_buffer(t.nbytes) for t in tensors}
    given = {
        t.name: safetensors.TensorSpec(
            dtype=spelt[t.format], shape=t.shape, data_ptr=ctypes.addressof(held[t.name]), data_len=t.nbytes
        )
        for t in tensors
    }
    whole = safetensors.serialize(given, metadata={"format": "pt"})
    assert header_bytes(tensors) + sum(t.nbytes for t in tensors) == len(whole)


def _numel(shape: tuple[int, ...]) -> int:
    out = 1
    for n in shape:
        out *= n
    return out


def test_every_format_of_a_model_has_a_name_in_headers():
    assert {"fp32", "bf16", "fp16", "int8", "uint8", "int32", "int64", "fp8_e4m3", "bool"} <= set(DTYPES)


def test_what_is_packed_after_loading_is_saved_dense():
    from tonnage.memory.store.files import ways
    from tonnage.report.storage import rows

    s = subject(tn.load(LLAMA))
    found = {w.name: w for w in ways(s)}
    assert found["sparse-24"].total("disk") == found["bf16"].total("disk")
    row = next(r for r in rows(s.model) if r["format"] == "sparse-24")
    packed = 4 * (2 * 1024 * 1024 + 2 * 256 * 1024 + 3 * 1024 * 2816)
    assert row["disk_bytes"] - row["bytes"] == packed * 2 * 7 // 16


def test_an_adapter_and_its_optimizer_to_the_byte_and_nearly_so():
    """Written by peft 0.21.2 and torch 2.13.0 for a LoRA of rank 16 on all linear modules of a model in bf16."""
    from tonnage.memory.store.checkpoints import adapter

    config = {
        "model_type": "llama", "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 3,
        "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 101,
    }  # fmt: skip
    tensors = adapter(subject(tn.load(config), FORMATS["bf16"]))
    assert header_bytes(tensors) + sum(t.nbytes for t in tensors) == 275_664
    assert optimizer_bytes(tensors) == pytest.approx(575_307, rel=1e-3)
