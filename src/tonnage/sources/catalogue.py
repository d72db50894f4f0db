"""Models by the name that people use for them."""

from __future__ import annotations

import json
import os
from typing import Any, Final

from tonnage.errors import InputError, nearest
from tonnage.sources import RawModel

_DATA: Final = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "data", "catalogue.json")


def _table() -> dict[str, Any]:
    with open(_DATA, encoding="utf-8") as file:
        table: dict[str, Any] = json.load(file)
    return table


def rows() -> dict[str, dict[str, Any]]:
    """Every model of the catalogue: name to config, parameters, Hub id and source."""
    found: dict[str, dict[str, Any]] = _table()["models"]
    return found


def aliases() -> dict[str, str]:
    """Other spellings of the names."""
    found: dict[str, str] = _table()["aliases"]
    return found


def find(name: str) -> RawModel | None:
    """The model of that name or alias, case ignored; None where there is none."""
    table = _table()
    models = table["models"]
    plain = name.lower()
    key = plain if plain in models else table["aliases"].get(name)
    if key is None:
        key = next((target for alias, target in table["aliases"].items() if alias.lower() == plain), None)
    if key is None:
        return None
    return RawModel(config=models[key]["config"], name=key, origin=f"catalogue: {models[key]['source']}")


def unknown(name: str) -> InputError:
    """The error for a name that nothing knows."""
    table = _table()
    close = nearest(name.lower().rpartition("/")[2], table["models"])
    return InputError(
        f"unknown model {name!r}",
        key="model",
        value=name,
        nearest=close,
        hint="a catalogue name (tonnage models), a config.json, a folder with one, or dimensions such as --hidden 768",
    )
