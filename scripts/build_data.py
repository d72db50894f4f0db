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

from tonnage.units import parse_bytes  # noqa: E402  the package need not be installed to build its data

SIZES = {
    "memory": "memory_bytes",
    "driver": "driver_bytes",
    "usable": "usable_bytes",
    "usable_low": "usable_low_bytes",
    "usable_high": "usable_high_bytes",
}
TEXTS = ("source", "driver_source", "usable_source", "host_share_source")


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


def devices(table: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes as integers, and each text once: rows name their sources by position in ``texts``."""
    texts: dict[str, int] = {}
    unused = set(table["sources"])

    def position(text: str) -> int:
        unused.discard(text)
        return texts.setdefault(table["sources"].get(text, text), len(texts))

    rows: dict[str, dict[str, Any]] = {}
    for name, given in table["device"].items():
        row: dict[str, Any] = {}
        for key, value in given.items():
            if key in SIZES:
                row[SIZES[key]] = parse_bytes(value)
            elif key == "bandwidth":
                row[key] = per_second(value)
            elif key == "rates":
                row[key] = {precision: flops(rate) for precision, rate in value.items()}
            elif key == "links":
                row[key] = {link["kind"]: per_second(link["per_direction"]) for link in value}
            elif key in TEXTS:
                row[key] = position(value)
            else:
                row[key] = value
        if given["source"] not in table["sources"]:
            raise ValueError(f"{name}: source {given['source']!r} is not in [sources]")
        rows[name] = row
    if unused:
        raise ValueError(f"sources that no row names: {', '.join(sorted(unused))}")
    return {"texts": list(texts), "devices": rows, "refused": table["refused"]}


def catalogue(table: Mapping[str, Any]) -> dict[str, Any]:
    """Models with their null keys written out, and one map from every alias to its name."""
    models: dict[str, Any] = {}
    aliases: dict[str, str] = {}
    for name, row in table.items():
        config = row["config"] | dict.fromkeys(row.get("nulls", ()))
        models[name] = {"config": config} | {key: row[key] for key in ("parameters", "hub", "source")}
        for alias in row["aliases"]:
            if alias in table or aliases.setdefault(alias, name) != name:
                raise ValueError(f"{name}: alias {alias!r} is taken")
    return {"models": models, "aliases": aliases}


CONVERTERS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "catalogue": catalogue,
    "devices": devices,
}
"""One function for each table: what the TOML says, to what the JSON holds."""


def rendered(name: str) -> str:
    """The JSON text that belongs beside ``<name>.toml``."""
    with open(os.path.join(DATA, f"{name}.toml"), "rb") as file:
        table = tomllib.load(file)
    return json.dumps(CONVERTERS[name](table), separators=(",", ":"), ensure_ascii=False) + "\n"


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
