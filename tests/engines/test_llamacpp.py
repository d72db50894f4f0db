"""llama.cpp: figures that it and others printed, and what it refuses to start with."""

from __future__ import annotations

from typing import Any

import pytest

import tonnage as tn
from tonnage.memory.ggml.alloc import Blocks
from tonnage.memory.ggml.build import build
from tonnage.memory.ggml.graph import Graph, Node, held, leaf
from tonnage.memory.ggml.reserve import compute
from tonnage.memory.ggml.sched import Device, reserved
from tonnage.memory.ggml.weights import Placing, Weight, loaded, overrides

MiB = 2**20


def served(model: Any, **said: Any) -> Any:
    return tn.serve(tn.load(model), engine="llamacpp", suggest=False, **said)


def line(result: Any, name: str, tier: str = "requested") -> int:
    return sum(c.bytes for rank in result.ranks for c in rank.components if c.name == name and c.tier == tier)


def printed(result: Any, text: str) -> list[str]:
    return [entry.split(" = ")[1] for entry in result.capacity["log"] if text in entry]


HYBRID = {
    "model_type": "qwen3_5_text", "vocab_size": 248320, "hidden_size": 5120, "intermediate_size": 17408,
    "num_hidden_layers": 64, "num_attention_heads": 24, "num_key_value_heads": 4, "head_dim": 256,
    "linear_num_key_heads": 16, "linear_num_value_heads": 48, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "max_position_embeddings": 262144,
}  # fmt: skip


# Caches, to the digit that logs printed.


@pytest.mark.parametrize(
    ("model", "said", "mib"),
    [
        # ik_llama.cpp discussions 258, 357, 397, pull requests 328, 400, 616 (July 2025 and before).
        ("deepseek-v3", {"context": 32768, "ubatch_size": 1024}, 2196.0),
        ("qwen3-235b-a22b", {"context": 32768, "kv_dtype": "q8_0"}, 3196.0),
        ("qwen3-235b-a22b", {"context": 32768}, 6016.0),
        ("qwen3-235b-a22b", {"context": 8192, "kv_dtype": "q8_0", "kv_dtype_v": "f16"}, 1151.5),
        ("qwen3-32b", {"context": 16896, "kv_dtype": "q8_0"}, 2244.0),
        ("qwen3-30b-a3b", {"context": 32768, "flash_attn": "off"}, 3072.0),
        ("llama-2-13b", {"context": 512, "flash_attn": "off"}, 400.0),
        ("deepseek-v2", {"context": 32768, "kv_dtype": "q8_0"}, 1147.5),
        # ggml-org/llama.cpp pull request 6122.
        ("command-r", {"context": 4096}, 5120.0),
    ],
)  # fmt: skip
def test_the_cache_is_what_logs_print(model: str, said: dict[str, Any], mib: float) -> None:
    # In host memory, where no backend pads rows: the logs' line is of the tensors alone.
    assert line(served(model, quant="q8_0", n_gpu_layers=0, **said), "kv_cache", "host") == mib * MiB


def test_windowed_layers_have_a_cache_of_their_own() -> None:
    # ollama/ollama issue 16480: 262,144 cells for 18 layers; SWA cells of 2 sequences and 1,024 tokens of a pass.
    result = served("gpt-oss-120b", context=131072, concurrency=2, parallel=2, kv_unified=True, ubatch_size=1024)
    assert printed(result, "CUDA0 KV buffer") == [" 9216.00 MiB", "   45.00 MiB"]
    older = served("gpt-oss-120b", context=131072, concurrency=2, parallel=2, kv_unified=True, engine_version="b4370")
    assert printed(older, "CUDA0 KV buffer") == [" 9216.00 MiB", " 9216.00 MiB"]


def test_chunked_layers_keep_a_chunk() -> None:
    # llama.cpp v0.5.0 on Llama 4 Scout cut to 4 layers, 65,536 cells: 256.00 MiB of one layer, 102.00 of three chunked.
    result = served("llama-4-scout-17b-16e", quant="q4_k_m", context=65536, parallel=1)
    assert printed(result, "CUDA0 KV buffer") == [" 3072.00 MiB", " 1224.00 MiB"]


@pytest.mark.parametrize(("slots", "mib"), [(3, 448.875), (4, 598.5)])
def test_states_are_fp32_for_every_slot(slots: int, mib: float) -> None:
    # ggml-org/llama.cpp pull request 23792 (448.88 MiB for 3) and LM Studio issue 1862 (598.50 MiB for 4).
    result = served({"config": HYBRID, "name": "hybrid"}, context=8192, parallel=slots, kv_unified=True)
    assert line(result, "recurrent_state") == mib * MiB
    assert line(result, "kv_cache") == 512 * MiB  # a public log of 8,192 cells


def test_streams_of_their_own_are_padded_each() -> None:
    one = served("llama-3.2-1b", context=1000, concurrency=3, parallel=3, kv_unified=True)
    apart = served("llama-3.2-1b", context=1000, concurrency=3, parallel=3)
    cell = 16 * 2 * 8 * 64 * 2
    assert line(one, "kv_cache") == 3072 * cell  # 3,000 tokens, padded to 256
    assert line(apart, "kv_cache") == 3 * 1024 * cell


# Weights.


@pytest.mark.parametrize(
    ("model", "quant", "gib"),
    [("pythia-2.8b", "f16", 5.17), ("pythia-2.8b", "q8_0", 2.75), ("qwen3-235b-a22b", "q8_0", 232.769)],
)
def test_the_file_is_as_large_as_logs_print(model: str, quant: str, gib: float) -> None:
    # ggml-org/ci, build 4370; ik_llama.cpp discussion 357.
    result = served(model, context=512, n_gpu_layers=0, quant=quant)
    digits = len(str(gib).partition(".")[2])
    assert round(line(result, "weights", "host") / 2**30, digits) == gib


def test_layers_are_divided_as_the_loader_does() -> None:
    # src/llama-model.cpp: upper_bound over cumulated shares; the output counts as one layer.
    even = Placing(layers=32, devices=2, offloaded=33)
    assert [even.of_layer(i) for i in range(33)].count(0) == 17
    part = Placing(layers=32, devices=1, offloaded=20)
    assert [part.of_layer(i) for i in range(33)] == [1] * 13 + [0] * 20
    skewed = Placing(layers=31, devices=2, offloaded=32, shares=(3, 1))
    assert [skewed.of_layer(i) for i in range(32)].count(0) == 24


def test_a_tied_table_lies_on_host_and_device() -> None:
    file = (Weight("token_embd.weight", None, "q8_0", (1000, 96), True), Weight("blk.0.a", 0, "fp16", (96, 96), False))
    there = loaded(file, Placing(layers=1, devices=1, offloaded=2), cuda=True, align=128, repack=False)
    table = 1000 * 96 // 32 * 34
    assert there.host == table
    # CUDA pads the last row of what is quantized to 512 elements, and every tensor to 128 B.
    assert there.tied == -(-(table + (512 - 96) // 32 * 34) // 128) * 128
    assert there.devices == (there.tied + 96 * 96 * 2,)


def test_experts_in_host_memory_are_fetched_into_the_compute_buffer() -> None:
    device = served("qwen3-30b-a3b", quant="q4_k_m", context=16384)
    host = served("qwen3-30b-a3b", quant="q4_k_m", context=16384, cpu_moe=True)
    moved = line(device, "weights") - line(host, "weights")
    assert moved > 15 * 2**30
    assert line(host, "weights", "host") - line(device, "weights", "host") == pytest.approx(moved, rel=1e-3)
    assert line(host, "activations") > line(device, "activations") + 100 * MiB


# The graph and its allocator.


@pytest.mark.parametrize(
    ("model", "said", "nodes"),
    [
        # "graph: nodes = ..." of llama.cpp v0.5.0 (node-llama-cpp 3.22.1), run on files of this shape.
        ("llama-3.2-1b", {}, 502), ("llama-3.2-1b", {"flash_attn": "off"}, 582), ("phi-2", {}, 1161),
        ("falcon-40b", {}, 1808), ("gemma-2-2b", {}, 946), ("qwen3-30b-a3b", {}, 3030), ("mixtral-8x7b", {}, 1510),
        ("deepseek-v2-lite", {}, 1764), ("gpt-oss-20b", {}, 1349), ("command-r", {}, 1168),
        ("qwen1.5-moe-a2.7b", {}, 1398), ("granite-3.1-2b", {}, 1328), ("llama-3.2-1b", {"kv_dtype": "q8_0"}, 694),
    ],
)  # fmt: skip
def test_the_graph_has_as_many_nodes_as_the_log_says(
    model: str, said: dict[str, Any], nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def counted(graph: Graph, *given: Any, **rest: Any) -> Any:
        seen.append(len(graph.nodes))
        return reserved(graph, *given, **rest)

    monkeypatch.setattr("tonnage.memory.ggml.reserve.reserved", counted)
    served(model, context=4096, n_gpu_layers=0, parallel=1, **said)
    assert seen == [nodes]


@pytest.mark.parametrize(
    ("model", "said", "figures"),
    [
        # llama.cpp v0.5.0 (@node-llama-cpp/linux-x64 3.22.1) on a device of scripts/llamacpp/device.c, its log in MiB:
        # weights, compute buffer of the device, compute buffer of the host.
        ("qwen3.5-9b", {"quant": "q4_k_m", "context": 16384, "flash_attn": "off"}, ["4812.25", "588.01", "52.01"]),
        ("lfm2.5-vl-1.6b", {"quant": "q4_k_m", "context": 16384, "flash_attn": "off"}, ["694.76", "1074.01", "42.01"]),
        ("devstral-small-2-24b", {"quant": "q4_k_m", "context": 16384, "flash_attn": "off"},
         ["13302.36", "1096.01", "56.01"]),
        ("glm-4.7-flash", {"quant": "q4_k_m", "context": 16384, "flash_attn": "off"}, ["17113.54", "742.88", "40.01"]),
        ("qwen3-vl-30b-a3b", {"quant": "q4_k_m", "context": 16384, "flash_attn": "off"},
         ["17524.43", "1098.01", "54.01"]),
        ("qwen3.5-35b-a3b", {"quant": "f16", "context": 8192}, ["65182.24", "76.02", "16.02"]),
    ],
)  # fmt: skip
def test_buffers_of_models_of_2026(model: str, said: dict[str, Any], figures: list[str]) -> None:
    said = {**said, "dtype": "fp16", "quant": "none"} if said["quant"] == "f16" else said
    result = served(model, **said)
    found = [printed(result, text)[0] for text in ("CUDA0 model", "CUDA0 compute", "CUDA_Host compute")]
    assert [text.strip().removesuffix(" MiB") for text in found] == figures


def test_the_smallest_block_that_holds_it_is_taken() -> None:
    blocks = Blocks(32)
    at = [blocks.take(n) for n in (100, 40, 300, 40)]
    assert at == [0, 128, 192, 512]
    blocks.give(0, 100)
    blocks.give(192, 300)
    assert blocks.take(90) == 0  # the hole of 128 B, not that of 320 B
    assert blocks.take(200) == 192
    assert blocks.most == 576


def test_a_result_takes_the_place_of_an_operand_that_nothing_else_needs() -> None:
    x = leaf(256, 4)
    x.output = True  # never freed
    a = held(0, "fp32", 256, 256).matmul(x)
    over = Graph()
    over.expand(a.like("SCALE").like("SCALE"))
    cpu = Device("CPU", 32, False, lambda t: t.nbytes)
    assert reserved(over, [cpu])[0] == [2 * 4 * 256 * 4]
    kept = Graph()
    b = held(0, "fp32", 256, 256).matmul(x)
    kept.expand(b.like("SCALE").like("ADD", b))  # the product is needed twice
    assert reserved(kept, [cpu])[0] == [3 * 4 * 256 * 4]


def test_views_keep_what_they_show_alive() -> None:
    x = leaf(64, 2)
    x.output = True
    a = Node("MUL_MAT", (64, 2, 1, 1), src=(x,))
    graph = Graph()
    graph.expand(a.reshape(128).like("SCALE"))
    cpu = Device("CPU", 32, False, lambda t: t.nbytes)
    assert reserved(graph, [cpu])[0] == [3 * 64 * 2 * 4]  # a view's storage is never taken over


@pytest.mark.parametrize("model", ["llama-3.1-70b", "gemma-2-9b", "gpt-oss-120b", "mixtral-8x7b", "mamba-2.8b"])
@pytest.mark.parametrize("said", [{}, {"flash_attn": "off"}, {"n_gpu_layers": 10}, {"gpus": 2}])
def test_the_first_and_last_layers_stand_for_all(
    model: str, said: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Any] = []

    def kept(asked: Any, **rest: Any) -> Any:
        out = build(asked, **rest)
        plans.append(out)
        return out

    monkeypatch.setattr("tonnage.memory.ggml.server.build", kept)
    served(model, quant="q8_0" if model != "mamba-2.8b" else None, context=8192, **said)
    assert compute(plans[0].plan, sampled=True) == plans[0].compute


# What is answered.


def test_the_largest_context_is_where_it_stops_fitting() -> None:
    result = served("qwen2.5-7b", quant="q4_k_m", gpu="rtx-3060-12gb")
    most = result.capacity["max_context"]
    assert 32768 < most < 131072
    assert served("qwen2.5-7b", quant="q4_k_m", gpu="rtx-3060-12gb", context=most).fit.verdict == "fits"
    beyond = served("qwen2.5-7b", quant="q4_k_m", gpu="rtx-3060-12gb", context=most + 256)
    assert beyond.fit.verdict != "fits"


def test_without_an_accelerator_everything_lies_in_host_memory() -> None:
    result = served("llama-3.2-1b", n_gpu_layers=0, quant="q4_0")
    assert result.fullest.tier("device") == 0
    assert {c.name for c in result.components} == {"weights", "kv_cache", "activations", "logits"}
    assert all(c.tier == "host" for c in result.components)
    assert any("CPU_REPACK" in entry for entry in result.capacity["log"])


def test_an_unknown_graph_is_a_range() -> None:
    config = {**HYBRID, "model_type": "bitnet", "intermediate_size": 6912, "hidden_size": 2560, "vocab_size": 128256,
              "num_hidden_layers": 30, "num_attention_heads": 20, "num_key_value_heads": 5}  # fmt: skip
    inner = {k: v for k, v in config.items() if not k.startswith("linear") and k != "head_dim"}
    result = served({"config": inner, "name": "bitnet"}, context=4096, parallel=1, logits="all")
    buffer = next(c for c in result.components if c.name == "activations" and c.tier == "requested")
    assert any("graph of this architecture" in text for text in result.not_modelled)
    assert buffer.trust == "assumed"
    # ik_llama.cpp pull request 337 printed 255.50 MiB.
    assert buffer.low_bytes < 255.5 * MiB < buffer.high_bytes


@pytest.mark.parametrize(
    ("said", "measured"),
    [
        # The compute buffers that builds before 0.5 and the fork printed lie in the range that is told for them.
        ({"model": "qwen3-32b", "context": 8192, "ubatch_size": 1024, "batch_size": 4096, "quant": "q5_k_m"}, 633.5),
        ({"model": "llama-2-13b", "context": 512, "flash_attn": "off", "quant": "q8_0"}, 248.54),
        ({"model": "pythia-2.8b", "context": 2048, "batch_size": 512, "flash_attn": "off", "quant": "f16"}, 162.0),
        ({"model": "deepseek-v3", "context": 32768, "ubatch_size": 1024, "batch_size": 1024, "quant": "q8_0",
          "cpu_moe": True}, 3650.0),
        ({"model": "command-r", "context": 4096, "flash_attn": "off", "quant": "f16", "gpus": 2}, 672.01),
    ],
)  # fmt: skip
def test_older_builds_lie_in_the_range(said: dict[str, Any], measured: float) -> None:
    model = said.pop("model")
    result = served(model, engine_version="ik", parallel=1, **said)
    buffer = next(c for c in result.ranks[0].components if c.name == "activations" and c.tier == "requested")
    assert buffer.low_bytes <= measured * MiB <= buffer.high_bytes


# What llama.cpp does not start with.


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"kv_dtype_v": "q8_0", "flash_attn": "off"}, "quantized V cache requires flash_attn"),
        ({"kv_dtype": "q3_K"}, "llama.cpp keeps caches in"),
        ({"tensor_split": "1,2"}, "no list of 1 shares"),
        ({"override_tensor": "ffn"}, "not expression=buffer"),
        ({"override_tensor": "(=CPU"}, "no regular expression"),
        ({"parallel": 2, "concurrency": 4}, "do not hold"),
        ({"concurrency": 300}, "at most"),
        ({"quant": "awq"}, "GGUF"),
        ({"tp": 2}, "divides layers"),
    ],
)
def test_bad_settings_are_one_line(said: dict[str, Any], told: str) -> None:
    with pytest.raises(tn.TonnageError, match=told):
        served("llama-3.1-8b", **said)


def test_heads_that_blocks_do_not_divide_are_refused() -> None:
    with pytest.raises(tn.TonnageError, match="heads of 80"):
        served("phi-2", kv_dtype="q8_0")


def test_overrides_name_buffers() -> None:
    assert overrides(r"ffn_.*_exps=CPU,blk\.1\..*=cuda1", ("CUDA0", "CUDA1")) == (
        ("ffn_.*_exps", -1),
        (r"blk\.1\..*", 1),
    )
