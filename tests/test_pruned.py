"""``--prune``: a smaller model of the same family, beside models that others made so."""

from __future__ import annotations

import json
from typing import Any

import pytest

import tonnage as tn
from tonnage.cli import main
from tonnage.errors import InputError, UnsupportedError


@pytest.mark.parametrize(
    ("prune", "billions"),
    [
        # Llama 3.1 8B pruned to 4B by depth and by width: arXiv:2408.11796, table 2 (4.5 B each).
        (("layers=16",), 4.5),
        (("hidden=3072", "ffn=9216"), 4.5),
    ],
)
def test_published_models(prune: tuple[str, ...], billions: float) -> None:
    assert tn.load("llama-3.1-8b", prune=prune).parameters.total / 1e9 == pytest.approx(billions, abs=0.05)


def test_layers_take_what_they_took() -> None:
    whole, half = tn.load("llama-3.1-8b"), tn.load("llama-3.1-8b", prune=("layers=50%",))
    ends = 2 * 128256 * 4096 + 4096
    assert 2 * (half.parameters.total - ends) == whole.parameters.total - ends


def test_heads_go_with_their_keys_and_values() -> None:
    whole = tn.serve("llama-3.1-8b", context=1024).capacity
    pruned = tn.serve(tn.load("llama-3.1-8b", prune=("heads=0.25",)), context=1024).capacity
    assert whole is not None
    assert pruned is not None
    assert pruned["kv_bytes_per_token"] * 4 == whole["kv_bytes_per_token"] * 3
    # Feed-forward width is nothing to the cache.
    narrow = tn.serve(tn.load("llama-3.1-8b", prune=("ffn=50%",)), context=1024).capacity
    assert narrow is not None
    assert narrow["kv_bytes_per_token"] == whole["kv_bytes_per_token"]


def test_heads_keep_their_width() -> None:
    found = tn.load("llama-3.1-8b", prune=("heads=16",))
    shapes = {t.name: t.shape for t in found.weights() if ".layers.0.self_attn" in t.name}
    assert shapes["model.layers.0.self_attn.q_proj.weight"] == (16 * 128, 4096)
    assert shapes["model.layers.0.self_attn.k_proj.weight"] == (4 * 128, 4096)
    assert shapes["model.layers.0.self_attn.o_proj.weight"] == (4096, 16 * 128)


def test_what_is_listed_layer_by_layer_is_cut() -> None:
    config: dict[str, Any] = {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "vocab_size": 100,
        "num_attention_heads": 4, "layer_types": ["full_attention"] * 4,
    }  # fmt: skip
    from tonnage.families._pruned import pruned

    new, told = pruned(config, ["layers=3"])
    assert new["layer_types"] == ["full_attention"] * 3
    assert not told
    assert config["num_hidden_layers"] == 4


@pytest.mark.parametrize(
    ("name", "wish", "error"),
    [
        ("llama-3.1-8b", "depth=3", InputError),
        ("llama-3.1-8b", "layers", InputError),
        ("llama-3.1-8b", "layers=0", InputError),
        ("llama-3.1-8b", "layers=33", InputError),
        ("llama-3.1-8b", "layers=-1", InputError),
        ("llama-3.1-8b", "layers=1.5", InputError),
        ("llama-3.1-8b", "layers=100%", InputError),
        ("llama-3.1-8b", "layers=nan", InputError),
        ("llama-3.1-8b", "layers=inf%", InputError),
        ("llama-3.1-8b", "heads=23", InputError),
        ("llama-3.1-8b", "experts=4", UnsupportedError),
        ("gpt2", "heads=25%", UnsupportedError),
        ("t5-small", "layers=3", UnsupportedError),
    ],
)
def test_what_cannot_be_pruned_is_said(name: str, wish: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        tn.load(name, prune=(wish,))


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["params", "gpt2", "--prune", "layers=6,ffn=0.5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"]["name"] == "gpt2, pruned to layers=6, ffn=0.5"
    layer = 4 * 768 * 768 + 4 * 768 + 2 * 768 * 1536 + 1536 + 768 + 4 * 768
    assert found["model"]["parameters"] == (50257 + 1024) * 768 + 6 * layer + 2 * 768
    assert main(["train", "gpt2", "--prune", "layers=6", "--json"]) == 0
