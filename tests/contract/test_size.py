"""Small by ratchet: raising a limit is allowed, in the change that needs it."""

from __future__ import annotations

from pathlib import Path
from statistics import median

SOURCE = Path(__file__).parents[2] / "src" / "tonnage"


def sizes() -> dict[str, int]:
    return {str(p.relative_to(SOURCE)): p.read_text().count("\n") for p in SOURCE.rglob("*.py")}


def test_modules_stay_small() -> None:
    found = sizes()
    assert median(found.values()) <= 120
    assert {name: n for name, n in found.items() if n > 450} == {}


def test_no_module_is_a_drawer() -> None:
    drawers = {"utils.py", "helpers.py", "common.py", "base.py", "misc.py"}
    assert {name for name in sizes() if Path(name).name in drawers} == set()
