"""PPO: every phase of an update beside TRL's own trainer, by hand where a number is plain, refused where wrong.

The recorded peaks are those of ``PPOTrainer.train`` on tensors without data: reference/trl_ppo.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from tonnage.errors import InputError, TonnageError, UnsupportedError
from tonnage.estimate.actor_critic import ActorCritic
from tonnage.estimate.training import Step

HERE = Path(__file__).parent / "data"
RECORDED: list[dict[str, Any]] = json.loads((HERE / "ppo.json").read_text())["runs"]
FAMILIES: dict[str, Any] = json.loads((HERE / "traces.json").read_text())["families"]
PHASES = {"reference forward": "reference", "critic forward": "value", "reward model forward": "reward"}
LLAMA_1B = 1_235_814_400
JUDGE = LLAMA_1B + 2048
"""Parameters of a judge of that kind, whose table is the head's no longer."""
WORDS = 128_256


def phase(name: str) -> str:
    """The phase of an instant, as the record calls it."""
    if name.startswith("generation"):
        return "generation"
    kind = "optimizer" if name in ("optimizer step", "statistics") else "backward" if "backward" in name else "forward"
    return PHASES.get(name, kind)


@pytest.mark.parametrize("run", RECORDED, ids=lambda r: r["id"])
def test_every_phase_is_what_trl_does(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Within a few numbers of every token: those of an answer, and in a rollout those of the sampler."""
    peaks: dict[str, int] = {}
    moments = Step.moments

    def watched(self: ActorCritic) -> Any:
        for m in moments(self):
            peaks[phase(m.name)] = max(peaks.get(phase(m.name), 0), m.highest)
            yield m

    monkeypatch.setattr(ActorCritic, "moments", watched)
    said = run["said"]
    config = FAMILIES[run["family"]]
    judge = tmp_path / "config.json"
    judge.write_text(json.dumps(config))
    form = "bf16" if "lora_rank" in said else None
    tn.train(tn.load({"config": config}), objective="ppo", reward_model=str(judge), suggest=False, dtype=form, **said)
    assert peaks.keys() == run["peaks"].keys()
    written = said["batch"] * said.get("accumulate", 1) * said["completion_length"]
    tokens = said["batch"] * said.get("accumulate", 1) * said["seq"]
    for name, there in run["peaks"].items():
        few = 48 * written + 16 * tokens + 2048
        if name == "generation":
            # Scores of one more token at most, as a sampler has them.
            few += 4 * 4 * (written // said["completion_length"]) * config["vocab_size"]
        assert abs(peaks[name] - there) <= few, name
    # The peak of the update is known to a hundredth of a percent.
    most = max(run["peaks"].values())
    assert abs(max(peaks.values()) - most) < 1.1e-4 * most


def lines(result: Any, name: str) -> list[Any]:
    return [c for c in result.fullest.components if c.name == name]


def instants(result: Any) -> dict[str, int]:
    return {i.name: i.bytes for i in result.fullest.instants}


SAID: dict[str, Any] = {"objective": "ppo", "reward_model": "llama-3.2-1b", "suggest": False, "replay": False}


def test_four_models_and_two_that_are_trained() -> None:
    result = tn.train("llama-3.2-1b", batch=1, seq=256, **SAID)
    found = {c.why.partition(",")[0].partition(":")[0]: c.bytes for c in lines(result, "weights")}
    assert found == {
        "policy": 2 * LLAMA_1B, "reference": 2 * LLAMA_1B, "critic": 2 * JUDGE, "reward model": 2 * JUDGE,
    }  # fmt: skip
    # Two moments of both in bf16.
    (state,) = lines(result, "optimizer_state")
    assert 0 < state.bytes - 4 * (LLAMA_1B + JUDGE) < 2**12


def test_logits_of_every_word_stay() -> None:
    """4 B for every word at every written token: while the next are written, twice more."""
    result = tn.train("llama-3.2-1b", batch=4, seq=1024, completion_length=512, **SAID)
    table = 4 * 4 * 512 * WORDS
    step = instants(result)
    cache = 4 * 1023 * 32_768
    resident = result.fullest.static_bytes
    assert 0 <= step["generation: scores"] - resident - 2 * table - cache < 2**20
    half = tn.train("llama-3.2-1b", batch=4, seq=1024, completion_length=512, rollout_batch=2, **SAID)
    # The two that are written last are joined.
    assert instants(half)["generation: scores"] == pytest.approx(
        step["generation: scores"] - table / 2 - cache / 2, abs=2**20
    )


def test_a_critic_is_the_reward_model_s_kind_unless_it_is_named() -> None:
    both = tn.train("llama-3.2-1b", batch=1, seq=256, **SAID)
    assert both.workload["critic"] == both.workload["reward_model"] == "llama-3.2-1b"
    other = tn.train("llama-3.2-1b", batch=1, seq=256, critic="llama-3.2-3b", **SAID)
    found = {c.why.partition(",")[0].partition(":")[0]: c.bytes for c in lines(other, "weights")}
    assert found["critic"] == 2 * (3_212_749_824 + 3072)


def test_a_first_step_has_no_earlier_scores() -> None:
    later, first = (
        instants(tn.train("llama-3.2-1b", batch=4, seq=1024, completion_length=512, first_step=f, **SAID))
        for f in (False, True)
    )
    table, state = 4 * 4 * 512 * WORDS, 4 * (LLAMA_1B + JUDGE)
    # And the backward pass has not multiplied yet.
    workspace = 8_519_680
    assert 0 <= later["generation: scores"] - first["generation: scores"] - table - state - workspace < 2**20
    assert 0 <= later["loss"] - first["loss"] - state - workspace < 2**20


def test_an_actor_with_adapters_is_its_own_reference() -> None:
    result = tn.train("llama-3.2-1b", batch=1, seq=256, lora_rank=8, **SAID)
    assert result.workload["reference"] == "adapter"
    assert not [c for c in lines(result, "weights") if c.why.startswith("reference")]


REFUSED: list[tuple[dict[str, Any], type[TonnageError], str, int]] = [
    ({"reward_model": None}, InputError, "needs a reward model", 2),
    ({"reward_model": "gpt2"}, InputError, "50,257 words", 2),
    ({"critic": "gpt2"}, InputError, "50,257 words", 2),
    ({"completion_length": 256}, InputError, "leaves no prompt", 2),
    ({"rollout_batch": 0}, InputError, "sensible", 2),
    ({"reference": "precomputed"}, InputError, "reference is one of", 2),
    ({"reference": "adapter"}, InputError, "there is none", 2),
    ({"rollout": "vllm"}, InputError, "has no rollout", 2),
    ({"objective": "grpo", "critic": "llama-3.2-1b"}, InputError, "has no critic", 2),
    ({"loss": "fused"}, UnsupportedError, "in one way", 3),
    ({"kernels": "liger"}, UnsupportedError, "kernels", 3),
    ({"optimizer_in_backward": True}, UnsupportedError, "optimizer_in_backward", 3),
]


@pytest.mark.parametrize(
    ("said", "kind", "words", "code"), REFUSED, ids=lambda v: str(v) if isinstance(v, dict) else ""
)
def test_contradictions_are_told(said: dict[str, Any], kind: type[TonnageError], words: str, code: int) -> None:
    with pytest.raises(kind) as caught:
        tn.train("llama-3.2-1b", **{"batch": 1, "seq": 256, **SAID, **said})
    assert words in f"{caught.value.message} {caught.value.hint or ''}"
    assert caught.value.exit_code == code
