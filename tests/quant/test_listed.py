"""Model Optimizer's checkpoints whose modules have formats of their own, and DeepSeek-V4's FP4 experts.

The figures are elements as the Hub counts them in the safetensors headers, packed ones two or more to an element.
"""

from __future__ import annotations

from typing import Any

import pytest

from tonnage import api, quant
from tonnage.arch.model import Model
from tonnage.errors import ConfigError, UnsupportedError
from tonnage.formats import FORMATS
from tonnage.memory.weights import stored


def shares(model: Model, scheme: dict[str, Any]) -> dict[tuple[str, str], int]:
    """Elements by part and format."""
    found = stored(model, FORMATS["bf16"], quant.recipe(scheme))
    return {(s.part, s.format): s.elements for s in found}


def test_experts_and_the_rest_have_formats_of_their_own() -> None:
    """nvidia/MiniMax-M3-NVFP4: 220,479,056,768 elements, 7,296 of them corrections of scores."""
    model = api.load("minimax-m3")
    layers: dict[str, Any] = {}
    for i in range(60):
        path = f"language_model.model.layers.{i}."
        parts = [f"self_attn.{x}_proj" for x in "qkvo"]
        experts = "block_sparse_moe" if i > 2 else ""
        parts += [f"{experts}.shared_experts.{x}_proj" if experts else f"mlp.{x}_proj" for x in ("gate", "up", "down")]
        if experts:
            parts += [f"self_attn.index_{x}_proj" for x in "qk"]
            layers |= {f"{path}{experts}.experts.{e}.{w}": {"quant_algo": "NVFP4", "group_size": 16}
                       for e in range(2) for w in ("w1", "w2", "w3")}  # fmt: skip
        layers |= {path + part: {"quant_algo": "MXFP8"} for part in parts}
    scheme = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    found = shares(model, scheme)
    assert found["packed values", "uint8"] == 57 * 128 * 3 * 6144 * 3072 // 2
    packed = sum(n for (part, _), n in found.items() if part != "scales")
    assert packed + 57 * 128 == 220_479_056_768


def test_deepseek_v4_stores_experts_in_four_bits() -> None:
    model = api.load("deepseek-v4-flash")
    assert model.quantization is not None
    found = shares(model, dict(model.quantization))
    experts = 43 * 256 * 3 * 4096 * 2048
    assert found["packed values", "int8"] == experts // 2
    assert found["scales", "fp8_e8m0"] > experts // 32


@pytest.mark.parametrize(
    ("scheme", "error", "words"),
    [
        ({"quant_algo": "MIXED_PRECISION"}, ConfigError, "quantized_layers"),
        ({"quant_algo": "MIXED_PRECISION", "quantized_layers": {"lm_head": 4}}, ConfigError, "by module"),
        ({"quant_algo": "W2A2", "quantized_layers": {}}, UnsupportedError, "W2A2"),
        (
            {
                "quant_algo": "MIXED_PRECISION",
                "quantized_layers": {
                    "model.layers.0.mlp.experts.0.w1": {"quant_algo": "FP8"},
                    "model.layers.0.mlp.experts.1.w1": {"quant_algo": "NVFP4"},
                },
            },
            UnsupportedError,
            "experts of one layer",
        ),
    ],
)
def test_lists_that_are_not_understood_are_refused(scheme: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        quant.recipe({"quant_method": "modelopt", **scheme})
