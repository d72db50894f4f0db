"""The projector of pictures beside llama.cpp's model: sizes that it printed, where it lies, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from tonnage.checkpoint import Header, Stored
from tonnage.errors import InputError, TonnageError, UnsupportedError
from tonnage.formats import FORMATS
from tonnage.memory.ggml.graph import Node
from tonnage.memory.ggml.sched import Device, reserved
from tonnage.memory.ggml.vision.buffers import Where, loaded
from tonnage.memory.ggml.vision.graphs import graph
from tonnage.memory.ggml.vision.projector import Projector, read
from tonnage.sources.mmproj import converted

MiB = 2**20
TEXT = {
    "model_type": "qwen3_vl_text", "intermediate_size": 6144, "num_hidden_layers": 2, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936,
}  # fmt: skip
VISION = {
    "model_type": "qwen3_vl", "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16,
    "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 2304,
}  # fmt: skip


def qwen3(width: int, deep: list[int]) -> Any:
    config = {
        "model_type": "qwen3_vl", "architectures": ["Qwen3VLForConditionalGeneration"],
        "text_config": {**TEXT, "hidden_size": width},
        "vision_config": {**VISION, "out_hidden_size": width, "deepstack_visual_indexes": deep},
    }  # fmt: skip
    return tn.load({"config": config, "name": "qwen3-vl"})


def served(model: Any, **said: Any) -> Any:
    return tn.serve(model, **{"engine": "llamacpp", "context": 4096, "suggest": False, **said})


def printed(result: Any) -> list[str]:
    lines = result.capacity["log"]
    return [
        line.split("=" if "=" in line else ": ")[-1].strip() for line in lines if line.startswith(("load_h", "res"))
    ]


# What real cards and loaders printed.


def test_qwen3_vl_30b_as_its_loader_printed() -> None:
    # ik_llama.cpp, a server's log of 7 November 2025: "loaded 352 tensors", "model size: 1033.29 MiB".
    header = converted(qwen3(2048, [8, 16, 24]), "f16")
    assert len(header.tensors) == 352
    assert round(header.weight_bytes / MiB, 2) == 1033.29


def test_qwen3_6_27b_as_cuda_printed() -> None:
    # Its mmproj-BF16.gguf on a CUDA device, May 2026; the compute buffers stand in ollama v0.32.15
    # llm/llama_server_test.go as well: 887.99, 248.10 and 24.93 MiB, a picture of 1472 x 1472.
    p = read(converted(qwen3(5120, []), "bf16"))
    assert p.warmup == (1472, 1472)
    found = loaded(p, Where(device=True))
    assert [round(n / MiB, 2) for n in (found.file, *found.reserved)] == [887.99, 248.10, 24.93]


def test_qwen2_5_vl_3b_as_its_loader_printed() -> None:
    # hybridgroup/yzma, a log of 2025: a q8_0 file of 805.59 MiB. Until 2026 its two convolutions were in fp16.
    header = converted(tn.load("qwen2.5-vl-3b"), "q8_0")
    older = sum(t.numel * 2 for t in header.tensors if t.name.startswith("v.patch_embd"))
    assert round((header.weight_bytes - older) / MiB, 2) == 805.59


# MiniCPM-V 2.6, whose files the converter does not make: what libmtmd v0.5.0 printed of one laid out by its script.


def minicpm() -> Header:
    D, F, wide = 1152, 4304, 3584
    shapes: dict[str, tuple[tuple[int, ...], str]] = {
        "v.patch_embd.weight": ((D, 3, 14, 14), "fp16"), "v.patch_embd.bias": ((D,), "fp32"),
        "v.position_embd.weight": ((4900, D), "fp32"), "v.post_ln.weight": ((D,), "fp32"),
        "v.post_ln.bias": ((D,), "fp32"), "resampler.pos_embed_k": ((4900, wide), "fp16"),
        "resampler.query": ((64, wide), "fp32"), "resampler.proj.weight": ((wide, wide), "fp16"),
        "resampler.kv.weight": ((wide, D), "fp16"),
    }  # fmt: skip
    for i in range(26):
        for name, shape in {
            "attn_q": (D, D), "attn_k": (D, D), "attn_v": (D, D), "attn_out": (D, D), "ffn_up": (F, D),
            "ffn_down": (D, F),
        }.items():  # fmt: skip
            shapes[f"v.blk.{i}.{name}.weight"] = (shape, "fp16")
            shapes[f"v.blk.{i}.{name}.bias"] = (shape[:1], "fp32")
        for name in ("ln1", "ln2"):
            shapes |= {f"v.blk.{i}.{name}.{leaf}": ((D,), "fp32") for leaf in ("weight", "bias")}
    for name in ("attn.q", "attn.k", "attn.v", "attn.out"):
        shapes[f"resampler.{name}.weight"] = ((wide, wide), "fp16")
        shapes[f"resampler.{name}.bias"] = ((wide,), "fp32")
    for name in ("ln_q", "ln_kv", "ln_post"):
        shapes |= {f"resampler.{name}.{leaf}": ((wide,), "fp32") for leaf in ("weight", "bias")}
    tensors = []
    for name, (shape, form) in shapes.items():
        count = 1
        for n in shape:
            count *= n
        tensors.append(Stored(name, shape, form, FORMATS[form].nbytes(count)))
    metadata = {
        "general.architecture": "clip", "clip.has_vision_encoder": True, "clip.projector_type": "resampler",
        "clip.minicpmv_version": 3, "clip.vision.embedding_length": D, "clip.vision.feed_forward_length": F,
        "clip.vision.attention.head_count": 16, "clip.vision.block_count": 26, "clip.vision.patch_size": 14,
        "clip.vision.image_size": 448,
    }  # fmt: skip
    return Header(kind="gguf", tensors=tuple(tensors), name="minicpm-v", origin="", metadata=metadata)


@pytest.mark.parametrize(("flash", "sizes"), [("auto", (53.31, 2.31)), ("off", (84.31, 2.31))])
def test_minicpm_v_as_libmtmd_printed(flash: str, sizes: tuple[float, float]) -> None:
    p = read(minicpm())
    found = loaded(p, Where(device=True, flash=flash))
    assert tuple(round(n / MiB, 2) for n in found.reserved) == sizes
    assert p.tokens(*p.largest) == 64


# Where it lies and what it adds.


def test_a_server_holds_the_projector_on_its_first_device() -> None:
    result = served("qwen2.5-vl-7b", gpu="rtx-4090", quant="q4_k_m", mmproj="f16")
    assert printed(result) == ["1291.40 MiB", "704.79 MiB", "292.41 MiB"]
    rank = result.ranks[0]
    names = [i.name for i in rank.instants]
    assert names == ["weights are loaded", "the server is ready", "the largest picture is read"]
    # 1792 x 1792, for which libmtmd v0.5.0 reserves 1893.03 MiB.
    grown = rank.peak.bytes - rank.static_bytes
    assert round(grown / MiB, 2) == round(1893.03 - 704.79, 2)
    assert "mmproj: a picture takes 8 to 4,096 tokens of the context (--image-max-tokens)" in result.caveats


def test_a_projector_with_the_host_takes_nothing_of_the_device() -> None:
    plain = served("qwen2.5-vl-7b", gpu="rtx-4090", quant="q4_k_m")
    hosted = served("qwen2.5-vl-7b", gpu="rtx-4090", quant="q4_k_m", mmproj="f16", mmproj_offload=False)
    assert plain.fullest.tier("device") == hosted.fullest.tier("device")
    assert any(text.startswith("the encoder of pictures") for text in plain.caveats)


def test_fewer_tokens_of_a_picture_are_less_memory() -> None:
    few = served("qwen2.5-vl-7b", gpu="rtx-4090", mmproj="f16", image_max_tokens=1024).ranks[0]
    many = served("qwen2.5-vl-7b", gpu="rtx-4090", mmproj="f16").ranks[0]
    assert few.static_bytes == many.static_bytes
    assert few.peak.bytes == few.static_bytes < many.peak.bytes


def test_a_picture_that_does_not_fit_is_told() -> None:
    short = served("qwen2.5-vl-7b", mmproj="f16", context=2048)
    assert "mmproj: a picture of 4,096 tokens is longer than a context of 2,048" in short.caveats
    config = {
        "model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "mm_tokens_per_image": 256,
        "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
                        "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
                        "vocab_size": 262208, "sliding_window": 1024},
        "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
                          "image_size": 896, "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14,
                          "vision_use_head": False},
    }  # fmt: skip
    gemma = tn.load({"config": config, "name": "gemma-3-4b"})
    # src/llama-context.cpp v0.5.0: "non-causal attention requires n_ubatch >= n_tokens".
    told = [served(gemma, mmproj="f16", ubatch_size=n).caveats for n in (128, 256)]
    assert [any("llama.cpp stops at a picture" in text for text in caveats) for caveats in told] == [True, False]


def test_fit_leaves_room_for_it() -> None:
    said = {"gpu": "7000MiB", "quant": "q4_k_m", "fit": True, "kv_dtype": "q8_0"}
    alone = served("qwen2.5-vl-7b", **said)
    beside = served("qwen2.5-vl-7b", mmproj="f16", **said)
    assert beside.workload["n_gpu_layers"] is None
    weights = [sum(c.bytes for c in r.fullest.components if c.why.startswith("CUDA0 model")) for r in (alone, beside)]
    assert weights[1] < weights[0]


def test_what_a_device_does_not_run_goes_to_the_host() -> None:
    def runs(t: Node) -> bool:
        return t.op != "IM2COL"

    p = read(converted(tn.load("mistral-small-3.1-24b"), "f16"))
    devices = [Device("GPU", 128, True, lambda t: t.nbytes, runs), Device("CPU", 32, False, lambda t: t.nbytes)]
    whole = [Device("GPU", 128, True, lambda t: t.nbytes), devices[1]]
    (_, some), parts = reserved(graph(p, p.warmup, 0, flash=True), devices)
    (_, none), one = reserved(graph(p, p.warmup, 0, flash=True), whole)
    assert parts > one
    assert some > none


def test_sizes_of_pictures() -> None:
    p = read(converted(tn.load("qwen2.5-vl-7b"), "f16"), most=1000)
    wide, high = p.largest
    assert wide % 28 == high % 28 == 0
    assert 990 <= p.tokens(wide, high) <= 1000
    pixtral = read(converted(tn.load("mistral-small-3.1-24b"), "f16"))
    # One token at the end of each row but the last.
    assert pixtral.tokens(896, 896) == 32 * 32 + 31


# What is refused, each in one line.


def gguf(path: Path, **keys: Any) -> str:
    """A file of keys without tensors."""

    def text(s: str) -> bytes:
        return struct.pack("<Q", len(s)) + s.encode()

    body = b"".join(
        text(k) + (struct.pack("<I?", 7, v) if isinstance(v, bool) else struct.pack("<I", 8) + text(v))
        for k, v in keys.items()
    )
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys)) + body + b"\0" * 32)
    return str(path)


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ({"mmproj": "no-such.gguf"}, TonnageError, "cannot read"),
        ({"mmproj": "q4_k_m"}, InputError, "is no GGUF file"),
        ({"mmproj": "f16", "image_min_tokens": 64, "image_max_tokens": 32}, InputError, "is more than"),
        ({"image_max_tokens": 100}, InputError, "no projector is loaded"),
        ({"mmproj_offload": False}, InputError, "no projector is loaded"),
        ({"mmproj": "f16", "mmproj_device": 2, "gpu": "24GiB"}, InputError, "invalid device CUDA2"),
        ({"mmproj": "f16", "mmproj_device": 0, "mmproj_offload": False}, InputError, "stays with the CPU"),
        ({"mmproj": "f16", "gpus": 2, "split_mode": "none", "main_gpu": 1, "gpu": "24GiB"}, UnsupportedError,
         "whatever main_gpu says"),
        ({"mmproj": "f16", "model": "llama-3.1-8b"}, InputError, "has no encoder of pictures"),
        ({"mmproj": "f16", "engine": "vllm"}, InputError, "vllm has no such setting"),
    ],
)  # fmt: skip
def test_wrong_projectors(said: dict[str, Any], kind: type[TonnageError], words: str) -> None:
    model = said.pop("model", "qwen2.5-vl-7b")
    with pytest.raises(kind, match=words) as caught:
        served(model, **said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "kind", "words"),
    [
        ({"general.architecture": "llama"}, InputError, "no projector, but a llama model"),
        ({}, InputError, "no GGUF header of one"),
        ({"general.architecture": "clip"}, InputError, "no encoder of pictures in it"),
        ({"general.architecture": "clip", "clip.has_audio_encoder": True}, UnsupportedError, "reads sound"),
        ({"general.architecture": "clip", "clip.has_vision_encoder": True, "clip.projector_type": "ldp"},
         UnsupportedError, "projectors of type ldp are not modelled"),
        ({"general.architecture": "clip", "clip.has_vision_encoder": True, "clip.projector_type": "mlp"}, InputError,
         "patch_size is missing"),
    ],
)  # fmt: skip
def test_wrong_files(tmp_path: Path, keys: dict[str, Any], kind: type[TonnageError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        served("qwen2.5-vl-7b", mmproj=gguf(tmp_path / "a.gguf", **keys))
    assert "\n" not in str(caught.value)


def test_a_projector_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(TonnageError, match="a projector of pictures or sound, no model"):
        tn.load(gguf(tmp_path / "a.gguf", **{"general.architecture": "clip"}))


def test_a_projector_of_another_model_is_refused() -> None:
    other = converted(tn.load("qwen3-vl-8b"), "f16")
    model = tn.load("qwen2.5-vl-7b").but(files={"mmproj": other})
    with pytest.raises(InputError, match=r"mismatch between text model \(n_embd = 3584\) and mmproj \(n_embd = 4096\)"):
        served(model)


def test_a_file_that_lacks_a_tensor_is_refused() -> None:
    whole = converted(tn.load("qwen2.5-vl-7b"), "f16")
    short = whole.but(tensors=tuple(t for t in whole.tensors if t.name != "v.blk.3.ffn_up.weight"))
    with pytest.raises(InputError, match=r"unable to find tensor v\.blk\.3\.ffn_up\.weight"):
        served(tn.load("qwen2.5-vl-7b").but(files={"mmproj": short}))


def test_a_projector_is_a_record_of_its_header() -> None:
    p = read(converted(tn.load("qwen2.5-vl-7b"), "f16"))
    assert isinstance(p, Projector)
    assert (p.width, p.heads, p.layers, p.window, p.merge, p.out) == (1280, 16, 32, 8, 2, 3584)
