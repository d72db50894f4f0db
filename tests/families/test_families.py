"""Every family against a released config and its exact parameter count.

``data/<model_type>.json`` holds ``config``, ``parameters`` and ``source``; docs/adding/family.md says how to add one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tonnage.families import model_from
from tonnage.families._aliases import ALIASES
from tonnage.registry import names
from tonnage.tensors import numel

DATA = sorted((Path(__file__).parent / "data").glob("*.json"))


def case(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.stem)
def test_parameters_are_those_published(path: Path) -> None:
    known = case(path)
    model = model_from(known["config"], file=path.name)
    assert model.parameters.total == known["parameters"]
    assert numel(model.weights()) == known["parameters"]
    assert known["source"]


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.stem)
def test_a_key_that_no_one_reads_is_an_error(path: Path) -> None:
    with pytest.raises(Exception, match="keys that are not understood: a_key_of_no_family = 3"):
        model_from({**case(path)["config"], "a_key_of_no_family": 3})


def test_aliases_name_families() -> None:
    assert set(ALIASES.values()) <= set(names("tonnage.families"))
