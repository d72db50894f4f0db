"""What is recorded of sentence-transformers' losses, against the installed library: each run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

library = pytest.importorskip("sentence_transformers")
pytest.importorskip("trl")

RECORDED: list[dict[str, Any]] = json.loads((Path(__file__).parent.parent / "data" / "embeddings.json").read_text())[
    "runs"
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("run", RECORDED, ids=lambda r: r["id"])
def test_the_record_is_what_the_library_does(run: dict[str, Any]) -> None:
    if library.__version__ != "6.2.0":
        pytest.skip(f"recorded with sentence-transformers 6.2.0, and {library.__version__} is installed")
    from sentence_losses import peaks

    assert peaks(run["family"], run["said"]) == run["peaks"]
