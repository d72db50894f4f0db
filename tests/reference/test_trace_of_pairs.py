"""Encoder-decoder models: the closed form of a step against a live trace of transformers' code, to the byte."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import pytest
import test_trace_against_the_closed_form as closed
import test_trace_of_adapters as of_one_stack
import tracing_cases
from tracing_cases import CONFIGS

import tonnage as tn
from tonnage.errors import UnsupportedError
from tonnage.tracing import tuning
from tonnage.tracing.levels import levels

PAIRS: Final[dict[str, dict[str, Any]]] = {
    "t5": CONFIGS["t5"],
    **json.loads((Path(__file__).parent.parent / "data" / "pairs.json").read_text())["configs"],
}
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "long": {"seq": 200, "target_seq": 57},
    "short": {"seq": 33, "target_seq": 300},
    "eager": {"attention": "eager", "seq": 77},
    "mixed": {"precision": "bf16-mixed"},
    "one sequence": {"batch": 1, "seq": 77},
    "outputs": {"retain": ["outputs"]},
    "last outputs": {"retain": ["last-outputs"]},
    "accumulated": {"accumulate": 4},
    "first step": {"first_step": True},
    "recomputed": {"recompute": "full", "seq": 128},
}
OF: Final = ("t5", "mt5", "umt5", "bart", "whisper", "m2m_100")
TARGETS: Final = {
    "t5": ["q", "v"], "mt5": ["q", "v"], "umt5": ["q", "v"], "t5 (gated)": ["q", "v"], "own": ["q", "k", "wi", "wo"],
    "bart": ["q_proj", "v_proj", "fc1", "fc2"],
}  # fmt: skip
"""Modules that are adapted; the attention's of BART's kind else."""
ADAPTED: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "all": {"lora_targets": ["all-linear"]},
    "recomputed": {"recompute": "full"},
    "mixed": {"precision": "bf16-mixed", "dtype": "fp32", "lora_dropout": 0.1},
    "mixed, recomputed": {"precision": "bf16-mixed", "dtype": "fp32", "recompute": "full"},
    "short": {"batch": 1, "seq": 77, "target_seq": 33},
    "nf4": {"quant": "nf4"},
    "nf4, prepared": {"quant": "nf4-dq", "kbit_prepared": True, "recompute": "full"},
    "nf4, prepared, autocast": {"quant": "nf4", "kbit_prepared": True, "precision": "bf16-autocast"},
}
SHORT: Final = {
    ("whisper", "mixed"): {"forward layer 2": 2192},
    # Sound lies channels first, and so does the gradient of what is clamped, which the product lays out anew.
    ("whisper", "8 bit, fp16"): {f"backward layer {i}": 230400 for i in range(3)},
}
"""Bytes that a part's closed form lacks, far below the peak; the first is between the stacks and not found yet."""
EIGHT: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "fp16": {"dtype": "fp16", "precision": "fp16"},
    "recomputed": {"recompute": "full"},
    "autocast": {"precision": "bf16-autocast"},
    "prepared": {"kbit_prepared": True},
    "prepared, recomputed": {"kbit_prepared": True, "recompute": "full"},
    "prepared, autocast": {"kbit_prepared": True, "precision": "fp16-autocast", "dtype": "fp16"},
    "prepared, autocast, recomputed": {"kbit_prepared": True, "precision": "bf16-autocast", "recompute": "full"},
    "outputs": {"retain": ["outputs"]},
}
METHODS: Final[dict[str, tuple[str, dict[str, Any], dict[str, Any]]]] = {
    "dora": ("LoraConfig", {"r": 8, "use_dora": True}, {"adapter": "dora", "lora_rank": 8}),
    "ia3": ("IA3Config", {}, {"adapter": "ia3"}),
    "vera": ("VeraConfig", {"r": 8}, {"adapter": "vera", "lora_rank": 8}),
    **{name: of_one_stack.METHODS[name] for name in ("oft", "boft", "hra", "loha", "hira", "randlora", "miss", "beft")},
}


OURS: Final = ("adapter", "adapter_options", "virtual_tokens", "encoder_hidden")
"""What stands in a config of peft instead."""


def compared(name: str, said: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # What the model's code makes around its head is told by the trace as logits: lines are compared elsewhere.
    monkeypatch.setattr(closed, "lines_of", lambda result: None)
    monkeypatch.setattr(closed, "lines_of_trace", lambda found: None)
    closed.compared(PAIRS[name], closed.SHAPE | said, monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_is_what_its_code_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared(name, {}, monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", OF)
def test_every_setting_of_a_pair(name: str, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared(name, SETTINGS[setting], monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["whisper", "m2m_100", "mbart", "pegasus"])
def test_encoders_that_clamp_their_layers_in_fp16(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """BART's own are looked at instead, which takes data: no trace can follow."""
    compared(name, {"precision": "fp16", "seq": 128}, monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("said", [{}, {"recompute": "full"}, {"optimizer": "adamw-loop", "clip_grad_norm": True}])
@pytest.mark.parametrize("precision", ["fp16", "fp16-autocast"])
@pytest.mark.parametrize("name", ["t5", "t5 (gated)", "mt5"])
def test_t5_in_fp16_keeps_some_in_fp32(
    name: str, precision: str, said: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last matrix of each feed-forward (``_keep_in_fp32_modules``), and with it the residual stream."""
    compared(name, said | {"precision": precision}, monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["t5", "mt5"])
def test_adapters_beside_what_stays_in_fp32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    same_parts(name, {"precision": "fp16", "lora_rank": 8, "lora_targets": ["q", "v"]}, monkeypatch)


def told(name: str, layers: int) -> str:
    """The part of a trace that a moment of the closed form is in: layers of both stacks in one row.

    What is between the stacks has no name of its own there, and is counted to the layer before.
    """
    for stack, first in (("encoder", 0), ("decoder", layers)):
        way, _, number = name.partition(f" {stack} layer ")
        if number:
            return f"{way} layer {first + int(number)}"
    between = {
        "last norm of the encoder": f"forward layer {layers - 1}",
        "forward decoder embedding": f"forward layer {layers - 1}",
        "last norm of the decoder": "loss",
        "last norm of the decoder, backward": "loss backward",
        "backward decoder embedding": f"backward layer {layers}",
        "last norm of the encoder, backward": f"backward layer {layers}",
    }
    return between.get(name, name)


def same_parts(
    name: str, said: dict[str, Any], monkeypatch: pytest.MonkeyPatch, short: Mapping[str, int] = MappingProxyType({})
) -> None:
    """The most that tensors take in each layer's passes, the loss and the optimizer's step; ``short`` of it by part."""
    config = PAIRS[name]
    most = tracing_cases.most_by_part(monkeypatch, lambda step, part: told(part, len(step.model.stacks[0].layers)))
    result = tn.train({"config": config}, suggest=False, replay=False, **closed.SHAPE | said)
    asked = closed.SHAPE | said
    if "adapter" in said:
        # What stands for it is made by the caller.
        asked = {k: v for k, v in asked.items() if k not in OURS} | {"lora_rank": 1}
    found = levels(tracing_cases.traced(config, layers="all", **asked))
    got = tracing_cases.traced_by_part(found)
    assert found.traced.told["trainable"] == result.model["trainable_parameters"]
    wanted = [n for n in got if n not in ("forward embedding", "backward embedding")]
    assert {n: most[n] + short.get(n, 0) for n in wanted} == {n: got[n] for n in wanted}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PAIRS)
def test_every_part_of_a_pair_that_is_recomputed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    same_parts(name, {"recompute": "full"}, monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", ADAPTED)
@pytest.mark.parametrize("name", [*OF, "t5 (gated)", "mt5", "marian", "pegasus", "m2m_100", "umt5"])
def test_adapters_of_a_pair(name: str, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    said = {"lora_rank": 8, "lora_targets": TARGETS.get(name, ["q_proj", "v_proj"])}
    same_parts(name, said | ADAPTED[setting], monkeypatch, SHORT.get((name, setting), {}))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", EIGHT)
@pytest.mark.parametrize("name", ["whisper", "mt5", "bart", "m2m_100"])
def test_adapters_beside_matrices_of_8_bit(name: str, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLM.int8() of a batch without outliers, whose products hold what they were given until the graph is gone."""
    pytest.importorskip("peft")
    if "fp16" in str(EIGHT[setting]) and (name == "mt5" or (name, setting) == ("bart", "fp16")):
        pytest.skip("T5's wo stays in fp32, and BART looks at its layers' values")
    if setting == "autocast" and name != "mt5":
        pytest.skip("refused: the first biases stay in 16 bit")
    said = {"quant": "int8", "lora_rank": 8, "lora_targets": TARGETS.get(name, ["q_proj", "v_proj"])}
    same_parts(name, said | EIGHT[setting], monkeypatch, SHORT.get((name, f"8 bit, {setting}"), {}))


@pytest.mark.parametrize(
    "said",
    [{"config": PAIRS["whisper"], "precision": "bf16-autocast"}, {"config": PAIRS["bart"], "adapter": "dora"},
     {"config": PAIRS["mt5"], "dtype": "fp16", "lora_targets": ["q"]}],
    ids=["biases", "another method", "T5 in fp16"],
)  # fmt: skip
def test_what_is_not_modelled_beside_8_bit_is_refused(said: dict[str, Any]) -> None:
    config, *rest = said.items()
    with pytest.raises(UnsupportedError, match=r"not modelled|modelled for encoder-decoder"):
        tn.train(
            {"config": config[1]}, suggest=False,
            **{"dtype": "bf16", "quant": "int8", "lora_rank": 8, "lora_targets": ["q_proj"], **dict(rest)},
        )  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_other_methods_of_a_pair(name: str, method: str, recompute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    peft = pytest.importorskip("peft")
    make, settings, said = METHODS[method]
    targets = {} if method == "ia3" else {"target_modules": TARGETS["own" if name == "t5" else name]}
    config = getattr(peft, make)(**targets, task_type="SEQ_2_SEQ_LM", **settings)
    monkeypatch.setattr(tuning, "tuned", lambda model, job: of_one_stack.adapted(model, config))
    asked = {"lora_targets": targets["target_modules"]} if targets else {}
    same_parts(name, said | asked | {"recompute": recompute}, monkeypatch)


def test_a_table_that_the_code_would_make_anew_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="1,025 tokens are more than the 1,024 positions"):
        tn.train({"config": PAIRS["m2m_100"]}, suggest=False, seq=1025)


READ: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "one sequence": {"batch": 1, "seq": 77, "target_seq": 33},
    "eager": {"attention": "eager"},
    "mixed": {"precision": "bf16-mixed", "dtype": "fp32"},
    "recomputed": {"recompute": "full"},
    "nf4": {"quant": "nf4"},
    "nf4, prepared": {"quant": "nf4-dq", "kbit_prepared": True},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", READ)
@pytest.mark.parametrize("inner", [0, 128], ids=["prompt", "p-tuning"])
@pytest.mark.parametrize("name", ["t5", "mt5", "bart", "marian"])
def test_trained_tokens_before_what_is_read(
    name: str, inner: int, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of 20 for each stack, of which the decoder's are made and not used."""
    peft = pytest.importorskip("peft")
    made: dict[str, Any] = {"task_type": "SEQ_2_SEQ_LM", "num_virtual_tokens": 20}
    config = peft.PromptEncoderConfig(**made, encoder_hidden_size=inner) if inner else peft.PromptTuningConfig(**made)
    frozen = tuning.tuned

    def tuned(model: Any, job: dict[str, Any]) -> Any:
        model = frozen(model, {**job, "lora": None})
        if job["kbit"]:
            model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        return of_one_stack.adapted(model, config)

    monkeypatch.setattr(tuning, "tuned", tuned)
    said: dict[str, Any] = {"adapter": "prompt", "virtual_tokens": 20}
    said = said | {"adapter": "p-tuning", "encoder_hidden": inner} if inner else said
    same_parts(name, said | READ[setting], monkeypatch)


@pytest.mark.parametrize("said", [{"adapter": "prefix", "virtual_tokens": 8}, {"adapter": "adalora"}])
def test_what_is_not_trained_beside_matrices_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match="not modelled for encoder-decoder models"):
        tn.train({"config": PAIRS["t5"]}, suggest=False, **said)
