"""Models by the name that people use for them."""

from __future__ import annotations

from typing import Any

from tonnage.errors import InputError, nearest
from tonnage.rows import Rows
from tonnage.sources import RawModel


def rows() -> dict[str, dict[str, Any]]:
    """Every model of the catalogue: name to config, parameters, Hub id and source."""
    return Rows("catalogue").all()


def aliases() -> dict[str, str]:
    """Other spellings of the names, in lower case."""
    found: dict[str, str] = Rows("catalogue").head["aliases"]
    return found


def find(name: str) -> RawModel | None:
    """The model of that name or alias, case ignored; None where there is none."""
    table = Rows("catalogue")
    plain = name.lower()
    key = table.head["aliases"].get(plain, plain)
    row = table.row(key)
    if row is None:
        return None
    return RawModel(config=row["config"], name=key, origin=f"catalogue: {row['source']}")


def on_hub(name: str) -> str:
    """Where the Hub has a model of the catalogue; the name itself where it is none of these.

    >>> on_hub("llama-3.1-8b"), on_hub("org/name")
    ('meta-llama/Llama-3.1-8B', 'org/name')
    """
    row = Rows("catalogue").row(name)
    return name if row is None else str(row.get("hub") or name)


def unknown(name: str) -> InputError:
    """The error for a name that nothing knows."""
    close = nearest(name.lower().rpartition("/")[2], Rows("catalogue").names())
    return InputError(
        f"unknown model {name!r}",
        key="model",
        value=name,
        nearest=close,
        hint="a name (tonnage models), org/name (the Hub), a config.json, a folder, or dimensions such as --hidden 768",
    )
