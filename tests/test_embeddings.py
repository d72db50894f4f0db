"""Training of embeddings: equal to sentence-transformers' own losses, and refused where it is wrong.

The recorded peaks are those of the library's losses on tensors without data: reference/sentence_losses.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from tonnage.cli import main
from tonnage.errors import InputError, TonnageError, UnsupportedError
from tonnage.estimate.cached import Cached
from tonnage.estimate.columns import Columns
from tonnage.estimate.training import Step

HERE = Path(__file__).parent / "data"
RECORDED: list[dict[str, Any]] = json.loads((HERE / "embeddings.json").read_text())["runs"]
FAMILIES: dict[str, Any] = json.loads((HERE / "traces.json").read_text())["families"]
KINDS = ("forward", "backward", "optimizer")


def closed_form(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The most that tensors take in each phase; all before the optimizer's step where it is cached. [byte]"""
    said = dict(run["said"])
    cached = said.get("embed_loss") == "cached-mnrl"
    said["matryoshka_dims"] = ",".join(map(str, said.get("matryoshka_dims", ()))) or None
    peaks = dict.fromkeys(KINDS, 0)

    def watched(own: Any) -> Any:
        def moments(self: Any) -> Any:
            for m in own(self):
                kind = "backward" if cached or "backward" in m.name else "forward"
                kind = "optimizer" if m.name == "optimizer step" else kind
                peaks[kind] = max(peaks[kind], m.highest)
                yield m

        return moments

    judges = said["objective"] == "rerank"
    for step in (Step,) if judges else (Columns, Cached):
        monkeypatch.setattr(step, "moments", watched(step.moments))
    head = "classify:1" if judges else "none"
    tn.train(tn.load({"config": FAMILIES[run["family"]]}, head=head), suggest=False, **said)
    return [peaks["forward"] or peaks["backward"], peaks["backward"], peaks["optimizer"]]


@pytest.mark.parametrize("run", RECORDED, ids=lambda r: r["id"])
def test_the_step_is_what_sentence_transformers_does(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    found = [a - b for a, b in zip(closed_form(run, monkeypatch), run["peaks"], strict=True)]
    if run["id"] == "rerank llama mixed":
        # Below the step's peak: what autocast makes of the scores.
        found[0] += 4416
    assert found == [0, 0, 0]
    assert run["peaks"][2] < max(run["peaks"][:2])


def test_a_cross_encoder_is_a_classifier_with_one_label(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "bert-base-uncased", "--objective", "rerank", "--batch", "32", "--seq", "256"]) == 0
    assert "rerank, " in capsys.readouterr().out
    with pytest.raises(InputError, match="one label"):
        tn.train(tn.load("bert-base-uncased", head="masked"), objective="rerank", seq=64)


def test_a_mini_batch_takes_what_it_takes_in_any_batch() -> None:
    """Beside ids, masks and vectors: 2 x 8 B a token and 2 x 2 B a number of a vector, of two columns."""
    said = {
        "objective": "embed",
        "embed_loss": "cached-mnrl",
        "mini_batch": 32,
        "seq": 128,
        "dtype": "bf16",
        "replay": False,
    }
    small, large = (tn.train("bert-base-uncased", batch=n, suggest=False, **said).ranks[0] for n in (1024, 8192))
    more = 2 * (8192 - 1024) * (2 * 8 * 128 + 2 * 768)
    assert small.peak.name == large.peak.name
    # Of the vectors the gradients alone are there when mini-batches go back.
    assert large.peak.bytes - small.peak.bytes == more


def test_a_large_batch_is_compared_in_rows() -> None:
    said = {"objective": "embed", "embed_loss": "cached-mnrl", "mini_batch": 32, "seq": 16, "recompute": "full"}
    found = tn.train("bert-base-uncased", batch=131072, suggest=False, **said).ranks[0]
    instants = {i.name: i.bytes for i in found.instants}
    assert {"embedding forward", "similarities"} <= instants.keys()
    # Rows of the table: the product, scaled, joined, and back.
    assert instants["similarities"] - instants["embedding forward"] > 3 * 4 * 32 * 131072
    assert found.peak.name == "similarities"


COMMANDS = [
    ("train bert-base-uncased --objective embed --columns 3 --batch 16 --seq 128", "the other 2 columns as one batch"),
    ("train bert-base-uncased --objective embed --mini-batch 64 --batch 4096 --seq 128", "8,192 texts of 64 at a time"),
    ("train bert-base-uncased --objective embed --embed-loss cosent --matryoshka-dims 384,192 --seq 128", "embed, "),
]


@pytest.mark.parametrize(("line", "words"), COMMANDS, ids=lambda v: v)
def test_the_command_line_asks_for_it(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 0
    assert words in " ".join(capsys.readouterr().out.split())


REFUSED: list[tuple[dict[str, Any], type[TonnageError], str]] = [
    ({"embed_loss": "mnr"}, InputError, "unknown embed_loss"),
    ({"embed_loss": "gist"}, UnsupportedError, "a second model guides it"),
    ({"embed_loss": "triplet", "columns": 2}, InputError, "takes 3 texts"),
    ({"embed_loss": "cosent", "columns": 3}, InputError, "takes 2 texts"),
    ({"embed_loss": "mnrl", "columns": 1}, InputError, "2 or more"),
    ({"embed_loss": "mnrl", "mini_batch": 8}, InputError, "runs a batch as one"),
    ({"matryoshka_dims": "1024"}, InputError, "from 1 to the model's 768"),
    ({"matryoshka_dims": "a"}, InputError, "from 1 to the model's 768"),
    ({"matryoshka_dims": "128", "mini_batch": 8}, UnsupportedError, "not modelled"),
    ({"teacher": "gpt2"}, InputError, "has no teacher"),
]


@pytest.mark.parametrize(("said", "kind", "words"), REFUSED, ids=lambda v: str(v) if isinstance(v, dict) else "")
def test_contradictions_are_told(said: dict[str, Any], kind: type[TonnageError], words: str) -> None:
    with pytest.raises(kind, match=words):
        tn.train("bert-base-uncased", objective="embed", seq=128, **said)


def test_other_objectives_have_no_columns() -> None:
    with pytest.raises(InputError, match="has no columns"):
        tn.train("llama-3.2-1b", objective="dpo", columns=3, seq=128)
