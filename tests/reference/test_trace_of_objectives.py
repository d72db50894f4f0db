"""What is recorded of TRL's losses, against the installed TRL: each run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

trl = pytest.importorskip("trl")

RECORDED: list[dict[str, Any]] = json.loads((Path(__file__).parent.parent / "data" / "objectives.json").read_text())[
    "runs"
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("run", RECORDED, ids=lambda r: f"{r['trl']} {r['id']}")
def test_the_record_is_what_trl_does(run: dict[str, Any]) -> None:
    if trl.__version__ != run["trl"]:
        pytest.skip(f"recorded with trl {run['trl']}, and {trl.__version__} is installed")
    from trl_losses import peaks

    assert peaks(run["family"], run["said"]) == run["peaks"]
