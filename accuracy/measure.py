"""Run scenarios that have not been measured, within a time limit: rows appended to ``measured/``, resumable.

    python -m accuracy.measure --list           what there is, whether it was measured, what it is predicted to take
    python -m accuracy.measure --limit-s 1500   run what fits into the device of this machine, new kinds first
    python -m accuracy.measure --device cpu --only 'smollm2*' --each-s 300

A scenario is one run of ``tonnage measure``. It is done for a device and a release of torch once a row of it is there,
out of memory included; one that failed otherwise is tried again the next time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from time import monotonic
from typing import Any, Final

from accuracy.cases import groups, load
from tonnage import api, measures
from tonnage.errors import SourceError, TonnageError
from tonnage.units import gib

HERE: Final = os.path.dirname(os.path.abspath(__file__))
SCENARIOS: Final = os.path.join(HERE, "scenarios")
MEASURED: Final = os.path.join(HERE, "measured")
RESERVE: Final = 30.0
"""Seconds before the limit in which nothing is started."""
OWN: Final = ("id", "model", "head", "alloc_conf", "record")
"""Keys of a scenario that are none of a workload."""

Scenario = dict[str, Any]


def scenarios(folder: str = SCENARIOS) -> list[Scenario]:
    """Every scenario with its model's config.

    Raises:
        ValueError: an id stands twice, or a model is not there.
    """
    found: dict[str, Scenario] = {}
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".toml"):
            continue
        with open(os.path.join(folder, name), "rb") as file:
            told = tomllib.load(file)
        for row in told["scenario"]:
            if row["id"] in found or row["model"] not in told["models"]:
                raise ValueError(f"{name}: {row['id']} stands twice, or has no model {row['model']}")
            found[row["id"]] = {**row, "config": told["models"][row["model"]], "group": name.removesuffix(".toml")}
    return list(found.values())


def rows(folder: str = MEASURED) -> Iterator[dict[str, Any]]:
    """Every row that was measured."""
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        if name.endswith(".jsonl"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                yield from (json.loads(line) for line in file if line.strip())


def workload(scenario: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that are a workload's."""
    return {k: v for k, v in scenario.items() if k not in (*OWN, "config", "group", "task")}


def covered() -> set[str]:
    """Types of models that a measured row of ``cases`` has."""
    out = set()
    for group in groups():
        for case in load(group):
            if case.exactness == "measured_peak" and isinstance(case.model, Mapping):
                config = case.model.get("config", case.model)
                out.add(str(config.get("model_type")))
    return out


def ordered(todo: list[Scenario], measured: list[dict[str, Any]]) -> list[Scenario]:
    """What no row covers first: of a type that nobody measured, then of one that others measured, then by size."""
    known = covered() | {str(row["config"].get("model_type")) for row in measured}
    ids = {row["id"] for row in measured}
    seen: dict[str, int] = {}
    ranked = []
    for s in todo:
        kind = s["config"]["model_type"]
        seen[kind] = seen.get(kind, 0) + 1
        # One of each type and task before the second of any.
        ranked.append(((s["id"] in ids, seen[kind] > 2, kind in known, seen[kind]), s))
    return [s for _, s in sorted(ranked, key=lambda item: item[0])]


def predicted(scenario: Mapping[str, Any], gpu: str | None) -> Any:
    """The prediction for a scenario, or the error that refuses it."""
    answer = api.train if scenario["task"] == "train" else api.serve
    try:
        model = api.load({"config": scenario["config"], "name": scenario["model"]}, head=scenario.get("head"))
        return answer(model, suggest=False, gpu=gpu, **workload(scenario))
    except TonnageError as e:
        return e


def place(where: str) -> tuple[str, str | None]:
    """The device that rows are filed under, and its name for a prediction."""
    if where in ("cpu", "mps"):
        return where, None
    from tonnage.sources.here import here

    try:
        found = here().device
    except SourceError:
        return "cpu", None
    return (found.name if found.name != "here" else found.title), found.name if found.name != "here" else None


def torch_release() -> str:
    """Of the torch that is installed, without importing it."""
    try:
        return version("torch").partition("+")[0]
    except PackageNotFoundError:
        return "none"


def path_of(device: str, release: str, folder: str = MEASURED) -> str:
    """The file of a device and a release."""
    name = "".join(c if c.isalnum() or c in ".-" else "-" for c in device.lower())
    return os.path.join(folder, f"{name}_torch-{release}.jsonl")


def run(todo: list[Scenario], asked: argparse.Namespace, path: str, gpu: str | None) -> int:
    """Run what fits, until the limit; how many rows were added."""
    until, added = monotonic() + asked.limit_s, 0
    for position, scenario in enumerate(todo):
        left = until - monotonic() - RESERVE
        if left <= 0:
            print(f"time limit: {len(todo) - position} left", flush=True)
            break
        answer = predicted(scenario, gpu)
        fit = getattr(answer, "fit", None)
        if fit is not None and fit.verdict == "does not fit":
            print(f"{scenario['id']}: passed over, predicted {gib(answer.fullest.tier('device'))}", flush=True)
            continue
        try:
            row = measures.measure(
                {"config": scenario["config"], "name": scenario["model"]}, task=scenario["task"], id=scenario["id"],
                head=scenario.get("head"), alloc_conf=scenario.get("alloc_conf"), device=asked.device,
                record=recording(scenario, path) if gpu is not None else None,
                max_seconds=min(asked.each_s, left), traced=asked.trace, **workload(scenario),
            )  # fmt: skip
        except TonnageError as e:
            print(f"{scenario['id']}: {e}", flush=True)
            continue
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        added += 1
        print(f"{scenario['id']}: {line(row)}", flush=True)
    return added


def recording(scenario: Mapping[str, Any], path: str) -> str | None:
    """Where the allocator's recording of a scenario goes that has one."""
    if not scenario.get("record"):
        return None
    folder = os.path.join(os.path.dirname(path), "recordings")
    os.makedirs(folder, exist_ok=True)
    return os.path.join(folder, f"{scenario['id']}_{os.path.basename(path).removesuffix('.jsonl')}.json.gz")


def line(row: Mapping[str, Any]) -> str:
    """A row in one line."""
    if row.get("out_of_memory"):
        return f"out of memory in {row['out_of_memory']['phase']}"
    told = [(tier, n) for tier, n in row["steady"].items() if n is not None]
    errors = [(tier, row["prediction"].get(f"{tier}_error")) for tier, _ in told]
    sizes = ", ".join(f"{tier} {gib(n)}" for tier, n in told)
    off = ", ".join(f"{tier} {e:+.2%}" for tier, e in errors if e is not None)
    return f"{sizes}; predicted {off or row['prediction'].get('refused', '')} in {row['seconds']} s"


def listed(all_of_them: list[Scenario], done: set[str], gpu: str | None) -> None:
    """Print every scenario."""
    for s in all_of_them:
        answer = predicted(s, gpu)
        told = str(answer)[:90] if isinstance(answer, TonnageError) else gib(answer.fullest.tier("allocated"))
        print(f"{'done' if s['id'] in done else '    '}  {s['group']:<10} {s['id']:<72} {told}")


def main(argv: list[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(
        prog="python -m accuracy.measure", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--limit-s", type=float, default=540.0)
    parser.add_argument("--each-s", type=float, default=180.0)
    parser.add_argument("--only", default="*", help="scenarios whose id looks so")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--trace", action=argparse.BooleanOptionalAction, default=False, help="trace each as well")
    parser.add_argument("--out", default=MEASURED, help="folder of the rows")
    asked = parser.parse_args(argv)
    device, gpu = place(asked.device)
    path = path_of(device, torch_release(), asked.out)
    there = list(rows(asked.out))
    done = {row["id"] for row in rows_of(path)}
    found = [s for s in scenarios() if fnmatch(s["id"], asked.only)]
    if asked.list:
        listed(found, done, gpu)
        return 0
    os.makedirs(asked.out, exist_ok=True)
    todo = ordered([s for s in found if s["id"] not in done], there)
    print(
        f"{len(todo)} of {len(found)} scenarios are not measured on {device} with torch {torch_release()}", flush=True
    )
    run(todo, asked, path, gpu)
    return 0


def rows_of(path: str) -> Iterator[dict[str, Any]]:
    """Rows of one file; none where it is not there."""
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            yield from (json.loads(text) for text in file if text.strip())


if __name__ == "__main__":
    sys.exit(main())
