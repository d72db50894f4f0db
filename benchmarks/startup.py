"""``python -m benchmarks.startup``: a whole command, from the shell to the answer, beside ``python -c pass`` and peers.

Each program is installed into an environment of its own, with compiled bytecode. Runs are interleaved, since the
machine may be noisy: a ratio is the median over the rounds of two runs that stand side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

ROOT: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CATALOGUE: Final = os.path.join(ROOT, "src", "tonnage", "data", "catalogue.toml")
MODEL: Final = "llama-3.1-8b"

RATIO: Final = 6.0
"""Budget: wall time over that of ``python -c pass``."""
PEAK: Final = 25 * 2**20
"""Budget: resident memory at the peak. [byte]"""

BASE: Final = "python -c pass"
OURS: Final = "tonnage"

# A process is charged with the memory of the one that starts it, so a small one does: no site, three modules.
LAUNCH: Final = """
import os, sys, time
null = os.open(os.devnull, os.O_RDWR)
quiet = [(os.POSIX_SPAWN_DUP2, null, stream) for stream in (0, 1, 2)]
begin = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, usage = os.wait4(child, 0)
took = time.perf_counter() - begin
print(took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, os.waitstatus_to_exitcode(status))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What is installed and run.

    Args:
        name: in the table.
        install: what pip installs.
        command: program of the environment, and its arguments; ``{config}`` is a file with the model's config.
    """

    name: str
    install: str
    command: tuple[str, ...]


PROGRAMS: Final = (
    Program(name=BASE, install=ROOT, command=("python", "-c", "pass")),
    Program(name=OURS, install=ROOT, command=("tonnage", "train", MODEL, "--gpu", "h100-sxm-80gb")),
    Program(
        name="vramcalc 0.1.2",
        install="vramcalc==0.1.2",
        command=("vramcalc", "estimate", "{config}", "--train", "--precision", "pure"),
    ),
    Program(
        name="ridgepoint 0.1.2",
        install="ridgepoint==0.1.2",
        command=("ridgepoint", "fit", "llama-3-8b", "--gpu", "h100-80gb"),
    ),
)
"""The command that is measured, and the closest commands of the two fastest peers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One process: wall time and processor time [s], and resident memory at its peak [byte]."""

    wall: float
    cpu: float
    peak: int


def installed(what: str, folder: str) -> str | None:
    """A new environment with ``what`` in it; None where pip cannot install it."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [_program(folder, "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", what]
    done = subprocess.run(pip, env=_environment(), capture_output=True, text=True)
    if done.returncode and what == ROOT:
        raise SystemExit(f"{what} cannot be installed:\n{done.stderr}")
    return folder if not done.returncode else None


def _program(folder: str, name: str) -> str:
    return os.path.join(folder, "bin", name)


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


def run(command: Sequence[str]) -> Run:
    """Run one process and wait for it."""
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCH, *command]
    done = subprocess.run(launcher, env=_environment(), check=True, capture_output=True, text=True)
    wall, cpu, peak, code = done.stdout.split()
    if code != "0":
        raise SystemExit(f"{' '.join(command)} exited {code}")
    # Linux counts in KiB, macOS in bytes.
    return Run(wall=float(wall), cpu=float(cpu), peak=int(peak) * (1 if sys.platform == "darwin" else 1024))


def prepared(folder: str, *, peers: bool) -> tuple[dict[str, list[str]], list[str]]:
    """Install the programs: the command of each, and the names of those that cannot be installed."""
    config = os.path.join(folder, "config.json")
    with open(CATALOGUE, "rb") as table, open(config, "w", encoding="utf-8") as out:
        json.dump(tomllib.load(table)[MODEL]["config"], out)
    homes: dict[str, str | None] = {}
    commands: dict[str, list[str]] = {}
    for p in PROGRAMS:
        if p.install != ROOT and not peers:
            continue
        if p.install not in homes:
            homes[p.install] = installed(p.install, os.path.join(folder, f"environment-{len(homes)}"))
        home = homes[p.install]
        if home is not None:
            commands[p.name] = [_program(home, p.command[0]), *(a.format(config=config) for a in p.command[1:])]
    return commands, [p.name for p in PROGRAMS if p.install in homes and p.name not in commands]


def measured(commands: Mapping[str, Sequence[str]], rounds: int) -> dict[str, list[Run]]:
    """Interleaved runs, after one round that does not count."""
    found: dict[str, list[Run]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            done = run(command)
            if turn:
                found[name].append(done)
    return found


def figures(runs: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, Any]]:
    """Medians by program, and the ratios of its wall time to the bare interpreter's and of ours to its."""
    return {
        name: {
            "wall_seconds": statistics.median(r.wall for r in done),
            "best_wall_seconds": min(r.wall for r in done),
            "cpu_seconds": statistics.median(r.cpu for r in done),
            "peak_bytes": int(statistics.median(r.peak for r in done)),
            "over_bare": ratio(done, runs[BASE]),
            "ours_over_it": ratio(runs[OURS], done),
        }
        for name, done in runs.items()
    }


def ratio(runs: Sequence[Run], of: Sequence[Run]) -> float:
    """Median over the rounds of one wall time over the other.

    >>> ratio([Run(wall=4, cpu=0, peak=0), Run(wall=9, cpu=0, peak=0)], [Run(wall=2, cpu=0, peak=0)] * 2)
    3.25
    """
    return statistics.median(a.wall / b.wall for a, b in zip(runs, of, strict=True))


def over_budget(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What exceeds the budget, in words."""
    ours = found[OURS]
    out = []
    if ours["over_bare"] > RATIO:
        out.append(f"{ours['over_bare']:.2f} x {BASE}, budget {RATIO:g} x")
    if ours["peak_bytes"] > PEAK:
        out.append(f"{ours['peak_bytes'] / 2**20:.1f} MiB at the peak, budget {PEAK / 2**20:g} MiB")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 when ``--check`` is given and the budget is exceeded."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="interleaved rounds (15)")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="leave the peers out")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--check", action="store_true", help="exit 1 when the budget is exceeded")
    asked = parser.parse_args(argv)
    if asked.rounds < 1:
        parser.error("--rounds is at least 1")
    with tempfile.TemporaryDirectory() as folder:
        commands, missing = prepared(folder, peers=asked.peers)
        found = figures(measured(commands, asked.rounds))
    exceeded = over_budget(found)
    if asked.json:
        print(json.dumps({"schema": 1, "programs": found, "not_installable": missing, "over_budget": exceeded}))
    else:
        _show(found, missing, exceeded, asked.rounds)
    return int(asked.check and bool(exceeded))


def _show(found: Mapping[str, Mapping[str, Any]], missing: Sequence[str], exceeded: Sequence[str], rounds: int) -> None:
    print(f"median of {rounds} interleaved rounds")
    print(f"{'':<18}{'wall':>10}{'best':>10}{'processor':>10}{'peak':>12}{'over bare':>11}{'ours over it':>14}")
    for name, f in found.items():
        times = "".join(f"{f[key] * 1e3:>7.1f} ms" for key in ("wall_seconds", "best_wall_seconds", "cpu_seconds"))
        ratios = f"{f['over_bare']:>10.2f}x{f['ours_over_it']:>13.2f}x"
        print(f"{name:<18}{times}{f['peak_bytes'] / 2**20:>8.1f} MiB{ratios}")
    for name in missing:
        print(f"left out, since it cannot be installed: {name}")
    for what in exceeded:
        print(f"OVER BUDGET: {what}")


if __name__ == "__main__":
    sys.exit(main())
