"""LoRA beside matrices of 8 bit (LLM.int8()) in models of one stack: closed form and trace, part by part."""

from __future__ import annotations

from typing import Any, Final

import pytest
from test_trace_against_the_closed_form import SHAPE
from tracing_cases import CONFIGS, most_by_part, traced, traced_by_part

import tonnage as tn
from tonnage.tracing.levels import levels

pytest.importorskip("peft")

EIGHT: Final = SHAPE | {"dtype": "bf16", "quant": "int8", "lora_rank": 8, "lora_targets": ["all-linear"]}
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "fp16": {"dtype": "fp16", "precision": "fp16"},
    "attention alone": {"lora_targets": ["attention"]},
    "dropout": {"lora_dropout": 0.1},
    "one sequence": {"batch": 1, "seq": 77},
    "eager": {"attention": "eager"},
    "recomputed": {"recompute": "full"},
    "reentrant": {"recompute": "reentrant"},
    "reentrant, prepared, autocast": {
        "recompute": "reentrant",
        "kbit_prepared": True,
        "precision": "fp16-autocast",
        "dtype": "fp16",
    },
    "autocast": {"precision": "bf16-autocast"},
    "autocast, recomputed": {"precision": "bf16-autocast", "recompute": "full"},
    "prepared": {"kbit_prepared": True},
    "prepared, recomputed": {"kbit_prepared": True, "recompute": "full"},
    "prepared, autocast": {"kbit_prepared": True, "precision": "fp16-autocast", "dtype": "fp16"},
    "prepared, autocast, recomputed": {"kbit_prepared": True, "precision": "bf16-autocast", "recompute": "full"},
    "outputs": {"retain": ["outputs"]},
    "step outputs": {"retain": ["step-outputs"]},
    "outputs of two passes": {"retain": ["step-outputs"], "accumulate": 2},
    "last outputs": {"retain": ["last-outputs"]},
    "accumulated": {"accumulate": 4},
    "first step": {"first_step": True},
}


def same_parts(config: dict[str, Any], said: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The most that tensors take in each layer's passes, the loss and the optimizer's step."""
    most = most_by_part(monkeypatch)
    result = tn.train({"config": config}, suggest=False, replay=False, **said)
    found = levels(traced(config, layers="all", **said))
    got = traced_by_part(found)
    assert found.traced.told["trainable"] == result.model["trainable_parameters"]
    # Position ids belong to what stands before the layers in a trace, and to the layers here.
    # Of a pass within the pass, some of the lowest layer's is told as the embedding's.
    apart = ("forward embedding", *(["backward embedding"] if said.get("recompute") == "reentrant" else []))
    shared = [name for name in got if name in most and name not in apart]
    layers = found.traced.told["layers"]
    frozen = sum(f"backward layer {i}" not in got for i in range(layers))
    assert len(shared) >= 2 * layers + 3 - frozen
    assert {name: most[name] for name in shared} == {name: got[name] for name in shared}


FAMILIES: Final = (
    "qwen2", "mistral", "gemma", "gemma2", "gpt_neox", "gpt2", "opt", "bloom", "phi", "phi3",
    "stablelm", "starcoder2", "olmo2", "cohere", "mpt", "bert", "electra", "qwen2_moe",
)  # fmt: skip
"""Biases, transposed matrices, parallel blocks, norms behind blocks, a packed head's transform, experts that stay."""
WAYS: Final = ("plain", "recomputed", "reentrant", "autocast", "prepared", "prepared, autocast, recomputed")
MIXED: Final[dict[str, dict[str, Any]]] = {
    "fp32": {"dtype": "fp32"},
    "bf16": {"dtype": "bf16"},
    "fp16": {"dtype": "fp16"},
    "fp32, recomputed": {"dtype": "fp32", "recompute": "full"},
    "bf16, prepared, reentrant": {"dtype": "bf16", "kbit_prepared": True, "recompute": "reentrant"},
}
"""What autocast in bf16 finds: the format of the checkpoint."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", SETTINGS)
def test_every_part_of_a_step(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    same_parts(CONFIGS["llama"], EIGHT | SETTINGS[setting], monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_layer(family: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = EIGHT | SETTINGS[way]
    if family == "qwen2_moe":
        said |= {"lora_targets": ["attention"]}
    same_parts(CONFIGS[family], said, monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", MIXED)
@pytest.mark.parametrize("quant", ["none", "nf4", "nf4-dq", "int8"])
@pytest.mark.parametrize("family", ["llama", "bloom", "mpt", "olmo2"])
def test_autocast_beside_matrices_of_any_format(
    family: str, quant: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products of 4 and 8 bit hand back the format of their input, which a norm made fp32 under autocast."""
    same_parts(CONFIGS[family], EIGHT | {"precision": "bf16-mixed", "quant": quant} | MIXED[way], monkeypatch)


def test_reentrance_is_what_the_stack_has() -> None:
    """Without it, a checkpoint spares next to nothing: what products hold is attributes of steps that no hook sees."""
    said = {"quant": "int8", "lora_rank": 8, "batch": 1, "seq": 2048, "suggest": False, "replay": False}
    ways: dict[str, int] = {}
    for stack, recompute in (
        ("axolotl", "full"), ("axolotl", "non-reentrant"), ("llama-factory", "full"), ("transformers", "full"),
        ("transformers", "reentrant"),
    ):  # fmt: skip
        result = tn.train("llama-3.1-8b", stack=stack, recompute=recompute, **said)
        held = sum(c.bytes for c in result.components if c.name == "activations" and "saved by" in c.why)
        ways[f"{stack} {recompute}"] = held
    # By hand: of a layer, inputs of q, k and v, of o, of gate and up, of down, in bf16.
    each = 2 * 2048 * (3 * 4096 + 14336)
    assert ways["axolotl non-reentrant"] == ways["transformers full"] == 32 * each
    assert ways["axolotl full"] == ways["llama-factory full"] == ways["transformers reentrant"] == 0
