"""``tonnage explain``: lines down to their formula, and the rules of thumb beside the project's figures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tonnage import api
from tonnage.cli import main
from tonnage.errors import UnsupportedError
from tonnage.evidence import TRUSTS

KEYS = ["line", "formula", "terms", "bytes", "trust", "reference"]


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["explain", *arguments])
    return code, capsys.readouterr().out


def answered(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out = asked(capsys, *arguments, "--json")
    assert code == 0, out
    return json.loads(out)


# Lines


def test_a_line_has_the_contract_s_keys(capsys: pytest.CaptureFixture[str]) -> None:
    found = answered(capsys, "train", "gpt2", "--seq", "128", "--line", "weights")
    assert list(found) == ["schema", *KEYS]
    assert found["bytes"] == 497_759_232
    assert found["trust"] == "exact"
    assert {"symbol": "P", "meaning": "parameters", "value": 124_439_808} in found["terms"]
    assert found["formula"]
    assert found["reference"].startswith("https://")


@pytest.mark.parametrize("verb", ["train", "serve"])
def test_every_line_of_a_result_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    length = {"train": "seq", "serve": "context"}[verb]
    result = (api.train if verb == "train" else api.serve)("gpt2", **{length: 128})
    for name in dict.fromkeys(c.name for c in result.components):
        found = answered(capsys, verb, "gpt2", f"--{length}", "128", "--line", name)
        same = [c for c in result.components if c.name == name]
        assert found["bytes"] == sum(c.bytes for c in same)
        assert found["line"] == name
        assert found["formula"] == "; ".join(c.why for c in same)
        assert ("lines" in found) == (len(same) > 1)


@pytest.mark.parametrize("replay", [[], ["--replay"]])
def test_instants_are_told_in_order(replay: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = answered(capsys, "train", "gpt2", "--seq", "128", "--line", "instants", *replay)
    names = [i["name"] for i in found["instants"]]
    passes = ["forward embedding", *(f"forward layer {i}" for i in range(12)), "last norm", "loss"]
    back = ["loss backward", *(f"backward layer {i}" for i in reversed(range(12))), "backward embedding"]
    assert names == ["load", *passes, *back, "optimizer step"]
    most = sorted(found["instants"], key=lambda i: -i["bytes"])[:2]
    assert [found["peak"]["instant"], found["peak"]["runner_up"]["instant"]] == [i["name"] for i in most]
    _, out = asked(capsys, "train", "gpt2", "--seq", "128", "--line", "instants", *replay)
    marked = {line.split("  ")[0]: line.split()[-1] for line in out.splitlines() if line.endswith(("peak", "next"))}
    assert marked == {most[0]["name"]: "peak", most[1]["name"]: "next"}


def test_what_follows_a_step_and_the_first_step_are_instants_too(capsys: pytest.CaptureFixture[str]) -> None:
    found = answered(capsys, "train", "gpt2", "--seq", "128", "--eval-batch", "1", "--no-replay", "--line", "instants")
    assert [i["name"] for i in found["instants"][-3:]] == ["optimizer step", "evaluation step", "checkpoint save"]
    first = answered(capsys, "train", "gpt2", "--seq", "128", "--first-step", "--no-replay", "--line", "instants")
    sizes = [{i["name"]: i["bytes"] for i in f["instants"]} for f in (found, first)]
    state = answered(capsys, "train", "gpt2", "--seq", "128", "--no-replay", "--line", "optimizer_state")["bytes"]
    apart = sizes[0]["forward layer 0"] - sizes[1]["forward layer 0"]
    # Beside the state the loss of the last step, in blocks of 512 B, and the workspace of the backward pass's thread.
    assert 0 <= apart - state - 4 - 8_519_680 < 512 * (3 * 148 + 1)
    assert sizes[0]["load"] == sizes[1]["load"]
    assert sizes[0]["optimizer step"] == sizes[1]["optimizer step"]


def test_liger_evaluates_without_logits_from_the_release_that_asks_for_none() -> None:
    said = {"seq": 128, "eval_batch": 8, "kernels": "liger", "precision": "bf16", "suggest": False}
    newer, older = (api.train("llama-3.2-1b", stack_version=v, **said).ranks[0].instants for v in ("5.15", "5.14"))
    found = [next(i.bytes for i in at if i.name == "evaluation step") for at in (newer, older)]
    # A table of logits in 16 bit, and more beside it.
    assert found[1] - found[0] > 8 * 128 * 128_256 * 2
    with pytest.raises(UnsupportedError, match="precision = bf16-mixed"):
        api.train("llama-3.2-1b", **said | {"precision": "bf16-mixed"})


def test_several_lines_of_one_name_are_told_with_their_sum(capsys: pytest.CaptureFixture[str]) -> None:
    found = answered(capsys, "serve", "gpt2", "--context", "128", "--line", "kv-cache")
    assert list(found) == ["schema", *KEYS, "lines"]
    assert all(list(line) == KEYS for line in found["lines"])
    assert found["bytes"] == sum(line["bytes"] for line in found["lines"]) == 2 * 12 * 768 * 4 * 128
    assert len(found["terms"]) == sum(len(line["terms"]) for line in found["lines"])


def test_a_sum_is_as_trustworthy_as_its_weakest_part() -> None:
    from tonnage.cli.explain import explained
    from tonnage.timeline import exact

    parts = tuple(exact("workspace", 1, str(trust), "", trust=trust) for trust in reversed(TRUSTS))
    assert explained(parts)["trust"] == "assumed"


def test_a_line_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = asked(capsys, "train", "gpt2", "--seq", "128", "--line", "optimizer_state")
    assert code == 0
    assert "995,519,056 B, exact" in out
    assert "2 x 124,439,808 x 4 B (fp32)" in out
    assert "reference:" in out


def test_the_options_of_the_verb_count(capsys: pytest.CaptureFixture[str]) -> None:
    found = answered(capsys, "serve", "gpt2", "--dtype", "bf16", "--context", "64", "--line", "weights")
    assert found["bytes"] == 2 * 124_439_808


def test_an_unknown_line_names_those_that_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = asked(capsys, "train", "gpt2", "--line", "weihgts", "--json")
    error = json.loads(out)["error"]
    assert (code, error["key"], error["nearest"]) == (2, "line", ["weights"])


def test_no_line_names_those_that_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = asked(capsys, "train", "gpt2", "--json")
    error = json.loads(out)["error"]
    assert (code, error["key"]) == (2, "line")
    assert "optimizer_state" in error["hint"]


def test_an_unknown_subject_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(capsys, "nothing")[0] == 2


def test_without_a_subject_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = asked(capsys)
    assert code == 0
    assert all(subject in out for subject in ("rules", "serve", "train"))


# Rules


def rows(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    found = answered(capsys, "rules", *arguments)
    assert list(found) == ["schema", "rules"]
    keys = ["id", "statement", "value", "unit", "own_value", "note", "erratum"]
    assert all(list(row) == keys for row in found["rules"])
    return {row["id"]: row for row in found["rules"]}


def test_rules_stand_beside_the_project_s_own_figures(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys)
    figures = {name: (row["value"], row["own_value"]) for name, row in found.items()}
    assert figures["A1"] == (4_000_000_000, 4_000_000_000)
    assert figures["A3"] == (4_000_000_000, 4_000_000_000)
    assert figures["A4"] == (2_000_000_000, 2_000_000_000)
    assert figures["B1"] == (38_400_000, 38_400_000)
    assert figures["B2"] == (2_359_296, 2_359_296 + 4 * 768)
    assert figures["B3"] == (4_722_432, 4_722_432)
    assert figures["B4"] == (3_072, 3_072)
    assert figures["B5"] == (123_417_600, 123_456_000)
    assert figures["B6"] == (493_670_400, 493_824_000)
    assert figures["B6b"] == (246_835_200, 246_912_000)
    assert figures["B13"] == (173_956_792_320, 173_961_510_912)
    assert figures["C1"] == (700_000_000_000, 698_417_037_312)
    assert figures["C9"] == (40_000_000_000, 40 * 2**30)


def test_what_a_rule_leaves_out_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys)
    for name in ("B7b", "B10", "C2"):
        assert found[name]["own_value"] > found[name]["value"], name
    assert found["B9"]["own_value"] > 3 * found["B9"]["value"]
    assert found["B8"]["own_value"] == pytest.approx(found["B8"]["value"], rel=1e-3)


def test_rows_without_a_figure_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys)
    for name in ("B15", "C5", "C8", "C10", "C11", "C12"):
        assert (found[name]["value"], found[name]["own_value"], found[name]["unit"]) == (None, None, None)
        assert found[name]["note"]
    assert found["B3"]["erratum"]
    assert found["B1"]["erratum"] is None


def test_rules_for_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, "llama-3.1-8b")
    figures = {name: (row["value"], row["own_value"]) for name, row in found.items()}
    assert figures["A1"] == (4 * 8_030_261_248, 4 * 8_030_261_248)
    assert figures["B2"] == (4 * 4096**2, 41_943_040)
    assert figures["B3"] == (2 * 4096 * 14_336 + 4096 + 14_336, 3 * 4096 * 14_336)
    assert figures["B4"] == (16_384, 8_192)
    assert figures["B5"][1] == 8_030_261_248
    assert figures["C9"] == (40_000_000_000, 40 * 2**30)


def test_rules_for_dimensions(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, "--hidden", "768", "--layers", "12", "--heads", "12", "--vocab", "50000", "--tied")
    assert (found["B5"]["value"], found["B5"]["own_value"]) == (123_417_600, 123_456_000)
    assert found["A1"]["value"] == 4 * 123_456_000


def test_a_figure_that_is_refused_does_not_withhold_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, "kimi-k3")
    assert found["B10"]["own_value"] is None
    assert "no own figure" in found["B10"]["note"]
    assert found["B11"]["own_value"] == 2_779_931_754_752


def test_rules_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = asked(capsys, "rules", "gpt2")
    assert code == 0
    lines = out.splitlines()
    assert "gpt2" in lines[0]
    assert max(map(len, lines)) <= 160
    assert any(line.startswith("B3") and "4,722,432" in line for line in lines)
    assert "erratum: the text prints 4,719,616; its own formula gives 4,722,432" in " ".join(out.split())


def test_an_unknown_model_is_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = asked(capsys, "rules", "no-such-model", "--json")
    assert code == 2
    assert json.loads(out)["error"]["key"] == "model"
