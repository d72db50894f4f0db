"""Encoders of pictures in vLLM's profile run, held against lines of public logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from tonnage.memory.pool.processors import largest
from tonnage.memory.pool.towers import items, tower
from tonnage.placement.mesh import Mesh

GIB = 2**30
H100 = {"engine": "vllm", "gpu": "h100-sxm-80gb"}


def serve(model: str, **said: Any) -> Any:
    return tn.serve(model, suggest=False, **said)


def line(model: str, **said: Any) -> str:
    log = serve(model, **{**H100, **said}).capacity["log"]
    return next((x for x in log if x.startswith(("Encoder cache", "Skipping"))), "")


@pytest.mark.parametrize(
    ("model", "said", "budget", "count", "modality"),
    [
        # A report on vLLM of 2025-04: Qwen2.5-VL at its own 128,000 positions; six pairs of frames beside a picture.
        ("qwen2.5-vl-7b", {"engine_version": "0.8", "context": 128_000}, 98_304, 1, "video"),
        # Dao-AILab/flash-attention issue 1763, and a boot log of 2025-08: pictures come first where both have as many.
        ("qwen2.5-vl-7b", {"engine_version": "0.9", "context": 128_000}, 16_384, 1, "image"),
        # A boot log of 0.23 on an A100 of 80 GB: seven pairs of frames.
        ("qwen2.5-vl-7b", {"engine_version": "0.23", "context": 128_000}, 114_688, 1, "video"),
        # A boot log of 0.11 of Qwen3-VL on four ranks: time stamps counted in.
        ("qwen3-vl-8b", {"engine_version": "0.11", "context": 128_000}, 153_600, 1, "video"),
        # Many logs of Qwen3-VL and its successors from 0.19 on.
        ("qwen3-vl-8b", {"engine_version": "0.20", "context": 65_536}, 16_384, 1, "image"),
        # A vLLM issue of 2025-04 on Mistral Small 3.1 with --limit_mm_per_prompt image=10; ends of rows count.
        (
            "mistral-small-3.1-24b",
            {"engine_version": "0.8", "context": 65_536, "limit_mm_per_prompt": "image=10"},
            8192,
            3,
            "image",
        ),
        # A workshop's log of Ministral 3, whose tower is the same, with 8,192 tokens a step.
        ("mistral-small-3.1-24b", {"engine_version": "0.22", "context": 8192}, 8192, 2, "image"),
    ],
)
def test_the_line_of_the_encoders_budget(
    model: str, said: dict[str, Any], budget: int, count: int, modality: str
) -> None:
    assert line(model, **said) == (
        f"Encoder cache will be initialized with a budget of {budget} tokens, and profiled with {count} {modality} "
        "items of the maximum feature size."
    )


def test_a_video_of_114_688_tokens_takes_what_the_log_leaves_for_it() -> None:
    # The same log of 0.23 on an A100 of 80 GB with 0.22 of its memory: 15.67 GiB of weights, 0.53 GiB of graphs, and
    # -14.28 GiB for the cache, which leaves 15.5 GiB of 17.43 to the profile run and what is no tensor.
    found = serve(
        "qwen2.5-vl-7b", engine="vllm", engine_version="0.23", gpu="a100-sxm-80gb", gpu_memory_utilization=0.22,
        context=128_000,
    )  # fmt: skip
    sizes = {c.name: c.bytes / GIB for c in found.components}
    taken = sizes["activations"] + sizes["workspace"] + sizes["other:non-torch"]
    assert taken == pytest.approx(0.22 * 79.25 - 15.67 - 0.53 + 14.28, rel=0.01)
    assert found.fullest.peak.name == "encoder of the profile run"
    # Pixels, input, attention's output, their sum, its norm, gate and up, their product, and the output of the block.
    line = next(c for c in found.components if c.name == "activations")
    assert line.bytes - 12 * 2**20 == 458_752 * (1176 + 5 * 1280 + 3 * 3420) * 2


GEMMA3 = {
    "model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "torch_dtype": "bfloat16",
    "text_config": {"model_type": "gemma3_text", "hidden_size": 5376, "intermediate_size": 21504,
                    "num_hidden_layers": 62, "num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128,
                    "sliding_window": 1024, "vocab_size": 262208, "max_position_embeddings": 131072},
    "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152, "image_size": 896,
                      "intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14},
}  # fmt: skip
GEMMA4 = {
    "model_type": "gemma4", "architectures": ["Gemma4ForConditionalGeneration"], "torch_dtype": "bfloat16",
    "text_config": {"model_type": "gemma4_text", "hidden_size": 2816, "num_hidden_layers": 30,
                    "num_attention_heads": 16, "num_key_value_heads": 8, "num_global_key_value_heads": 2,
                    "intermediate_size": 2112, "vocab_size": 262144, "vocab_size_per_layer_input": 262144,
                    "sliding_window": 1024, "attention_k_eq_v": True, "hidden_size_per_layer_input": 0,
                    "num_kv_shared_layers": 0, "enable_moe_block": True, "num_experts": 128, "top_k_experts": 8,
                    "moe_intermediate_size": 704, "max_position_embeddings": 262144},
    "vision_config": {"model_type": "gemma4_vision", "hidden_size": 1152, "intermediate_size": 4304,
                      "num_hidden_layers": 27, "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 72},
}  # fmt: skip
WHISPER = {
    "model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"], "vocab_size": 51866,
    "num_mel_bins": 128, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120,
    "decoder_layers": 4, "decoder_attention_heads": 20, "decoder_ffn_dim": 5120, "d_model": 1280,
    "torch_dtype": "float16",
}  # fmt: skip
FAMILIES = Path(__file__).parent.parent / "families" / "data"


def family(name: str, **over: Any) -> dict[str, Any]:
    return {**json.loads((FAMILIES / f"{name}.json").read_text(encoding="utf-8"))["config"], **over}


@pytest.mark.parametrize(
    ("config", "said", "budget", "count", "modality"),
    [
        # A boot log of 0.11 of gemma-3-27b-it, image=2: text around 256 embeddings counts, four tokens.
        (GEMMA3, {"engine_version": "0.11", "context": 4096, "limit_mm_per_prompt": "image=2"}, 8192, 31, "image"),
        (GEMMA3, {"engine_version": "0.13", "context": 4096, "limit_mm_per_prompt": "image=2"}, 8192, 32, "image"),
        # Boot logs of 0.19 of gemma-4-26B-A4B: 32 frames of 70 tokens, their ends and times counted.
        (GEMMA4, {"engine_version": "0.19", "context": 98_304, "max_num_seqs": 2}, 8192, 3, "video"),
        (
            GEMMA4,
            {"engine_version": "0.19", "context": 98_304, "max_num_seqs": 8, "max_num_batched_tokens": 16_384},
            16_384, 6, "video",
        ),
        # A report on serving Gemma 4 for receipts: without videos 29 pictures of 280 tokens.
        (GEMMA4, {"engine_version": "0.22", "context": 32_768, "limit_mm_per_prompt": "video=0"}, 8192, 29, "image"),
        # Boot logs of 0.16 and 0.17 of whisper-large-v3-turbo: one sound of 1,500 positions fits into 2,048.
        (WHISPER, {"engine_version": "0.17", "max_num_batched_tokens": 2048}, 2048, 1, "audio"),
        # vllm pull request 32167 (0.14): Qwen3-Omni with sound alone, 13 tokens a second for 30 s.
        (
            family("qwen3_omni_moe"),
            {"engine_version": "0.14", "context": 32_768, "limit_mm_per_prompt": "image=0,video=0"},
            8192, 21, "audio",
        ),
    ],
)  # fmt: skip
def test_the_line_of_models_whose_processors_cut_pieces(
    config: dict[str, Any], said: dict[str, Any], budget: int, count: int, modality: str
) -> None:
    found = serve({"config": config, "name": "it"}, **{**H100, "max_num_batched_tokens": 8192, **said})
    assert found.capacity["log"][1] == (
        f"Encoder cache will be initialized with a budget of {budget} tokens, and profiled with {count} {modality} "
        "items of the maximum feature size."
    )
    assert not any("encoder" in n for n in found.not_modelled)


ANY = {"image": 999, "video": 999, "audio": 999}


@pytest.mark.parametrize(
    ("kind", "positions", "merge", "context", "version", "tokens"),
    [
        # A report on GLM-4.5V of 2025-08 (0.10): 300 pairs of frames of 100 tokens, with their ends and times.
        ("glm4v_moe", 576, 1, 65_536, (0, 10), {"image": 3721, "video": 30_970}),
        # vllm issue 34040 has a picture of GLM bound by its own pixels: 78 x 78.
        ("glm4v", 576, 1, 65_536, (0, 20), {"image": 6084, "video": 30_000}),
        # Eleven frames are six pairs of 73 x 73.
        ("glm4v", 576, 1, 65_536, (0, 33), {"image": 6084, "video": 31_974}),
        # tests/models/multimodal/processing/test_llava_next.py of vllm: 672 x 672 pixels make 2,928 tokens.
        ("llava_next", 576, 1, 8192, (0, 33), {"image": 2928}),
        # Idefics3-8B: 17 pieces of 169; SmolVLM: 17 of 81 (preprocessor_config.json, processor_config.json).
        ("idefics3", 676, 4, 8192, (0, 33), {"image": 2873}),
        ("smolvlm", 729, 9, 8192, (0, 33), {"image": 1377}),
        # Twelve pieces of 256 and the whole picture; 115 frames in what 32,768 tokens leave.
        ("internvl", 1024, 1, 32_768, (0, 33), {"image": 3328, "video": 29_440}),
        ("llava_onevision", 729, 1, 32_768, (0, 33), {"image": 8748, "video": 3137}),
        ("phi4_multimodal", 1024, 1, 32_768, (0, 12), {"image": 10_065, "audio": 188}),
        ("gemma3n", 0, 1, 8192, (0, 12), {"image": 260, "audio": 192}),
        ("qwen2_audio", 0, 1, 8192, (0, 33), {"audio": 750}),
        ("voxtral", 0, 1, 32_768, (0, 33), {"audio": 32_768}),
    ],
)
def test_the_largest_items(
    kind: str, positions: int, merge: int, context: int, version: tuple[int, int], tokens: dict[str, int]
) -> None:
    assert {i.modality: i.tokens for i in largest(kind, positions, merge, ANY, context, version)} == tokens


def test_a_tower_tells_positions_and_what_its_connector_merges() -> None:
    for name, positions, merge in (("idefics3", 729, 9), ("internvl", 1024, 1), ("glm4v", 576, 1)):
        found = tower(tn.load({"config": family(name), "name": name}), Mesh())
        assert found is not None
        assert (found.kind, found.positions, found.merge) == ("told", positions, merge)


def test_pictures_of_gemma4_ran_one_by_one() -> None:
    said = {"context": 32_768, "max_num_batched_tokens": 65_536, "max_num_seqs": 64}
    before, after = (
        serve({"config": GEMMA4, "name": "it"}, **H100, **said, engine_version=v) for v in ("0.21", "0.22")
    )  # fmt: skip
    assert before.fullest.peak.name == "forward pass of the profile run"
    assert after.fullest.peak.name == "encoder of the profile run"


def test_an_encoder_whose_memory_is_not_known_still_has_its_budget() -> None:
    found = serve({"config": family("gemma3n"), "name": "it"}, **H100, context=8192)
    assert "with 32 image items" in found.capacity["log"][1]
    assert "encoders of this kind in the profile run" in found.not_modelled


def test_tables_of_three_dimensional_positions_have_four_rows_for_each() -> None:
    # Boot logs of 0.9 and 0.10 print 15.6269 to 15.6271 GiB for Qwen2.5-VL-7B.
    found = serve("qwen2.5-vl-7b", **H100, engine_version="0.10", context=8192)
    assert float(found.capacity["log"][0].split()[3]) == pytest.approx(15.627, rel=0.0002)
    table = next(c for c in found.components if c.why.startswith("cosine"))
    assert table.bytes == 4 * 128_000 * 128 * 2


def test_smaller_pictures_make_a_smaller_budget() -> None:
    # Six pairs of frames of 1,280 tokens fit into the context.
    said = {"engine_version": "0.33", "context": 8192, "max_num_batched_tokens": 2048}
    assert "budget of 7680 tokens, and profiled with 1 video" in line("qwen2.5-vl-7b", **said, max_pixels=1_003_520)
    only = line("qwen2.5-vl-7b", **said, max_pixels=1_003_520, limit_mm_per_prompt="video=0")
    # 1,280 tokens a picture, of which the budget of 2,048 holds one.
    assert "budget of 2048 tokens, and profiled with 1 image" in only


@pytest.mark.parametrize("said", [{"limit_mm_per_prompt": "image=0,video=0"}, {"language_model_only": True}])
def test_text_alone_needs_no_encoder(said: dict[str, Any]) -> None:
    whole = serve("qwen2.5-vl-7b", **H100, context=8192)
    text = serve("qwen2.5-vl-7b", **H100, context=8192, **said)
    assert line("qwen2.5-vl-7b", context=8192, **said) == ""
    loaded = [sum(c.bytes for c in r.components if c.name == "weights") for r in (whole, text)]
    assert loaded[0] - loaded[1] == 2 * sum(
        t.numel for t in tn.load("qwen2.5-vl-7b").extra if t.role == "vision"
    )  # fmt: skip
    assert text.capacity["tokens"] > whole.capacity["tokens"]


def test_what_is_not_profiled_stays_loaded() -> None:
    found = serve("qwen2.5-vl-7b", **H100, context=8192, skip_mm_profiling=True)
    assert found.capacity["log"][1].startswith("Skipping memory profiling for multimodal encoder")
    assert found.fullest.peak.name.startswith("sampler")


def test_embeddings_of_a_picture_stay_while_the_language_model_runs() -> None:
    # 28 pictures of 576 tokens of 4,096 elements in 16 bit.
    with_, without = (
        serve("llava-1.5-7b", **H100, engine_version="0.11", max_num_batched_tokens=16384, context=4096,
              skip_mm_profiling=skip)
        for skip in (False, True)
    )  # fmt: skip
    sizes = [next(c.bytes for c in r.components if c.name == "activations") for r in (with_, without)]
    assert sizes[0] - sizes[1] == 28 * 576 * 4096 * 2


def test_a_tower_of_pictures_of_one_size() -> None:
    model = tn.load("paligemma-3b-pt-224")
    found = tower(model, Mesh())
    assert found is not None
    (item,) = items(model, found, {"image": 999, "video": 999}, None, 8192, (0, 33))
    assert (item.tokens, item.patches) == (256, 256)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"limit_mm_per_prompt": "smell=1"}, "a count for each of image, video, audio"),
        ({"limit_mm_per_prompt": "image=many"}, "a count for each"),
    ],
)
def test_what_cannot_be_read_is_refused(said: dict[str, Any], words: str) -> None:
    with pytest.raises(tn.InputError, match=words):
        serve("qwen2.5-vl-7b", **H100, context=8192, **said)


def test_flags_of_a_launch_command() -> None:
    from tonnage.launch import read, write

    line = "vllm serve org/name --skip-mm-profiling --mm-processor-kwargs '{\"max_pixels\": 1003520}'"
    for limits in ("image=2,video=0", '\'{"image": {"count": 2, "width": 512}, "video": 0}\''):
        found = read(f"{line} --limit-mm-per-prompt {limits}")
        assert found.said["limit_mm_per_prompt"] == "image=2,video=0"
        assert (found.said["skip_mm_profiling"], found.said["max_pixels"]) == (True, 1_003_520)
        assert not found.unmodelled
    said = {"limit_mm_per_prompt": "image=2,video=0", "max_pixels": 1_003_520}
    text, _ = write("vllm", "org/name", {"engine": "vllm", **said}, said)
    assert read(text).said == {**said, "engine": "vllm"}


def test_a_connector_that_keeps_pages_in_host_memory() -> None:
    from tonnage.launch import read

    extra = '"kv_connector_extra_config": {"cpu_bytes_to_use": 1073741824}'
    kept = read(f'vllm serve org/name --kv-transfer-config \'{{"kv_connector": "OffloadingConnector", {extra}}}\'')
    assert kept.said["kv_offloading_size"] == "1073741824 B"
    other = read('vllm serve org/name --kv-transfer-config \'{"kv_connector": "NixlConnector"}\'')
    assert "NixlConnector" in other.unmodelled[0]
