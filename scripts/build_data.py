"""Turn every table in src/tonnage/data/*.toml into the JSON beside it.

People edit the TOML; an answer reads the JSON, because parsing TOML would cost a third of it.

    python scripts/build_data.py            write what changed
    python scripts/build_data.py --check    write nothing; exit 1 and name the files that are stale
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DATA = os.path.join(ROOT, "src", "tonnage", "data")
sys.path.insert(0, os.path.join(ROOT, "src"))

from tonnage.devices import plain  # noqa: E402  the package need not be installed to build its data
from tonnage.units import parse_bytes  # noqa: E402

SIZES = {
    "memory": "memory_bytes",
    "driver": "driver_bytes",
    "usable": "usable_bytes",
    "usable_low": "usable_low_bytes",
    "usable_high": "usable_high_bytes",
    "context": "context_bytes",
    "context_low": "context_low_bytes",
    "context_high": "context_high_bytes",
}
TEXTS = ("source", "driver_source", "usable_source", "host_share_source", "context_source")


def per_second(text: str) -> int:
    """Bytes in one second, from ``3.35 TB/s``. [byte/s]"""
    if not text.endswith("/s"):
        raise ValueError(f"not a bandwidth: {text!r}")
    return parse_bytes(text.removesuffix("/s"))


def flops(text: str) -> int:
    """Operations in one second, from ``989.4 TFLOP/s``. [FLOP/s]"""
    number, unit = text.split(" ")
    if unit != "TFLOP/s":
        raise ValueError(f"not a rate: {text!r}")
    return int(Decimal(number) * 10**12)


def devices(table: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sizes as integers, sources in full, and one map from every spelling to the names that it may mean."""
    used: set[str] = set()
    rows: dict[str, dict[str, Any]] = {}
    spelled: dict[str, list[str]] = {}
    for name, given in table["device"].items():
        if given["source"] not in table["sources"]:
            raise ValueError(f"{name}: source {given['source']!r} is not in [sources]")
        used |= {given[key] for key in TEXTS if key in given}
        rows[name] = {key: value for pair in given.items() for key, value in converted(table["sources"], *pair)}
        for alias in given.get("aliases", ()):
            meant = spelled.setdefault(plain(alias), [])
            if name not in meant:
                meant.append(name)
    # A name means itself, whatever else is called so.
    spelled |= {plain(name): [name] for name in rows}
    if unused := set(table["sources"]) - used:
        raise ValueError(f"sources that no row names: {', '.join(sorted(unused))}")
    return {"spelled": spelled, "refused": table["refused"]}, rows


def converted(sources: Mapping[str, str], key: str, value: Any) -> list[tuple[str, Any]]:
    """One entry of a device's row as the JSON holds it."""
    if key in SIZES:
        return [(SIZES[key], parse_bytes(value))]
    if key == "bandwidth":
        return [(key, per_second(value))]
    if key == "rates":
        return [(key, {precision: flops(rate) for precision, rate in value.items()})]
    if key == "links":
        return [(key, {link["kind"]: per_second(link["per_direction"]) for link in value})]
    return [(key, sources.get(value, value) if key in TEXTS else value)]


def catalogue(table: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Models with their null keys written out, and one map from every alias, in lower case, to its name."""
    models: dict[str, Any] = {}
    aliases: dict[str, str] = {}
    for name, row in table.items():
        config = row["config"] | dict.fromkeys(row.get("nulls", ()))
        models[name] = {"config": config} | {key: row[key] for key in ("parameters", "hub", "source")}
        for alias in row["aliases"]:
            if alias in table or aliases.setdefault(alias.lower(), name) != name:
                raise ValueError(f"{name}: alias {alias!r} is taken")
    return {"aliases": aliases}, models


CONVERTERS: Mapping[str, Callable[[Mapping[str, Any]], tuple[dict[str, Any], dict[str, Any]]]] = {
    "catalogue": catalogue,
    "devices": devices,
}
"""One function for each table: what the TOML says, to the head and the rows of the JSON."""


def rendered(name: str) -> str:
    """The JSON text that belongs beside ``<name>.toml``."""
    with open(os.path.join(DATA, f"{name}.toml"), "rb") as file:
        table = tomllib.load(file)
    head, rows = CONVERTERS[name](table)
    lines = ",\n".join(f"{dumped(key)}:{dumped(row)}" for key, row in rows.items())
    return f'{{"head":{dumped(head)},\n"rows":{{\n{lines}\n}}}}\n'


def dumped(value: Any) -> str:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def stale(name: str) -> bool:
    """Whether the JSON on disk differs from what the TOML says."""
    try:
        with open(os.path.join(DATA, f"{name}.json"), encoding="utf-8") as file:
            return file.read() != rendered(name)
    except FileNotFoundError:
        return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the generated files; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if a file is stale")
    check = parser.parse_args(arguments).check
    names = [name for name in CONVERTERS if os.path.exists(os.path.join(DATA, f"{name}.toml"))]
    old = [name for name in names if stale(name)]
    for name in old:
        print(f"{name}.json is stale: run python scripts/build_data.py" if check else f"wrote {name}.json")
        if not check:
            with open(os.path.join(DATA, f"{name}.json"), "w", encoding="utf-8", newline="\n") as file:
                file.write(rendered(name))
    return 1 if check and old else 0


if __name__ == "__main__":
    sys.exit(main())
