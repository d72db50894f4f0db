"""What is recorded of TRL's PPO, against the installed TRL where it still has a trainer of it: each run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

trl = pytest.importorskip("trl")

RECORDED: list[dict[str, Any]] = json.loads((Path(__file__).parent.parent / "data" / "ppo.json").read_text())["runs"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("one", RECORDED, ids=lambda r: r["id"])
def test_the_record_is_what_trl_does(one: dict[str, Any]) -> None:
    if trl.__version__ != "1.12.0":
        pytest.skip(f"recorded with trl 1.12.0, and {trl.__version__} is installed")
    from trl_ppo import run

    found = run(one["family"], one["said"])
    assert {name: found[f"step2.{name}"] for name in one["peaks"]} == one["peaks"]
