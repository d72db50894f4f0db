"""Encoders of pictures in vLLM's profile run, held against lines of public logs."""

from __future__ import annotations

from typing import Any

import pytest

import tonnage as tn
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
