"""Objectives beyond the next token: equal to TRL's own code, by hand where a number is plain, refused where wrong.

The recorded peaks are those of TRL's trainers on tensors without data: reference/trl_losses.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from tonnage.cli import main
from tonnage.devices import device
from tonnage.errors import InputError, TonnageError, UnsupportedError
from tonnage.estimate.training import Step

HERE = Path(__file__).parent / "data"
RECORDED: list[dict[str, Any]] = json.loads((HERE / "objectives.json").read_text())["runs"]
FAMILIES: dict[str, Any] = json.loads((HERE / "traces.json").read_text())["families"]
KINDS = ("forward", "backward", "optimizer")
LLAMA_1B = 1_235_814_400
LLAMA_8B = 8_030_261_248

OTHERWISE = {
    # The log's sums under autocast, likewise.
    "reward mixed": (-2336, 0, 0),
    "reward autocast": (-2336, 0, 0),
    # Ids in the backward pass, which is below the forward pass there.
    "1.12.0 grpo beside a reference autocast": (0, -4096, 0),
}
"""Bytes by which the closed form differs in a case, in phases that are not the peak of the step."""


def closed_form(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[int]:
    """The most that tensors take in each phase of the update. [byte]"""
    peaks = dict.fromkeys(KINDS, 0)
    moments = Step.moments

    def watched(self: Step) -> Any:
        for m in moments(self):
            kind = "optimizer" if m.name == "optimizer step" else "backward" if "backward" in m.name else "forward"
            if not m.name.startswith("generation"):
                peaks[kind] = max(peaks[kind], m.highest)
            yield m

    monkeypatch.setattr(Step, "moments", watched)
    # How GRPO weighs tokens takes a few numbers a token, below the peak of the head.
    said = {key: value for key, value in run["said"].items() if key != "weighed"}
    if run.get("trl", "1.16.0") != "1.16.0":
        said |= {"stack": "trl", "stack_version": run["trl"], "recompute": said.get("recompute", "none")}
    config = FAMILIES[run["family"]]
    if said["objective"] == "distill":
        form = "float32" if said["precision"] == "bf16-mixed" else "bfloat16"
        path = folder / "config.json"
        path.write_text(json.dumps(config | {"dtype": form}))
        said["teacher"] = str(path)
    model = tn.load({"config": config}, head=tn.api.HEADS.get(said["objective"]))
    tn.train(model, suggest=False, dtype="bf16" if "lora_rank" in said else None, **said)
    return [peaks[kind] for kind in KINDS]


@pytest.mark.parametrize("run", RECORDED, ids=lambda r: f"{r['trl']} {r['id']}")
def test_the_update_is_what_trl_does(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = [a - b for a, b in zip(closed_form(run, monkeypatch, tmp_path), run["peaks"], strict=True)]
    assert tuple(found) in ((0, 0, 0), OTHERWISE.get(run["id"]), OTHERWISE.get(f"{run['trl']} {run['id']}"))
    most = max(run["peaks"])
    assert found[run["peaks"].index(most)] == 0


def lines(result: Any, name: str) -> list[Any]:
    return [c for c in result.fullest.components if c.name == name]


def instants(result: Any) -> dict[str, int]:
    return {i.name: i.bytes for i in result.fullest.instants}


def test_a_resident_reference_is_a_second_model() -> None:
    found = lines(tn.train("llama-3.2-1b", objective="dpo", seq=512), "weights")
    assert [c.bytes for c in found] == [2 * LLAMA_1B, 2 * LLAMA_1B]
    assert found[0].why.startswith("policy:")
    assert found[1].why.startswith("reference, frozen: 1,235,814,400 parameters x 2 B")


@pytest.mark.parametrize("said", [{"reference": "precomputed"}, {"lora_rank": 8}])
def test_other_references_are_none(said: dict[str, Any]) -> None:
    found = lines(tn.train("llama-3.2-1b", objective="dpo", seq=512, **said), "weights")
    assert sum(c.bytes for c in found) < 2 * LLAMA_1B + 2**25


def test_the_head_goes_through_tiles() -> None:
    found = lines(tn.train("llama-3.2-1b", objective="dpo", batch=2, seq=2048, reference="precomputed"), "logits")
    # 4,096 tokens x 32,768 words x 2 B, whatever the sequences are.
    assert [c.bytes for c in found] == [2**28]


def test_a_reference_runs_over_what_the_policy_saved() -> None:
    found = instants(tn.train("llama-3.2-1b", objective="dpo", lora_rank=8, seq=2048, replay=False))
    assert found["reference forward"] > found["loss"] - 2**28
    assert list(found).index("reference forward") == list(found).index("loss") + 1


@pytest.mark.parametrize(
    "said",
    [
        {"objective": "dpo", "batch": 2, "lora_rank": 8},
        {"objective": "dpo", "precision": "bf16-mixed"},
        {"objective": "kto", "batch": 4, "recompute": "full"},
        {"objective": "orpo"},
        {"objective": "distill", "teacher": "llama-3.2-3b"},
        {"objective": "dpo", "precision": "bf16-mixed", "stack": "trl", "stack_version": "1.9"},
        {"objective": "kto", "batch": 4, "stack": "trl", "stack_version": "1.8"},
    ],
    ids=str,
)
def test_the_allocator_sees_the_same_pass(said: dict[str, Any]) -> None:
    plain, played = (instants(tn.train("llama-3.2-1b", seq=512, replay=on, **said)) for on in (False, True))
    assert plain.keys() == played.keys()
    # Blocks of the allocator are rounded, and up to 1 MiB of some is not split off; of the loss, some numbers are
    # not played.
    for name, n in plain.items():
        assert -4096 <= played[name] - n < 2**26, name
    most = max(plain.values())
    assert max(played.values()) < 1.01 * most


def test_what_is_written_has_a_cache() -> None:
    result = tn.train("llama-3.1-8b", objective="grpo", batch=8, seq=4096, completion_length=1024, lora_rank=8)
    step = instants(result)
    # 131,072 B a token of Llama-3.1-8B, and the weights.
    cache = 8 * 4096 * 131_072
    decode = next(n for name, n in step.items() if name.startswith("generation: decode"))
    assert 2 * LLAMA_8B + cache < decode < 2 * LLAMA_8B + cache + 2**30


def test_a_student_writes_with_a_cache() -> None:
    said = {"objective": "distill", "teacher": "llama-3.2-3b", "batch": 4, "seq": 1024, "rollout": "generate"}
    step = instants(tn.train("llama-3.2-1b", completion_length=512, replay=None, **said))
    decode = next(n for name, n in step.items() if name.startswith("generation: decode"))
    # 32,768 B a token of Llama-3.2-1B, beside student, teacher and the optimizer's state.
    resident = 2 * LLAMA_1B + 2 * 3_212_749_824 + 4 * LLAMA_1B
    assert 4 * 1024 * 32_768 < decode - resident < 2**29


def test_an_engine_beside_takes_its_share() -> None:
    said = {"objective": "grpo", "batch": 8, "seq": 1024, "gpu": "h100-sxm-80gb", "lora_rank": 8}
    capacity = device("h100-sxm-80gb").capacity.bytes
    share = tn.train("llama-3.2-1b", rollout="vllm", rollout_share=0.5, **said)
    assert [c.bytes for c in lines(share, "other:engine")] == [int(0.5 * capacity)]
    turns = tn.train("llama-3.2-1b", rollout="vllm-sleep", rollout_share=0.5, **said)
    assert turns.fullest.peak.name == "generation"
    assert instants(turns)["loss backward"] == instants(share)["loss backward"] - int(0.5 * capacity)
    elsewhere = tn.train("llama-3.2-1b", rollout="server", **said)
    assert lines(elsewhere, "other:engine") == []


def test_answers_without_a_baseline_of_their_own_have_a_reference() -> None:
    """RLOO's defaults: groups of two, held near to a second model, whose scores come before the update."""
    result = tn.train("llama-3.2-1b", objective="rloo", seq=512)
    assert (result.workload["batch"], result.workload["generations"], result.workload["reference"]) == (
        2,
        2,
        "resident",
    )
    assert {"log-probabilities forward", "reference forward"} <= instants(result).keys()


def test_a_judge_lies_beside() -> None:
    result = tn.train(
        "llama-3.2-1b", objective="grpo", batch=8, seq=512, reward_model="llama-3.2-1b", reference="resident"
    )
    found = [c.why.partition(",")[0] for c in lines(result, "weights")]
    assert found[1:] == ["reference", "reward model"]
    # A judge has one row in place of the vocabulary's; this vocabulary is the table's as well.
    assert lines(result, "weights")[2].bytes == 2 * (LLAMA_1B + 2048)
    assert {"reference forward", "reward model forward"} <= instants(result).keys()


def test_no_reference_where_nothing_is_held_near_it() -> None:
    result = tn.train("llama-3.2-1b", objective="grpo", seq=512)
    assert result.workload["reference"] == "none"
    assert len(lines(result, "weights")) == 1
    assert result.workload["batch"] == result.workload["generations"] == 8


def test_a_judge_has_no_logits_of_words() -> None:
    result = tn.train("llama-3.2-1b", objective="reward", seq=512)
    assert result.model["parameters"] == LLAMA_1B + 2048
    assert sum(c.bytes for c in lines(result, "logits")) < 2**20


def test_embeddings_have_no_head() -> None:
    result = tn.train("bert-base-uncased", objective="embed", batch=16, seq=128)
    assert lines(result, "logits") == []
    assert result.workload["objective"] == "embed"


EMBEDDED = [
    ("llama", 64, "none", (64_085_272, 64_673_308, 48_100_728)),
    ("llama", 512, "full", (68_271_240, 99_052_452, 48_158_072)),
    ("qwen3", 64, "none", (76_344_112, 76_932_148, 52_824_080)),
    ("qwen3", 512, "full", (71_944_864, 115_113_148, 52_881_424)),
]
"""Peaks of ``MultipleNegativesRankingLoss`` and ``Pooling`` of sentence-transformers 6.2.0 over transformers 5.23.0's
models, two columns of 4 texts in bf16, traced on tensors without data as TRL's losses were. [byte]"""


@pytest.mark.parametrize(("family", "seq", "recompute", "peaks"), EMBEDDED, ids=lambda v: str(v))
def test_texts_of_a_pair_run_one_after_the_other(
    family: str, seq: int, recompute: str, peaks: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = {"objective": "embed", "batch": 4, "seq": seq, "recompute": recompute, "precision": "bf16"}
    found = closed_form({"family": family, "said": said}, monkeypatch, tmp_path)
    # Similarities of the first texts, which are not there: none of them is larger than a few means.
    assert all(-4 <= a - b <= 4096 for a, b in zip(found, peaks, strict=True))


COMMANDS = [
    ("train llama-3.2-1b --objective reward --batch 2 --seq 512", "reward, bf16, adamw-fused, 2 pairs of 512 tokens"),
    ("train llama-3.2-1b --objective dpo --seq 512", "reference, frozen: 1,235,814,400 parameters"),
    ("train llama-3.2-1b --objective distill --teacher llama-3.2-3b --seq 512", "teacher, frozen: 3,212,749,824"),
    ("train llama-3.2-1b --objective grpo --seq 1k --completion-length 256", "8 completions of 256 tokens"),
    ("train bert-base-uncased --objective embed --batch 16 --seq 128", "embed, "),
    (
        "explain train llama-3.2-1b --objective grpo --rollout vllm --gpu h100-sxm-80gb --line other:engine",
        "vLLM in the same process: 0.3 of 79.18 GiB",
    ),
]


@pytest.mark.parametrize(("line", "words"), COMMANDS, ids=lambda v: v)
def test_the_command_line_asks_for_objectives(
    line: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(line.split()) == 0
    assert words in capsys.readouterr().out


def test_a_workload_is_repeated_with_what_was_settled() -> None:
    said = tn.train("llama-3.2-1b", objective="grpo", seq=1024, lora_rank=8, reference="adapter").as_dict()["workload"]
    wanted = {
        "objective": "grpo", "reference": "adapter", "completion_length": 512, "generations": 8, "batch": 8,
        "steps_per_generation": 1, "rollout": "generate", "loss": "fused", "teacher": None,
    }  # fmt: skip
    assert {key: said[key] for key in wanted} == wanted
    assert tn.train("gpt2", seq=128).as_dict()["workload"]["objective"] == "sft"


def test_answers_of_two_lengths_are_padded_to_the_longer() -> None:
    """By hand: of 2 pairs, 2 x (200 + 56) rows are scored and not 4 x 200; every sequence has a mask of its own."""
    said = {"objective": "dpo", "batch": 2, "seq": 512, "completion_length": 200, "suggest": False}
    equal, padded = (tn.train("llama-3.2-1b", rejected_length=n, **said) for n in (200, 56))
    kept = {c.why for c in padded.components if c.name == "activations"}
    assert any("attention mask" in why or "shared by the layers" in why for why in kept)
    assert any(n.startswith("padding") for n in equal.not_modelled)
    assert not any(n.startswith("padding") for n in padded.not_modelled)
    assert any("memory-efficient" in c or "efficient" in c for c in padded.caveats)
    # A mask of a byte a pair of tokens, in place of none.
    mask = 4 * 512 * 512
    apart = instants(padded)["forward layer 0"] - instants(equal)["forward layer 0"]
    assert apart >= mask


def test_padded_texts_of_the_next_token_have_masks() -> None:
    """Of 2 x 1,024 tokens: a mask of a byte, and in every layer numbers of 2 B made from it."""
    plain, padded = (
        tn.train("llama-3.2-1b", batch=2, seq=1024, padded=p, suggest=False, replay=False) for p in (None, True)
    )
    apart = {name: instants(padded)[name] - n for name, n in instants(plain).items()}
    assert apart["load"] == apart["optimizer step"] == 0
    assert apart["forward layer 15"] > 2 * 1024 * 1024 * (1 + 16 * 2)


def test_a_teacher_lies_as_its_checkpoint_or_as_it_is_asked(tmp_path: Path) -> None:
    """By hand: packed values of half a byte, scales of 4 B for 64 of them, the rest in 16 bit."""
    config = FAMILIES["llama"] | {"num_hidden_layers": 2}
    path = tmp_path / "config.json"
    scheme = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    said = {"objective": "distill", "precision": "bf16", "seq": 64, "suggest": False, "teacher": str(path)}
    found = []
    for own, asked in ((None, "nf4"), (scheme, None), (scheme, "none"), (None, None)):
        path.write_text(json.dumps(config | ({"quantization_config": own} if own else {}) | {"dtype": "bfloat16"}))
        lies = lines(tn.train({"config": config}, teacher_quant=asked, **said), "weights")[1]
        found.append(lies.bytes)
    D, F, kv = config["hidden_size"], config["intermediate_size"], config["num_key_value_heads"] * 64
    matrices = 2 * (2 * D * D + 2 * kv * D + 3 * F * D)
    assert found[0] == found[1]
    assert found[2] == found[3]
    # Beside them, 16 numbers of a code book for each of 14 matrices.
    assert found[3] - found[0] == matrices * 2 - (matrices // 2 + matrices // 64 * 4 + 14 * 16 * 4)


def test_a_teacher_whose_products_are_not_known_is_refused(tmp_path: Path) -> None:
    scheme = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(FAMILIES["llama"] | {"quantization_config": scheme}))
    with pytest.raises(UnsupportedError, match=r"teacher = .*AWQ"):
        tn.train({"config": FAMILIES["llama"]}, objective="distill", teacher=str(path), seq=64)


PADDED: list[tuple[dict[str, Any], type[TonnageError], str]] = [
    ({"padded": True, "attention": "flash"}, UnsupportedError, "attention = flash"),
    ({"padded": True, "stack": "torchtune"}, UnsupportedError, "stack = torchtune"),
    ({"padded": True, "objective": "grpo"}, UnsupportedError, "objective = grpo"),
    ({"rejected_length": 8}, InputError, "the objective is the next token"),
    ({"objective": "kto", "rejected_length": 8}, InputError, "has no rejected_length"),
    ({"objective": "dpo", "rejected_length": 8}, InputError, "without the length of what was chosen"),
    ({"objective": "dpo", "rejected_length": 512, "completion_length": 8}, InputError, "leaves no prompt"),
]


@pytest.mark.parametrize(("said", "kind", "words"), PADDED, ids=lambda v: str(v) if isinstance(v, dict) else "")
def test_where_padding_is_not_answered(said: dict[str, Any], kind: type[TonnageError], words: str) -> None:
    with pytest.raises(kind, match=words):
        tn.train("llama-3.2-1b", seq=512, **said)


REFUSED: list[tuple[dict[str, Any], type[TonnageError], str]] = [
    ({"objective": "dpoo"}, InputError, "did you mean dpo"),
    ({"objective": "online_dpo"}, UnsupportedError, "what it writes and judges"),
    ({"objective": "nash-md"}, UnsupportedError, "TRL 1.16 has no trainer of it"),
    ({"objective": "dpo", "iterations": 2}, InputError, "has no iterations"),
    ({"objective": "ppo"}, InputError, "needs a reward model"),
    ({"reference": "resident"}, InputError, "the objective is the next token"),
    ({"objective": "sft", "teacher": "gpt2"}, InputError, "the objective is the next token"),
    ({"objective": "orpo", "reference": "resident"}, InputError, "has no reference"),
    ({"objective": "dpo", "reference": "adapter"}, InputError, "there is none"),
    ({"objective": "dpo", "reference": "none"}, InputError, "reference is one of"),
    ({"objective": "dpo", "teacher": "gpt2"}, InputError, "has no teacher"),
    ({"objective": "dpo", "loss": "full"}, UnsupportedError, "in one way"),
    ({"objective": "dpo", "retain": ["outputs"]}, UnsupportedError, "retain"),
    ({"objective": "distill"}, InputError, "needs a teacher"),
    ({"objective": "distill", "teacher": "gpt2"}, InputError, "50,257 words"),
    ({"objective": "distill", "teacher": "llama-3.2-3b", "rollout": "vllm"}, InputError, "by itself"),
    (
        {"objective": "distill", "teacher": "llama-3.2-3b", "rollout": "generate", "recompute": "full"},
        UnsupportedError,
        "without a cache",
    ),
    ({"objective": "dpo", "lora_rank": 8, "quant": "nf4", "reference": "resident"}, UnsupportedError, "not modelled"),
    ({"objective": "kto", "batch": 1}, InputError, "another one of the batch"),
    ({"objective": "grpo", "generations": 1}, InputError, "against each other"),
    ({"objective": "grpo", "batch": 6}, InputError, "no whole groups of 8"),
    ({"objective": "grpo", "completion_length": 512, "seq": 512}, InputError, "leaves no prompt"),
    ({"objective": "grpo", "rollout": "sglang"}, InputError, "rollout is one of"),
    ({"objective": "grpo", "rollout": "vllm"}, InputError, "none is named"),
    ({"objective": "grpo", "rollout_share": 0.5}, InputError, "takes no share"),
    (
        {"objective": "grpo", "rollout": "vllm", "rollout_share": 0.02, "gpu": "h100-sxm-80gb"},
        InputError,
        "no memory for its cache",
    ),
    ({"objective": "reward", "stack": "llama-factory"}, UnsupportedError, "all logits in fp32"),
    ({"objective": "dpo", "stack": "unsloth"}, UnsupportedError, "runs the trainers of the TRL that is installed"),
    ({"objective": "grpo", "stack": "torchtitan"}, UnsupportedError, "no trainer of it"),
    ({"objective": "rloo", "teacher": "gpt2"}, InputError, "has no teacher"),
    ({"objective": "rloo", "batch": 3}, InputError, "no whole groups of 2"),
    ({"objective": "grpo", "rollout_batch": 8}, InputError, "has no rollout_batch"),
    ({"critic": "gpt2"}, InputError, "the objective is the next token"),
]


@pytest.mark.parametrize(("said", "kind", "words"), REFUSED, ids=lambda v: str(v) if isinstance(v, dict) else "")
def test_contradictions_are_told(said: dict[str, Any], kind: type[TonnageError], words: str) -> None:
    with pytest.raises(kind) as caught:
        tn.train("llama-3.2-1b", **said)
    told = f"{caught.value.message} {caught.value.nearest or ''} {caught.value.hint or ''}"
    assert words.replace("did you mean ", "") in told


def test_an_encoder_learns_no_preferences() -> None:
    with pytest.raises(InputError, match="causal"):
        tn.train("bert-base-uncased", objective="dpo", seq=128)


def test_adapters_find_the_matrices_of_a_bare_model() -> None:
    """Its names lack the module that a class with a head has it in."""
    said = {"lora_rank": 8, "lora_targets": ["all-linear"], "seq": 64}
    embed, plain = (tn.train("qwen3-0.6b", objective=o, suggest=False, **said) for o in ("embed", None))
    assert embed.model["trainable_parameters"] == plain.model["trainable_parameters"] > 0
