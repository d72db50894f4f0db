"""Help: what it lists, and under which heading."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from tonnage.cli import cli
from tonnage.cli.flags import NAMES
from tonnage.engines import Engine
from tonnage.memory import optimizers
from tonnage.registry import names, variant
from tonnage.workload import Workload
from tonnage.workload.serving import Serve
from tonnage.workload.training import Train

HEADED = {
    "vLLM": {"vllm"},
    "SGLang": {"sglang"},
    "TensorRT-LLM": {"tensorrt_llm"},
    "TGI": {"tgi"},
    "llama.cpp, Ollama, LM Studio": {"llamacpp", "ollama", "lmstudio"},
    "MLX": {"mlx"},
    "ExecuTorch": {"executorch"},
}


@pytest.mark.parametrize("heading", HEADED)
def test_help_lists_a_key_under_an_engine_that_takes_it(heading: str) -> None:
    engines = [variant("tonnage.engines", name, "ENGINE", Engine) for name in names("tonnage.engines")]
    keys = [name for name, key in Serve.keys.items() if key.heading == heading]
    assert keys
    for name in keys:
        takers = {engine.name.replace("-", "_") for engine in engines if name in engine.takes}
        assert takers, name
        assert takers <= HEADED[heading], name


@pytest.mark.parametrize("verb", ["train", "serve"])
def test_help_has_a_flag_for_every_key(verb: str) -> None:
    kind: type[Workload] = {"train": Train, "serve": Serve}[verb]
    text = CliRunner().invoke(cli, [verb, "--help"], standalone_mode=False).output
    for name, key in kind.keys.items():
        assert f"--{name.replace('_', '-')}" in text
        assert f"{key.heading}:" in text


def test_help_lists_what_a_key_takes() -> None:
    text = CliRunner().invoke(cli, ["train", "--help"], terminal_width=10_000, standalone_mode=False).output
    assert all(name in text for name in (*optimizers.NAMES, "llama-factory", "tensorwise-compiled", "save-on-cpu"))
    assert set(NAMES) <= {*Train.keys, *Serve.keys}


def test_every_verb_has_help() -> None:
    assert isinstance(cli, click.Group)
    for verb in cli.list_commands(click.Context(cli)):
        assert CliRunner().invoke(cli, [verb, "--help"]).exit_code == 0
