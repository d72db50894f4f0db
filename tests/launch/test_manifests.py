"""Launch commands in files of docker compose and of Kubernetes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from tonnage import launch
from tonnage.cli import main

pytest.importorskip("yaml")

COMPOSE = """
services:
  web:
    image: ghcr.io/open-webui/open-webui:main
    environment: {OPENAI_API_BASE_URL: http://vllm:8000/v1}
  vllm:
    image: vllm/vllm-openai:v0.24.0
    environment:
      - HF_TOKEN=${HF_TOKEN}
      - VLLM_USE_V1=1
    command: >
      --model ${MODEL:-meta-llama/Llama-3.1-8B-Instruct}
      --max-model-len 8192
      --kv-cache-dtype fp8
      --tensor-parallel-size 2
    deploy:
      resources:
        reservations:
          devices:
            - {driver: nvidia, count: 2, capabilities: [gpu]}
"""
SEVERAL = """
services:
  chat:
    image: lmsysorg/sglang:v0.5.5
    command: ["python3", "-m", "sglang.launch_server", "--model-path", "Qwen/Qwen3-14B", "--tp-size", 2]
  small:
    image: ghcr.io/ggml-org/llama.cpp:server-cuda
    command: -m /models/qwen3-0.6b-q8_0.gguf -c 4096 -ngl 99
  embed:
    image: ghcr.io/huggingface/text-generation-inference:3.3.5
    command: --model-id mistralai/Mistral-7B-Instruct-v0.3 --num-shard 1
"""
# As vLLM's documentation deploys it on Kubernetes: docs/deployment/k8s.md of vllm-project/vllm.
KUBERNETES = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: mistral-7b}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: mistral-7b}
spec:
  template:
    spec:
      containers:
        - name: server
          image: vllm/vllm-openai:v0.20.1
          env:
            - {name: LEN, value: "4096"}
          command: ["/bin/sh", "-c"]
          args: ["vllm serve mistralai/Mistral-7B-Instruct-v0.3 --max-num-batched-tokens 1024 --max-model-len $(LEN)"]
          resources: {limits: {nvidia.com/gpu: "1"}}
        - {name: sidecar, image: busybox, command: ["sleep", "1"]}
"""


def written(folder: Path, text: str, name: str = "compose.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_the_service_that_starts_an_engine(tmp_path: Path) -> None:
    found = launch.read(written(tmp_path, COMPOSE))
    assert (found.stack, found.model) == ("vllm", "meta-llama/Llama-3.1-8B-Instruct")
    assert found.said == {
        "context": 8192, "kv_dtype": "fp8", "tp": 2, "engine": "vllm", "engine_version": "0.24",
    }  # fmt: skip
    # The variable matters to memory, and is named as in a command.
    assert [note.partition(":")[0] for note in found.unmodelled] == ["VLLM_USE_V1=1"]


def test_a_container_of_kubernetes_in_a_shell(tmp_path: Path) -> None:
    found = launch.read(written(tmp_path, KUBERNETES, "vllm.yml"))
    assert found.model == "mistralai/Mistral-7B-Instruct-v0.3"
    assert found.said == {
        "max_num_batched_tokens": 1024, "context": 4096, "engine": "vllm", "engine_version": "0.20",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("service", "engine", "key", "value"),
    [("chat", "sglang", "tp", 2), ("small", "llamacpp", "context", 4096), ("embed", "tgi", "tp", 1)],
)
def test_one_of_several_services(tmp_path: Path, service: str, engine: str, key: str, value: Any) -> None:
    found = launch.read(f"{written(tmp_path, SEVERAL)}:{service}")
    assert (found.stack, found.said[key]) == (engine, value)


def test_several_services_are_told_by_name(tmp_path: Path) -> None:
    path = written(tmp_path, SEVERAL)
    with pytest.raises(tn.InputError, match=r"chat \(sglang\), small \(llamacpp\), embed \(tgi\)") as e:
        launch.read(path)
    assert f"--from {path}:NAME" in str(e.value.hint)
    with pytest.raises(tn.InputError, match="no service 'other' starts an engine"):
        launch.read(f"{path}:other")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("services: {web: {image: nginx}}", "no service starts an engine that is known: web"),
        ("a: 1", "neither services of docker compose nor containers"),
        ("a: [1", "not YAML, line"),
        ("a: &a [*a, *a]\nb: {containers: [{image: x, args: 3}]}", "no service starts"),
    ],
)
def test_files_without_an_engine_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(tn.InputError, match=words):
        launch.read(written(tmp_path, text))


def test_more_ranks_than_devices_that_are_reserved(tmp_path: Path) -> None:
    with pytest.raises(tn.InputError, match="needs 2 devices and may see 1"):
        launch.read(written(tmp_path, COMPOSE.replace("count: 2", "count: 1")))


def test_without_the_library_it_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(tn.UnsupportedError, match="needs PyYAML") as e:
        launch.read(written(tmp_path, COMPOSE))
    assert e.value.hint == "pip install 'tonnage[yaml]'"


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, COMPOSE.replace("      - VLLM_USE_V1=1\n", ""))
    code = main(["serve", "--from", path, "--model", "llama-3.1-8b", "--gpu", "h100-sxm-80gb", "--json"])
    assert code == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["workload"]["tp"], answer["workload"]["kv_dtype"]) == (2, "fp8")
