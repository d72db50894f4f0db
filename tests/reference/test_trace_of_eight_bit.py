"""LoRA beside matrices of 8 bit (LLM.int8()) in models of one stack: closed form and trace, part by part."""

from __future__ import annotations

from typing import Any, Final

import pytest
from test_trace_against_the_closed_form import SHAPE
from tracing_cases import CONFIGS, traced

import tonnage as tn
from tonnage.estimate.training import Step
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
    most: dict[str, int] = {}
    moments = Step.moments

    def watched(self: Step) -> Any:
        for m in moments(self):
            most[m.name] = max(most.get(m.name, 0), m.highest)
            yield m

    monkeypatch.setattr(Step, "moments", watched)
    result = tn.train({"config": config}, suggest=False, replay=False, **said)
    found = levels(traced(config, layers="all", **said))
    got: dict[str, int] = {}
    for p in found.parts:
        reached = max(found.requested[i] for i in range(p.start - 1, p.stop))
        got[p.name] = max(got.get(p.name, 0), reached)
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
OTHERWISE: Final = {
    *(("bloom", way) for way in ("autocast", "reentrant", "prepared, autocast, recomputed")),
    # As Bloom's, which has the same biases of positions: 98,304 B below the trace in the backward pass of each layer.
    ("mpt", "reentrant"),
    ("olmo2", "prepared, autocast, recomputed"),
    # Two tables of positions are named for longer: 16 KB of 19 MB in the lowest layer.
    ("gemma2", "reentrant"),
}
"""What the closed form has otherwise, beside matrices of 4 bit as well."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", SETTINGS)
def test_every_part_of_a_step(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    same_parts(CONFIGS["llama"], EIGHT | SETTINGS[setting], monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_layer(family: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if (family, way) in OTHERWISE:
        pytest.skip("differs whatever the matrices are packed to")
    said = EIGHT | SETTINGS[way]
    if family == "qwen2_moe":
        said |= {"lora_targets": ["attention"]}
    same_parts(CONFIGS[family], said, monkeypatch)


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
