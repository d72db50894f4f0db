"""A trace in a file: the same when it is read again, and refused where it is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tonnage.errors import InputError, SourceError
from tonnage.timeline import Allocate, Free
from tonnage.tracing.stream import Born, Mark, Traced, as_dict, from_dict, read, write


def born(size: int, *, module: str = "", kind: str = "", layer: int = -1, node: str = "") -> Born:
    return Born(size, "aten.mm.default", module, kind, layer, (size // 4,), "float32", node)


@pytest.fixture
def small() -> Traced:
    return Traced(
        [born(1024, kind="parameter"), born(2048, module="a.0", layer=0)], [0, 1, ~1],
        [Mark(0, "phase", "load"), Mark(1, "phase", "step1.forward"), Mark(1, "layer", 0)], {"parameters": 256},
    )  # fmt: skip


def test_a_file_holds_all_of_it(small: Traced, tmp_path: Path) -> None:
    path = str(tmp_path / "trace.json")
    write(small, path)
    again = read(path)
    assert (again.born, again.order, again.marks, again.told) == (small.born, small.order, small.marks, small.told)


def test_its_events_are_those_of_every_timeline(small: Traced) -> None:
    first, second, third = small.events()
    assert isinstance(first, Allocate)
    assert isinstance(second, Allocate)
    assert isinstance(third, Free)
    assert (second.id, second.size, second.phase, second.module) == (1, 2048, "step1.forward", "a.0")
    assert third.id == second.id


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2}, {"order": [0, 0]}, {"order": [~0]}, {"order": [0, 7]}, {"born": [[1]]}, {"texts": []},
        {"marks": [[0]]}, {"order": ["x"]}, {"born": [[-1, 0, 0, 0, -1, [], 0, 0]] * 2}, {"trace": None},
    ],
)  # fmt: skip
def test_a_damaged_one_is_refused(small: Traced, change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        from_dict(json.loads(json.dumps(as_dict(small))) | change)


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        read(str(tmp_path / "absent.json"))
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(InputError):
        read(str(tmp_path / "text.json"))
    with pytest.raises(SourceError):
        write(Traced([], [], [], {}), str(tmp_path / "no" / "folder.json"))
