"""Ollama, LM Studio and MLX: what they choose by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from tonnage.launch import read

GiB = 2**30
HYBRID = {
    "vocab_size": 1024, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 128, "linear_num_key_heads": 4,
    "linear_num_value_heads": 8, "linear_key_head_dim": 64, "linear_value_head_dim": 64, "linear_conv_kernel_dim": 4,
    "max_position_embeddings": 8192,
}  # fmt: skip


def served(engine: str, model: str, **said: Any) -> Any:
    return tn.serve(tn.load(model), engine=engine, suggest=False, **said)


def line(result: Any, name: str, tier: str = "requested") -> int:
    return sum(c.bytes for rank in result.ranks for c in rank.components if c.name == name and c.tier == tier)


# Ollama.


@pytest.mark.parametrize(
    ("gpu", "gpus", "said", "context"),
    [
        # ollama v0.32.15 server/routes.go: 47 and 23 GiB of all devices together.
        (None, 1, {}, 4096), ("rtx-3060-12gb", 1, {}, 4096), ("rtx-4090", 1, {}, 32768),
        ("rtx-3060-12gb", 2, {}, 32768),
        ("h100-sxm-80gb", 1, {}, 131072), ("rtx-4090", 1, {"gpu_overhead": "2GiB"}, 4096),
        ("rtx-4090", 1, {"context": 500000}, 131072), ("h100-sxm-80gb", 1, {"engine_version": "0.15"}, 4096),
        ("h100-sxm-80gb", 1, {"context": 1}, 4),
    ],
)  # fmt: skip
def test_ollamas_context_follows_from_the_devices(
    gpu: str | None, gpus: int, said: dict[str, Any], context: int
) -> None:
    result = served("ollama", "llama-3.1-8b", quant="q4_k_m", gpu=gpu, gpus=gpus, **said)
    assert result.workload["context"] == context


def test_ollama_leaves_room_for_a_projector() -> None:
    # llm/llama_server.go v0.32.15: its tensors and 1 GiB, beside what llama-server itself keeps free; with the host
    # where not all layers are offloaded, or a device has less than that.
    said = {"quant": "q4_k_m", "gpu": "rtx-3060-12gb", "context": 4096}
    model = "qwen2.5-vl-7b"
    whole = served("ollama", model, mmproj="f16", **said)
    part = served("ollama", model, mmproj="f16", n_gpu_layers=20, **said)
    small = served("ollama", model, mmproj="f16", **{**said, "gpu": "2GiB"})
    where = [
        next(c.tier for c in r.ranks[0].components if "projector model buffer" in c.why) for r in (whole, part, small)
    ]
    assert where == ["requested", "host", "host"]

    def text(engine: str, **more: Any) -> int:
        result = served(engine, model, mmproj="f16", **{**said, "gpu": "8GiB", **more})
        return sum(c.bytes for c in result.fullest.components if c.why.startswith("CUDA0 model buffer"))

    assert text("ollama") == text("llamacpp", fit=True, fit_target="2316", parallel=1, batch_size=512)
    assert text("ollama") < text("llamacpp", fit=True, parallel=1, batch_size=512)


def test_what_loads_a_projector_by_itself_does_not_surely_fit_without() -> None:
    for engine in ("ollama", "lmstudio"):
        result = served(engine, "qwen2.5-vl-7b", quant="q4_k_m", gpu="h100-sxm-80gb", context=4096)
        assert result.fit is not None
        assert result.fit.verdict == "uncertain"
        assert served(engine, "qwen2.5-7b", quant="q4_k_m", gpu="h100-sxm-80gb", context=4096).fit.verdict == "fits"


def test_ollama_before_0_30_and_a_projector() -> None:
    with pytest.raises(tn.UnsupportedError, match="an engine of its own"):
        served("ollama", "qwen2.5-vl-7b", mmproj="f16", engine_version="0.20")


@pytest.mark.parametrize(
    ("said", "batch"),
    [
        # server/sched.go automaticGenerationBatch: by the length of all contexts, less where little is left.
        ({"context": 4096}, 512), ({"context": 8192}, 1024), ({"context": 8192, "parallel": 5}, 2048),
        ({"context": 65536, "gpu": "24GiB"}, 2048), ({"context": 65536, "gpu": "20GiB"}, 1024),
        ({"context": 65536, "gpu": "16GiB"}, 512), ({"context": 65536, "gpu": "24GiB", "flash_attn": "off"}, 512),
        ({"context": 65536, "batch_size": 128}, 128), ({"context": 65536, "engine_version": "0.20"}, 512),
    ],
)  # fmt: skip
def test_ollamas_batch_follows_from_the_context(said: dict[str, Any], batch: int) -> None:
    result = served("ollama", "llama-3.1-8b", quant="q4_k_m", **said)
    assert (result.workload["batch_size"], result.workload["ubatch_size"]) == (batch, batch)


def test_ollama_starts_llama_server() -> None:
    ours = served("ollama", "llama-3.1-8b", quant="q4_k_m", context=8192, parallel=2, concurrency=2)
    same = served("llamacpp", "llama-3.1-8b", quant="q4_k_m", context=8192, parallel=2, concurrency=2, batch_size=1024,
                  ubatch_size=1024)  # fmt: skip
    assert line(ours, "kv_cache") == line(same, "kv_cache") == 2 * 8192 * 131072
    buffer = next(c for c in ours.components if c.name == "activations" and c.tier == "requested")
    assert buffer.low_bytes < line(same, "activations") < buffer.high_bytes


def test_ollama_keeps_in_host_memory_what_does_not_fit() -> None:
    result = served("ollama", "llama-3.1-70b", quant="q4_k_m", gpu="rtx-4090", context=8192)
    assert result.fit.verdict != "does not fit"
    assert line(result, "weights", "host") > 15 * GiB


def test_models_that_ollama_gives_one_request() -> None:
    hybrid: Any = {"config": {**HYBRID, "model_type": "qwen3_5_text"}, "name": "hybrid"}
    with pytest.raises(tn.TonnageError, match="one request at once"):
        served("ollama", hybrid, concurrency=2)
    told = served("ollama", hybrid, parallel=4)
    assert told.workload["parallel"] == 1
    assert any("does not currently support parallel requests" in text for text in told.caveats)


@pytest.mark.parametrize(
    ("text", "model", "said"),
    [
        ("OLLAMA_NUM_PARALLEL=2 ollama run qwen3:8b", "qwen3-8b", {"parallel": 2, "concurrency": 2}),
        ("OLLAMA_CONTEXT_LENGTH=8192 OLLAMA_KV_CACHE_TYPE=q8_0 OLLAMA_FLASH_ATTENTION=1 ollama serve", None,
         {"context": 8192, "kv_dtype": "q8_0", "flash_attn": "on"}),
        ("OLLAMA_GPU_OVERHEAD=1073741824 ollama run ./x.gguf 'why is the sky blue'", "./x.gguf",
         {"gpu_overhead": "1073741824 B"}),
        ("ollama run hf.co/org/name-GGUF --think=high", "org/name-GGUF:Q4_K_M", {}),
    ],
)  # fmt: skip
def test_ollamas_commands_are_read(text: str, model: str | None, said: dict[str, Any]) -> None:
    found = read(text)
    assert found.model == model
    assert dict(found.said) == {**said, "engine": "ollama"}


def test_a_modelfile_is_read(tmp_path: Path) -> None:
    path = tmp_path / "Modelfile"
    path.write_text('# mine\nFROM llama3.1:8b\nPARAMETER num_ctx 16384\nPARAMETER num_gpu 20\nSYSTEM """You\nare"""\n'
                    "PARAMETER temperature 1\nADAPTER ./a.gguf\n")  # fmt: skip
    found = read(f"ollama create mine -f {path}")
    assert found.model == "llama3.1-8b"
    assert found.method == "q4_k_m"
    assert dict(found.said) == {"context": 16384, "n_gpu_layers": 20, "engine": "ollama"}
    assert len(found.unmodelled) == 1
    path.write_text("FORM llama3\n")
    with pytest.raises(tn.TonnageError, match="line 1 begins with no instruction"):
        read(f"ollama create mine -f {path}")


# LM Studio.


def test_lm_studio_starts_four_slots_that_share_a_cache() -> None:
    result = served("lmstudio", "llama-3.1-8b", quant="q4_k_m")
    assert (result.workload["context"], result.workload["parallel"], result.workload["kv_unified"]) == (4096, 4, True)
    assert line(result, "kv_cache") == 4096 * 131072


@pytest.mark.parametrize(("share", "layers"), [("max", 33), ("off", 0), ("0.5", 16), ("1", 33)])
def test_lm_studio_offloads_a_share(share: str, layers: int) -> None:
    result = served("lmstudio", "llama-3.1-8b", quant="q4_k_m", gpu_ratio=share)
    assert result.workload["n_gpu_layers"] == layers


def test_a_share_of_layers_is_from_0_to_1() -> None:
    with pytest.raises(tn.TonnageError, match="off, max or a number from 0 to 1"):
        served("lmstudio", "llama-3.1-8b", quant="q4_k_m", gpu_ratio="2")


def test_lms_load_is_read() -> None:
    found = read("lms load qwen/qwen3-8b@q8_0 --gpu max -c 8192 --parallel 2 -y")
    assert (found.model, found.method) == ("qwen3-8b", "q8_0")
    assert dict(found.said) == {"gpu_ratio": "max", "context": 8192, "parallel": 2, "engine": "lmstudio"}


# MLX.


def test_mlxs_cache_grows_by_256_tokens() -> None:
    one, more = served("mlx", "llama-3.2-1b", context=256), served("mlx", "llama-3.2-1b", context=257)
    token = 16 * 2 * 8 * 64 * 2
    assert (one.capacity["kv_bytes"], more.capacity["kv_bytes"]) == (256 * token, 512 * token)
    packed = served("mlx", "llama-3.2-1b", context=256, kv_bits=4)
    assert packed.capacity["kv_bytes"] == 256 * 16 * 2 * 8 * (64 // 2 + 2 * 2)


def test_mlx_packs_tables_and_heads_too() -> None:
    # Summed up by hand: 4.5 bits for each weight of matrices and the table of tokens, norms in bf16.
    model = tn.load("llama-3.2-1b")
    norms = 33 * 2048
    assert line(served("mlx", "llama-3.2-1b", quant="mlx-4bit"), "weights") == (
        (model.parameters.total - norms) * 9 // 16 + 2 * norms
    )


def test_a_config_of_mlx_names_no_method() -> None:
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 512, "num_hidden_layers": 2,
        "intermediate_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 1000,
        "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16", "tie_word_embeddings": False,
        "max_position_embeddings": 2048, "quantization_config": {"group_size": 64, "bits": 8, "lm_head": False},
    }  # fmt: skip
    result = served("mlx", {"config": config, "name": "small"}, context=256)  # type: ignore[arg-type]
    packed = 1000 * 512 + 2 * (4 * 512 * 512 + 3 * 512 * 1024)
    assert line(result, "weights") == packed * 17 // 16 + 1000 * 512 * 2 + 5 * 512 * 2


@pytest.mark.parametrize(
    ("model", "said", "told"),
    [
        ("gemma-3-1b", {"kv_bits": 4}, "RotatingKVCache Quantization NYI"),
        ("llama-3.2-1b", {"kv_bits": 7}, "MLX packs 2, 3, 4, 5, 6 or 8 bits"),
        ("llama-3.2-1b", {"kv_bits": 4, "kv_group_size": 128}, "heads of 64 do not divide"),
        ("llama-3.2-1b", {"quant": "q4_k_m"}, "none of them"),
        ("llama-3.2-1b", {"gpus": 2}, "modelled on one"),
        ("llama-3.2-1b", {"kv_dtype": "q8_0"}, "--kv-bits"),
        ("bert-base-uncased", {}, "decoders"),
    ],
)
def test_what_mlx_refuses(model: str, said: dict[str, Any], told: str) -> None:
    with pytest.raises(tn.TonnageError, match=told):
        served("mlx", model, **said)


def test_mlx_fits_within_what_macos_recommends() -> None:
    result = served("mlx", "qwen3-8b", quant="mlx-4bit", context=8192, gpu="m4-pro-24gb")
    assert result.fit.verdict == "fits"
    # Two thirds of 24 GiB: recommendedMaxWorkingSetSize of smaller machines.
    assert result.fit.capacity_bytes == pytest.approx(16 * GiB, rel=1e-3)


def test_mlx_lms_commands_are_read() -> None:
    found = read("python -m mlx_lm.generate --model org/name --kv-bits 8 --max-kv-size 4096 --prompt hello")
    assert (found.stack, found.model) == ("mlx", "org/name")
    assert dict(found.said) == {"kv_bits": 8, "max_kv_size": 4096, "engine": "mlx"}
