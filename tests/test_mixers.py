"""Recurrent mixers, by kernels of a package or in operations of torch: closed form against traces, to the byte.

The recorded runs are in data/mixers.json and data/hybrids.json, with how they were made (``scripts/trace_mixers.py``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest

import tonnage as tn
from peaks import peaks, run_name
from tonnage.arch.forward import Mixers
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.recipe import Recipe
from tonnage.estimate.training import Step
from tonnage.families import model_from
from tonnage.memory.optimizers import optimizer

RECORDED: list[dict[str, Any]] = [
    json.loads((Path(__file__).parent / "data" / f"{name}.json").read_text()) for name in ("mixers", "hybrids")
]
CONFIGS: dict[str, Any] = RECORDED[0]["configs"] | RECORDED[1]["configs"]
RUNS = [run for table in RECORDED for run in table["runs"]]
MAMBA: dict[str, Any] = {"config": CONFIGS["mamba"]}


def remains_otherwise(run: dict[str, Any]) -> bool:
    """Whether tensors beside the mixers' die in another order than in the trace: what blocks keep over differs then.

    So they do in the unfused path of attention, which fp32 brings, and beside adapters of Qwen3-Next's attention.
    """
    said, config = run["said"], run["config"]
    if "kernels" not in said:
        return config == "qwen3_next" and said["precision"] == "fp32"
    return said["kernels"] == "fla" and (
        said["precision"] == "fp32" or (config == "qwen3_next" and "lora_rank" in said)
    )


@pytest.mark.parametrize("run", RUNS, ids=run_name)
def test_a_step_takes_what_the_package_s_code_does(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    found, result = peaks(CONFIGS[run["config"]], run["said"], monkeypatch)
    assert found == run["peaks"]
    if not remains_otherwise(run):
        assert result.ranks[0].tier("allocated") == run["allocated"]
    assert result.model["trainable_parameters"] == run["trainable"]
    assert result.workload["kernels"] == run["said"].get("kernels", "none")


def test_what_a_layer_keeps_is_told_by_hand() -> None:
    """A layer of Mamba-130m over 2,048 tokens in bf16: what ``MambaInnerFn`` saves, and what stands before it."""
    tokens, inner, width, states, rank = 2048, 1536, 768, 16, 48
    saved = 2 * tokens * (2 * inner + rank + 2 * states + 2 * states + inner)  # xz, x_dbl, B and C, out
    saved += 4 * inner * (1 + 2) * states  # decays, and two numbers of every state
    saved += 4 * inner * 2  # skip and bias in fp32
    before = 4 * tokens * (width + 1)  # the norm's input in fp32, and a number a token
    before += 2 * tokens * width * 2  # normalised, and the projection's input
    before += 4 * inner * states  # exp(A_log)
    result = tn.train("mamba-130m", suggest=False, precision="bf16", kernels="mamba-ssm", seq=tokens)
    line = next(c for c in result.ranks[0].components if "saved by a mamba" in c.why)
    assert f"{saved + before:,} B saved by a mamba" in line.why


def test_what_the_delta_rule_keeps_is_told_by_hand() -> None:
    """A delta net of Qwen3.5-0.8B over 2,048 tokens in bf16: what ``ChunkGatedDeltaRuleFunction`` saves."""
    tokens, heads, width, block = 2048, 16, 128, 64
    saved = 2 * tokens * heads * 3 * width  # queries, keys and values
    saved += 4 * tokens * heads * 2  # a number for each query and key
    saved += 4 * tokens * heads + 2 * tokens * heads  # cumulated decays, rates
    saved += 2 * tokens * heads * block  # a row of a block's solution
    passes = Step(model_from(DELTA), recipe("fla")).passes
    kept = [s for s in passes.layers[0].saved if s.label in DELTA_KEEPS]
    assert sum(s.nbytes for s in kept) == saved


DELTA: dict[str, Any] = {
    "model_type": "qwen3_5_text", "vocab_size": 248320, "hidden_size": 1024, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256, "intermediate_size": 3584,
    "linear_num_key_heads": 16, "linear_num_value_heads": 16,
}  # fmt: skip
DELTA_KEEPS = {
    "normalised queries", "normalised keys", "values, contiguous", "rstd", "cumulated decays", "sigmoid",
    "solved blocks",
}  # fmt: skip


def recipe(package: Literal["fla", "mamba-ssm"] | None) -> Recipe:
    return Recipe(
        weights="bf16", autocast=None, kernel="flash", optimizer=optimizer("adamw-fused"), batch=1, tokens=2048,
        accumulate=1, recompute=False, keep_logits=False, keep_gradients=False, first_step=False, workspace=0,
        mixer=Mixers(package=package),
    )  # fmt: skip


def test_what_the_delta_rule_keeps_in_operations_of_torch_is_told_by_hand() -> None:
    """The same net over the same tokens where fla is not installed: all in fp32, a state for every chunk of 64."""
    tokens, heads, width, chunk = 2048, 16, 128, 64
    # Queries and keys cast, padded and decayed; values padded; keys weighed; solutions; values less predictions.
    wide = 2 * 3 + 1 + 1 + 2 + 1
    saved = 4 * tokens * heads * (wide * width + 5 * chunk)  # decays; system and scores, each decayed as well
    saved += 4 * heads * (tokens // chunk) * (width * width + 1)  # states that were read; decays of a chunk
    saved += 4 * tokens * heads * 6  # two norms, rates padded, three exponentials of decays
    saved += chunk * chunk  # mask
    passes = Step(model_from(DELTA), recipe(None)).passes
    kept = [s for s in passes.layers[0].saved if s.axes[1:2] in ((("N", heads),), (("K", heads),)) or s.dtype == "bool"]
    assert sum(s.nbytes for s in kept) == saved


@pytest.mark.parametrize(
    ("config", "package", "release"), [(MAMBA["config"], "mamba-ssm", "2.3.2"), (DELTA, "fla", "0.6.0")]
)
def test_operations_of_torch_are_the_default_and_the_result_says_so(
    config: dict[str, Any], package: str, release: str
) -> None:
    slow, fast = (tn.train({"config": config}, suggest=False, seq=256, kernels=k) for k in (None, package))
    assert slow.workload["kernels"] == "none"
    assert sum(f"--kernels {package}" in c for c in slow.caveats) == 1
    assert sum(release in c for c in fast.caveats) == 1
    assert kept(fast) < kept(slow) / 2


def kept(result: Any) -> int:
    """What the first three layers' forward passes leave. [byte]"""
    at = {i.name: i.bytes for i in result.ranks[0].instants}
    return int(at["forward layer 2"] - at["forward embedding"])


@pytest.mark.parametrize(("device", "told"), [("h100-sxm-80gb", 1), ("a100-80gb", 0), (None, 0)])
def test_a_release_that_stops_on_hopper_is_told(device: str | None, told: int) -> None:
    result = tn.train({"config": DELTA}, suggest=False, seq=64, kernels="fla", gpu=device)
    assert sum("Triton is 3.4.0 to 3.7.0" in c for c in result.caveats) == told


def test_they_are_named_beside_liger() -> None:
    both = tn.train(MAMBA, suggest=False, seq=64, kernels="liger,mamba-ssm")
    assert both.workload["kernels"] == "liger,mamba-ssm"
    assert any("replaces nothing" in c for c in both.caveats)


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ({"kernels": "mamba"}, InputError, "unknown kernels"),
        ({"compile": True}, UnsupportedError, "compile is not modelled beside"),
        ({"kernels": "mamba-ssm", "quant": "nf4", "lora_rank": 8}, UnsupportedError, "past their modules"),
        (
            {
                "config": "qwen3_5",
                "quant": "nf4",
                "lora_rank": 8,
                "lora_targets": ("q_proj",),
                "kbit_prepared": True,
                "kernels": "fla",
            },
            UnsupportedError,
            "by the kernels of fla",
        ),
        ({"lora_rank": 8, "lora_targets": ("out_proj",)}, InputError, "peft adapts no out_proj"),
        ({"config": "bamba", "z_loss_coefficient": 0.1}, UnsupportedError, "further term"),
        (
            {"config": "jamba", "kernels": "mamba-ssm", "precision": "bf16-mixed"},
            InputError,
            "no state vectors in fp32",
        ),
        ({"kernels": "mamba-ssm", "objective": "dpo"}, UnsupportedError, "on the next token"),
        ({"config": "qwen3_5", "kernels": "fla", "objective": "dpo"}, UnsupportedError, "on the next token"),
        ({"config": "kimi_linear", "kernels": "fla"}, UnsupportedError, "by the kernels of fla"),
        ({"config": "qwen3_5", "kernels": "fla,liger,foo"}, InputError, "unknown kernels 'foo'"),
    ],
)
def test_what_does_not_go_is_refused(said: dict[str, Any], kind: type[Exception], words: str) -> None:
    config = CONFIGS[said.pop("config", "mamba")]
    config = config | {name: said.pop(name) for name in ("z_loss_coefficient",) if name in said}
    with pytest.raises(kind, match=words):
        tn.train({"config": config}, suggest=False, seq=64, **said)


def test_adapters_that_get_no_gradient_are_told() -> None:
    said = {"suggest": False, "seq": 64, "lora_rank": 8, "lora_targets": ("in_proj", "out_proj")}
    caveats = [tn.train({"config": CONFIGS["bamba"]}, kernels=k, **said).caveats for k in (None, "mamba-ssm")]
    assert [sum("get no gradient" in c for c in found) for found in caveats] == [0, 1]


def test_a_norm_of_one_group_keeps_a_number_a_token_and_none_keeps_none() -> None:
    """A mixer of Falcon-H1 over 2,048 tokens in bf16: with a norm a number in fp32 for each token and group more."""
    saved = []
    for name in ("falcon_h1", "falcon_h1 (norm)"):
        step = Step(model_from(CONFIGS[name]), recipe("mamba-ssm"))
        saved.append(sum(s.nbytes for s in step.passes.layers[0].saved))
    groups, tokens = 2, 2048
    assert saved[1] - saved[0] == 4 * groups * tokens


def test_a_model_without_mixers_has_no_use_for_them() -> None:
    with pytest.raises(InputError, match="runs no block of llama"):
        tn.train("llama-3.1-8b", suggest=False, kernels="mamba-ssm")
