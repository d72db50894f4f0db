"""Launch commands become workloads, as the engines' own parsers read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from tonnage.cli import main
from tonnage.errors import InputError, TonnageError, UnsupportedError
from tonnage.launch import known, named, read, stacks
from tonnage.launch._reading import flags_of

FIT = {"fit": True}
"""What llama.cpp does where it is not told otherwise."""

READ: list[tuple[str, str, str | None, dict[str, Any]]] = [
    ("vllm serve org/name -tp 2 --max-model-len 8K", "vllm", "org/name", {"tp": 2, "context": 8192}),
    ("vllm serve org/name --max-model-len 8k", "vllm", "org/name", {"context": 8000}),
    ("vllm serve org/name --max-model-len=25.6k -pp=2", "vllm", "org/name", {"context": 25600, "pp": 2}),
    ("vllm serve org/name --max_model_len 512 --gpu_memory_utilization=.8", "vllm", "org/name",
     {"context": 512, "gpu_memory_utilization": 0.8}),
    ("vllm serve --trust-remote-code org/name --no-enable-prefix-caching --enforce-eager", "vllm", "org/name",
     {"prefix_caching": False, "enforce_eager": True}),
    ("vllm serve org/name --served-model-name a b c --max-num-seqs 8", "vllm", "org/name", {"max_num_seqs": 8}),
    ("vllm serve org/name -dp 2 -tp 4 --enable-expert-parallel", "vllm", "org/name", {"dp": 2, "tp": 4, "ep": 8}),
    ("vllm serve org/name --enable-lora --max-loras 4", "vllm", "org/name", {"max_loras": 4}),
    ("vllm serve org/name --max-loras 4", "vllm", "org/name", {}),
    ("vllm serve org/name --kv-cache-memory-bytes 10G --kv-cache-dtype auto", "vllm", "org/name",
     {"kv_cache_memory": "10737418240 B"}),
    ("vllm serve org/name --speculative-config '{\"method\": \"mtp\", \"num_speculative_tokens\": 3}'", "vllm",
     "org/name", {"speculative_tokens": 3}),
    ("vllm serve org/name --speculative-config.method deepseek_mtp --speculative-config.num_speculative_tokens 2",
     "vllm", "org/name", {"speculative_tokens": 2}),
    ("CUDA_VISIBLE_DEVICES=0,1 python -m vllm.entrypoints.openai.api_server --model org/name --dtype half", "vllm",
     "org/name", {"dtype": "fp16"}),
    ("docker run --gpus all -v ~/.cache:/root/.cache -p 8000:8000 --ipc=host vllm/vllm-openai:v0.11.0 --model org/name",
     "vllm", "org/name", {"engine_version": "0.11"}),
    ("cd /srv && nohup uv run vllm serve org/name \\\n  --port 80 > log 2>&1 & # later", "vllm", "org/name", {}),
    ("python3 -m sglang.launch_server --model-path org/name --tp 2 --context-length 4096", "sglang", "org/name",
     {"tp": 2, "context": 4096}),
    ("sglang serve --model org/name --mem-fraction-static 0.8 --enable-lora", "sglang", "org/name",
     {"mem_fraction_static": 0.8, "max_loras": 8}),
    ("llama-server -m x.gguf -c 8192 -ngl 99 -ctk q8_0 -fa on -np 4", "llamacpp", "x.gguf",
     {"context": 2048, "concurrency": 4, "parallel": 4, "n_gpu_layers": 99, "kv_dtype": "q8_0", "flash_attn": "on",
      **FIT}),
    ("llama-server -m x.gguf -mm p.gguf -mmdev CUDA1 --image-max-tokens 512 --image-min-tokens 0", "llamacpp", "x.gguf",
     {"mmproj": "p.gguf", "mmproj_offload": True, "mmproj_device": 1, "image_max_tokens": 512, **FIT}),
    ("llama-server -m x.gguf --mmproj p.gguf --no-mmproj-offload --no-mmproj", "llamacpp", "x.gguf",
     {"mmproj": "p.gguf", "mmproj_offload": False, **FIT}),
    ("llama-server -m x.gguf --mmproj-device none --image-max-tokens 512", "llamacpp", "x.gguf", FIT),
    ("llama-server -m x.gguf -c 8192", "llamacpp", "x.gguf", {"context": 8192, **FIT}),
    ("llama-server -m x.gguf -c 8192 -np 2 -kvu", "llamacpp", "x.gguf",
     {"context": 8192, "parallel": 2, "kv_unified": True, **FIT}),
    ("llama-cli -m x.gguf -c 4096 -fa -nkvo --no-mmap", "llamacpp", "x.gguf",
     {"context": 4096, "concurrency": 1, "parallel": 1, "flash_attn": "on", "kv_offload": False, "mmap": False,
      **FIT}),
    ("./build/bin/llama-server -hf org/name-GGUF:Q8_0 -ngl all", "llamacpp", "org/name-GGUF:Q8_0",
     {"n_gpu_layers": 9999, **FIT}),
    ("llama-server -hf org/name-GGUF", "llamacpp", "org/name-GGUF:Q4_K_M", FIT),
    ("llama-server -hf org/name -hff a.gguf", "llamacpp", "https://huggingface.co/org/name/resolve/main/a.gguf", FIT),
    ("LLAMA_ARG_CTX_SIZE=4096 LLAMA_ARG_UBATCH=256 CUDA_VISIBLE_DEVICES=0,1 llama-server -m x.gguf", "llamacpp",
     "x.gguf", {"context": 4096, "ubatch_size": 256, "gpus": 2, **FIT}),
    ("docker run ghcr.io/ggml-org/llama.cpp:server-cuda-b4370 -m /m/x.gguf -c 512 -np 1", "llamacpp", "/m/x.gguf",
     {"context": 512, "concurrency": 1, "parallel": 1, "engine_version": "b4370", **FIT}),
    ("llama-server -m x.gguf -c 0 --fit off -sm none -mg 1 -ts 3,1 --mlock", "llamacpp", "x.gguf",
     {"fit": False, "fit_ctx": 2**32 - 1, "split_mode": "none", "main_gpu": 1, "tensor_split": "3,1", "mlock": True}),
    ("llama-server -m x.gguf -fitt 512,2048 -fitc 8192 -ncffn 4 --no-op-offload -lm mlock", "llamacpp", "x.gguf",
     {"fit_target": "512,2048", "fit_ctx": 8192, "n_cpu_ffn": 4, "op_offload": False, "mmap": False, "mlock": True,
      **FIT}),
    ("llama-server -m x.gguf -c 4096 -md d.gguf --spec-draft-n-max 8 -ngld 5", "llamacpp", "x.gguf",
     {"context": 4096, "draft": "d.gguf", "speculative_tokens": 8, "draft_gpu_layers": 5, **FIT}),
    ("trtllm-serve org/name --tp_size 2 --max_seq_len 4096 --kv_cache_free_gpu_memory_fraction 0.8", "tensorrt-llm",
     "org/name", {"tp": 2, "context": 4096, "free_gpu_memory_fraction": 0.8}),
    ("text-generation-launcher --model-id org/name --num-shard 2 --max-total-tokens 4096", "tgi", "org/name",
     {"tp": 2, "context": 4096}),
    ("docker run -e MODEL_ID=org/name -e CUDA_VISIBLE_DEVICES=0,1,2,3 huggingface/text-generation-inference:3.3.7",
     "tgi", "org/name", {"tp": 4, "engine_version": "3.3"}),
    ("text-generation-launcher --model-id org/name --sharded false --kv-cache-dtype fp8_e4m3fn", "tgi", "org/name",
     {"tp": 1, "kv_dtype": "fp8_e4m3"}),
]  # fmt: skip


@pytest.mark.parametrize(("line", "stack", "model", "said"), READ)
def test_a_command_is_read(line: str, stack: str, model: str | None, said: dict[str, Any]) -> None:
    found = read(line)
    assert (found.stack, found.model) == (stack, model)
    assert dict(found.said) == {**said, "engine": stack}


REFUSED = [
    ("vllm serve x --max-modle-len 8", "did you mean --max-model-len"),
    ("vllm serve x --max-num-seqs", "needs a value"),
    ("vllm serve x --max-num-seqs many", "a whole number is meant"),
    ("vllm serve x --max-model-len 1.5K", "no decimals with K"),
    ("vllm serve x --gpu-memory-utilization 90", "above 0 and up to 1"),
    ("vllm serve x --dtype int8", "no such format"),
    ("vllm serve x --speculative-config {method:mtp}", "a JSON object is meant"),
    ("vllm serve x y", "neither a flag of vllm nor a value"),
    ("vllm serve x -tp $TP", "a variable of the shell"),
    ("CUDA_VISIBLE_DEVICES=0 vllm serve x -tp 2", "needs 2 devices and may see 1"),
    ("vllm serve 'x", "the command does not end"),
    ("vllm bench latency --model x", "no launch command that is known"),
    ("", "no command is given"),
    ("rm -rf /", "no launch command that is known"),
    ("llama-server --ctx-size=8192", "takes no '='"),
    ("llama-server -c many", "a whole number is meant"),
    ("llama-server -ctk q9_0", "no such cache"),
    ("llama-server -fa perhaps", "on, off or auto"),
    ("trtllm-serve x --max-seq-len 10", "did you mean --max_seq_len"),
    ("text-generation-launcher --model-id x --sharded true --num-shard 1", "which the launcher refuses"),
    ("text-generation-launcher --model-id x --max-input-tokens 9 --max-total-tokens 9", "must be fewer than"),
    ("python -m sglang.launch_server --model x --mem_fraction_static 0.8", "did you mean --mem-fraction-static"),
]


@pytest.mark.parametrize(("line", "words"), REFUSED)
def test_a_wrong_command_is_one_line_that_says_what_to_do(line: str, words: str) -> None:
    with pytest.raises(InputError) as e:
        read(line)
    assert words in str(e.value)
    assert "\n" not in str(e.value)


def test_engines_built_ahead_of_time_are_refused() -> None:
    with pytest.raises(UnsupportedError):
        read("trtllm-serve x --backend tensorrt")


def test_the_model_may_be_left_to_the_shell_where_another_is_named() -> None:
    found = read("vllm serve $MODEL -tp 1")
    with pytest.raises(InputError, match="only the shell knows"):
        named(found)
    assert tn.serve("gpt2", command=found).workload["model"] == "gpt2"


def test_what_matters_and_is_not_modelled_is_named_and_forbids_fits() -> None:
    plain = tn.serve(command="vllm serve gpt2 --port 80 --api-key k", gpu="h100-sxm-80gb")
    assert plain.fit is not None
    assert plain.fit.verdict == "fits"
    other = tn.serve(command="vllm serve gpt2 --enable-dbo --kv-sharing-fast-prefill", gpu="h100-sxm-80gb")
    assert other.fit is not None
    assert other.fit.verdict == "uncertain"
    assert [c for c in other.caveats if c.startswith("--enable-dbo: ")]
    assert [c for c in other.caveats if c.startswith("--kv-sharing-fast-prefill: ")]
    assert read("vllm serve gpt2 --ubatch-size 0").unmodelled == ()
    assert read("VLLM_USE_V1=0 vllm serve gpt2").unmodelled


def test_flags_beside_the_command_win_and_the_length_is_the_models_own() -> None:
    line = "vllm serve meta-llama/Llama-3.1-8B-Instruct -tp 2 --max-num-seqs 256"
    found = tn.serve(command=line, max_num_seqs=64)
    assert found.workload["tp"] == 2
    assert found.workload["max_num_seqs"] == 64
    assert found.workload["context"] == 131072
    assert found.model["name"] == "llama-3.1-8b"
    with pytest.raises(InputError, match="starts vllm"):
        tn.serve(command=line, engine="sglang")


@pytest.mark.parametrize(
    ("line", "quant"),
    [
        ("vllm serve gpt2 -q fp8", "fp8"),
        ("vllm serve gpt2 -q bitsandbytes --max-num-seqs 4", "nf4"),
        ("vllm serve gpt2 --quantization awq", "awq-int4"),
        ("text-generation-launcher --model-id gpt2 --quantize bitsandbytes-nf4", "nf4"),
        ("vllm serve gpt-oss-20b -q mxfp4", "checkpoint"),
    ],
)
def test_a_method_is_the_checkpoints_own_or_a_scheme(line: str, quant: str) -> None:
    release = {"engine_version": "0.26"} if "vllm" in line else {}
    assert tn.serve(command=line, context=512, **release).workload["quant"] == quant


def test_a_method_that_nothing_is_known_of_is_refused() -> None:
    with pytest.raises(TonnageError, match="no scheme that is known"):
        tn.serve(command="vllm serve gpt2 -q foo")


def test_a_length_that_the_engine_looks_for_is_told() -> None:
    for value in ("auto", "-1"):
        found = read(f"vllm serve gpt2 --max-model-len {value}")
        assert found.whole
        assert "the longest context that fits" in found.unmodelled[0]


def test_a_model_of_the_hub_that_is_out_of_reach_may_be_named_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--from", "vllm serve org/unknown"]) == 4
    assert "or --model NAME beside --from" in capsys.readouterr().err


def test_commands_are_told_from_models() -> None:
    assert known("vllm serve x")
    assert not any(known(text) for text in ("vllm", "org/name", "a b"))


@pytest.mark.parametrize("stack", stacks(), ids=lambda s: s.name)
def test_every_flag_of_the_table_is_one_that_the_engine_has(stack: Any) -> None:
    takes = flags_of(stack)
    for flag in stack.flags:
        if not flag.names[0].startswith("_"):
            assert flag.names[0] in takes, flag.names
    assert all(name in takes for name in stack.model)
    told = {name for flag in stack.flags for name in flag.names}
    assert {flag for flag in stack.settings.values() if flag.startswith("_")} <= told


@pytest.mark.parametrize("stack", stacks(), ids=lambda s: s.name)
def test_every_key_of_the_engine_has_a_flag_or_none_of_its_own(stack: Any) -> None:
    from importlib import import_module

    module = stack.name.replace("-", "_")
    keys = {flag.key for flag in stack.flags} | {*stack.tails}
    without = {"logits", "draft_quant", "prompt"}
    if stack.name in ("lmstudio", "ollama"):
        # A projector comes with its model.
        without |= {"mmproj"}
    if stack.name == "lmstudio":
        # Settings of the application.
        without |= {"kv_unified", "kv_dtype_v", "flash_attn", "batch_size", "ubatch_size", "kv_offload", "n_cpu_moe",
                    "mmap", "mlock"}  # fmt: skip
    assert set(import_module(f"tonnage.engines.{module}").ENGINE.takes) - keys <= without


def test_a_file_of_flags_is_read_and_the_command_wins(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(
        "# flags\nmodel: org/name\ntensor-parallel-size: 2\nmax_model_len: 4096\nenforce-eager: true\n"
        "enable_prefix_caching: false\nserved-model-name: [a, b]\ncompilation-config:\n  mode: 0\n"
    )
    found = read(f"vllm serve --config {path} --max-model-len 2048")
    assert found.model == "org/name"
    assert found.said == {
        "tp": 2, "context": 2048, "enforce_eager": True, "prefix_caching": False, "engine": "vllm",
    }  # fmt: skip
    assert [note for note in found.unmodelled if "which CUDA graphs" in note]


def test_settings_of_tensorrt_llm_win_over_the_command(tmp_path: Path) -> None:
    path = tmp_path / "extra.yaml"
    path.write_text(
        "kv_cache_config:\n  free_gpu_memory_fraction: 0.7\n  dtype: 'fp8'\n  enable_block_reuse: false\n"
        "cuda_graph_config:\n  batch_sizes:\n  - 1\n  - 8\nsomething_new: 1\n"
    )
    found = read(f"trtllm-serve org/name --kv_cache_free_gpu_memory_fraction 0.9 --extra_llm_api_options {path}")
    assert found.said == {"free_gpu_memory_fraction": 0.7, "kv_dtype": "fp8", "engine": "tensorrt-llm"}
    assert found.unmodelled == (
        "cuda_graph_config.batch_sizes in extra.yaml: 1 8: which CUDA graphs are captured",
        "something_new in extra.yaml: not read",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a:\n  b:\n    c: 1\n", "deeper than one level"),
        ("a: &x 1\n", "YAML that is not read"),
        ("  a: 1\n", "inside of nothing"),
        ("hello\n", "no 'key: value'"),
        ("- a\n", "inside of nothing"),
    ],
)
def test_a_file_that_is_more_than_settings_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(TonnageError, match=words):
        read(f"vllm serve x --config {path}")


def test_a_file_that_is_elsewhere_is_named() -> None:
    assert read("vllm serve x --config /no/such.yaml").unmodelled == (
        "--config /no/such.yaml: a file of further settings, which is not here",
    )


@pytest.mark.parametrize("stack", stacks(), ids=lambda s: s.name)
def test_every_flag_of_an_engine_is_read_whatever_it_does(stack: Any) -> None:
    start = " ".join(stack.starts[0])
    start = f"python -m {start}" if "." in start else start
    values = {"1": ["1"], "2": ["1", "2"], "?": [], "+": ["1"], "*": []}
    unknown = []
    for name, (kind, _) in flags_of(stack).items():
        try:
            read(" ".join([start, name, *values.get(kind, [])]))
        except (InputError, UnsupportedError) as e:
            # A value that a flag refuses is no flag that is unknown.
            unknown += [name] if "has no flag" in str(e) else []
    assert unknown == []
