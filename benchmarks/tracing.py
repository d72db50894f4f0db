"""``python -m benchmarks.tracing``: a trace of Llama-3.1-8B, beside importing torch and the model's class.

Two training steps in bf16, ``sdpa``, fused AdamW, one sequence of 2,048 tokens; told from few layers, and of all. Needs
the extra ``trace``. Runs are interleaved, since the machine may be noisy; a ratio is the median over the rounds of the
processor time of two runs that stand side by side, those of their child processes included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks.startup import LAUNCH, ROOT, Run

BASE: Final = "imports"
FEW: Final = "few layers"
ALL: Final = "all layers"
TRACE: Final = (
    "-m", "tonnage", "trace", "llama-3.1-8b", "--task", "train", "--precision", "bf16", "--attention", "sdpa",
    "--optimizer", "adamw-fused", "--batch", "1", "--seq", "2048", "--layers-traced",
)  # fmt: skip
COMMANDS: Final[Mapping[str, Sequence[str]]] = {
    BASE: ("-c", "import torch; from transformers import LlamaForCausalLM"),
    FEW: (*TRACE, "few"),
    ALL: (*TRACE, "all"),
}
BUDGET: Final = {FEW: 0.6, ALL: 1.25}
"""Processor time over that of the imports."""
PEAK: Final = 500 * 2**20
"""Budget: resident memory at the peak of the largest process. [byte]"""


def run(arguments: Sequence[str]) -> Run:
    """Run Python once, from this folder's sources."""
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCH, sys.executable, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.path.join(ROOT, "src"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(launcher, env=environment, check=True, capture_output=True, text=True)
    wall, cpu, peak, code = done.stdout.split()
    if code != "0":
        raise SystemExit(f"python {' '.join(arguments)} exited {code}")
    # Linux counts in KiB, macOS in bytes.
    return Run(wall=float(wall), cpu=float(cpu), peak=int(peak) * (1 if sys.platform == "darwin" else 1024))


def figures(runs: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, Any]]:
    """Medians by command, and its processor time over that of the imports."""
    return {
        name: {
            "wall_seconds": statistics.median(r.wall for r in done),
            "cpu_seconds": statistics.median(r.cpu for r in done),
            "peak_bytes": max(r.peak for r in done),
            "over_imports": statistics.median(a.cpu / b.cpu for a, b in zip(done, runs[BASE], strict=True)),
        }
        for name, done in runs.items()
    }


def over_budget(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What exceeds the budget, in words."""
    out = []
    for name, most in BUDGET.items():
        f = found[name]
        if f["over_imports"] > most:
            out.append(f"{name}: {f['over_imports']:.2f} x {BASE}, budget {most:g} x")
        if f["peak_bytes"] > PEAK:
            out.append(f"{name}: {f['peak_bytes'] / 2**20:.0f} MiB at the peak, budget {PEAK / 2**20:g} MiB")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 when ``--check`` is given and the budget is exceeded."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracing", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="interleaved rounds (5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--check", action="store_true", help="exit 1 when the budget is exceeded")
    asked = parser.parse_args(argv)
    if asked.rounds < 1:
        parser.error("--rounds is at least 1")
    runs: dict[str, list[Run]] = {name: [] for name in COMMANDS}
    for turn in range(asked.rounds + 1):
        for name, arguments in COMMANDS.items():
            done = run(arguments)
            if turn:
                runs[name].append(done)
    found = figures(runs)
    exceeded = over_budget(found)
    if asked.json:
        print(json.dumps({"schema": 1, "commands": found, "over_budget": exceeded}))
        return int(asked.check and bool(exceeded))
    print(f"median of {asked.rounds} interleaved rounds")
    print(f"{'':<12}{'wall':>9}{'processor':>11}{'peak':>11}{'over imports':>14}")
    for name, f in found.items():
        times = f"{f['wall_seconds']:>7.2f} s{f['cpu_seconds']:>9.2f} s"
        print(f"{name:<12}{times}{f['peak_bytes'] / 2**20:>7.0f} MiB{f['over_imports']:>13.2f}x")
    for what in exceeded:
        print(f"OVER BUDGET: {what}")
    return int(asked.check and bool(exceeded))


if __name__ == "__main__":
    sys.exit(main())
