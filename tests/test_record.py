"""Records: what a dataclass would do, without making code."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tonnage.devices import device
from tonnage.record import Record, Value, fields, stated
from tonnage.tensors import Tensor
from tonnage.workload import workload
from tonnage.workload.serving import Serve
from tonnage.workload.training import Train


class Point(Value):
    x: int
    y: int = 0


class Named(Point):
    name: str = "origin"


@pytest.mark.parametrize("wrong", [{}, {"z": 1, "x": 1}, {"y": 2}])
def test_what_is_missing_or_unknown_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        Point(**wrong)


def test_a_field_given_twice_or_too_often_is_refused() -> None:
    for arguments, said in (((1, 2, 3), {}), ((1,), {"x": 1})):
        with pytest.raises(TypeError):
            Point(*arguments, **said)


def test_a_record_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Point(1).x = 2  # type: ignore[misc]


def test_a_value_equals_its_like_only() -> None:
    assert Point(1) == Point(1, 0) != Point(1, 1)
    assert hash(Point(1)) == hash(Point(1, 0))
    assert Point(1) != Named(1)
    assert len({Tensor("a", (("D", 2),), "norm"), Tensor("a", (("D", 2),), "norm")}) == 1


def test_a_record_is_itself_alone() -> None:
    class Block(Record):
        width: int

    assert Block(1) != Block(1)


def test_fields_are_inherited_in_order() -> None:
    assert fields(Named) == ("x", "y", "name")
    assert stated(Named(3)) == {"x": 3, "y": 0, "name": "origin"}


def test_who_asks_for_a_dataclass_finds_one() -> None:
    assert dataclasses.is_dataclass(Named)
    assert [f.name for f in dataclasses.fields(Train)] == list(fields(Train))
    assert dataclasses.replace(Named(1), y=5) == Named(1, 5)
    assert dataclasses.asdict(Named(1, 2, "a")) == {"x": 1, "y": 2, "name": "a"}
    h100 = device("h100-sxm-80gb")
    assert dataclasses.replace(h100, name="other").rates == h100.rates


def test_a_key_with_a_flag_is_not_said_by_default() -> None:
    assert Serve().block_size is None
    assert Serve.keys["block_size"].kind == "count"
    assert workload(Serve, {"block_size": "32"}).block_size == 32
