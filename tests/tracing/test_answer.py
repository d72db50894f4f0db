"""A result of a trace written by hand: lines that add up, in every tier, and two results side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from tonnage import comparisons
from tonnage.errors import InputError
from tonnage.report import beside
from tonnage.tracing.answer import result
from tonnage.tracing.levels import levels
from tonnage.tracing.stream import Born, Mark, Traced, write

MIB = 2**20


def tensor(size: int, kind: str, module: str = "", layer: int = -1) -> Born:
    return Born(size, "aten.mm.default", module, kind, layer, (size,), "uint8", "")


def hand() -> Traced:
    """4 MiB of weights; a step that takes 3 MiB and, for a kernel, 5 more; a workspace that stays."""
    born = [
        tensor(4 * MIB, "parameter"), tensor(100, "buffer"), tensor(8 * MIB, "workspace"),
        tensor(3 * MIB, "", "mlp", 0), tensor(5 * MIB, "scratch", "mlp", 0), tensor(2 * MIB, "", "head"),
    ]  # fmt: skip
    marks = [Mark(0, "phase", "load"), Mark(2, "phase", "step1.forward"), Mark(2, "layer", 0), Mark(6, "layer", -1),
             Mark(9, "phase", "end")]  # fmt: skip
    told = {
        "task": "train", "head": "head", "root": "", "parameters": 4 * MIB, "trainable": 4 * MIB, "class": "Hand",
        "model": {"name": "hand", "parameters": 4 * MIB, "active_parameters": 4 * MIB},
        "workload": {"task": "trace", "target": "hand"},
    }  # fmt: skip
    return Traced(born, [0, 1, 2, 3, 4, ~4, ~3, 5, ~5], marks, told)


def answered(traced: Traced) -> Any:
    return result(traced, model=traced.told["model"], workload=traced.told["workload"], device=None)


def test_lines_add_up_in_every_tier() -> None:
    rank = answered(hand()).fullest
    sums = {(c.name, c.tier): c.bytes for c in rank.components}
    assert sums["weights", "requested"] == 4 * MIB
    assert sums["activations", "requested"] == 3 * MIB
    assert sums["other:buffers", "requested"] == 100
    assert rank.tier("requested") == 7 * MIB + 100
    assert sums["workspace", "allocated"] in (8 * MIB, 5 * MIB)
    assert sum(c.bytes for c in rank.components if c.name == "workspace") == 13 * MIB
    assert sums["rounding", "allocated"] == 412
    assert rank.tier("allocated") == 20 * MIB + 512
    # 4 and 3 MiB share one segment of 20 MiB with 8; 5 needs what is left of it; 100 B are in one of 2 MiB.
    assert rank.tier("reserved") == 22 * MIB
    assert (rank.peak.name, rank.peak.bytes) == ("forward layer 0", 20 * MIB + 512)
    assert rank.static_bytes == 12 * MIB + 512


def test_logits_are_what_the_head_makes() -> None:
    found = levels(hand())
    assert [p.name for p in found.parts] == ["forward layer 0", "loss"]
    assert found.highest == 7 * MIB + 100


def test_two_results_side_by_side() -> None:
    a = answered(hand()).as_dict()
    grown = hand()
    grown.born[3] = tensor(3 * MIB + 2048, "", "mlp", 0)
    b = answered(grown).as_dict()
    same = beside.as_dict("a", "b", a, a)
    assert same["equal"]
    assert same["equal_up_to"] == "device"
    other = beside.as_dict("a", "b", a, b)
    assert not other["equal"]
    assert other["equal_up_to"] is None
    assert {x["name"]: x["difference_bytes"] for x in other["lines"]}["activations"] == 2048
    text = beside.render("left", "right", a, b)
    assert "+2,048" in text
    assert "they differ" in text
    assert "equal to the byte" in beside.render("left", "right", a, a)


def test_a_trace_in_a_file_is_compared(tmp_path: Path) -> None:
    path, other = str(tmp_path / "a.json"), str(tmp_path / "b.json")
    write(hand(), path)
    write(hand(), other)
    found = comparisons.beside(path, other)
    assert found is not None
    assert beside.as_dict("a", "b", *found)["equal"]
    assert comparisons.beside("llama-3.1-8b", "gpt2") is None
    with pytest.raises(InputError, match="no prediction"):
        comparisons.beside("gpt2", path)


def test_a_prediction_stands_beside_a_result_in_a_file(tmp_path: Path) -> None:
    import json

    path = tmp_path / "result.json"
    path.write_text(json.dumps(tn.train("gpt2", batch=1, seq=64, precision="fp32", optimizer="adamw-fused").as_dict()))
    found = comparisons.beside("gpt2", str(path))
    assert found is not None
    assert beside.as_dict("gpt2", "file", *found)["equal_up_to"] == "device"
