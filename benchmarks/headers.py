"""``python -m benchmarks.headers``: the headers of a large model's shards, from a disk and from a Hub 20 ms away.

The model has DeepSeek-V3's weights: 45,395 tensors in 163 safetensors files, whose data are holes. Each program runs
in a process of its own, beside ``python -c pass``, the same headers through ``json.loads``, and the safetensors
library. Runs are interleaved, since the machine may be noisy: a ratio is the median over the rounds of two runs that
stand side by side. The Hub is the stand-in of the tests, on the loopback, which waits before every answer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from benchmarks.startup import BASE, ROOT, Run, installed, measured, ratio

PARTS: Final = 163
DELAY: Final = 0.02
"""Before every answer of the Hub. [s]"""
THREADS: Final = (1, 8, 16)

CPU: Final = 0.4
"""Budget: processor time of the whole command. [s]"""
PEAK: Final = 60 * 2**20
"""Budget: resident memory at the peak. [byte]"""
FASTER: Final = 4.0
"""Budget: the Hub one file after the other over eight at a time."""

OURS: Final = "tonnage params"
BARE: Final = "json.loads"
LIBRARY: Final = "safetensors"

READERS: Final = {
    BARE: """
import json, os, sys
tensors = {}
for name in sorted(os.listdir(sys.argv[1])):
    if name.endswith(".safetensors"):
        with open(os.path.join(sys.argv[1], name), "rb") as file:
            tensors.update(json.loads(file.read(int.from_bytes(file.read(8), "little"))))
print(len(tensors))
""",
    LIBRARY: """
import os, sys
from safetensors import safe_open
tensors = {}
for name in sorted(os.listdir(sys.argv[1])):
    if name.endswith(".safetensors"):
        with safe_open(os.path.join(sys.argv[1], name), "numpy") as file:
            for key in file.keys():
                piece = file.get_slice(key)
                tensors[key] = piece.get_shape(), piece.get_dtype()
print(len(tensors))
""",
}

HUB: Final = """
import sys, time
from tonnage.sources import _parallel, headers, places
each, threads = _parallel.each, int(sys.argv[1])
_parallel.each = lambda function, items, progress=None: each(function, items, progress, threads)
place = places.located("org/model").place
place.names()
begin, cpu = time.perf_counter(), time.process_time()
assert len(headers.whole(place).tensors) == int(sys.argv[2])
print(time.perf_counter() - begin, time.process_time() - cpu)
"""


def weights() -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Name, format and shape of DeepSeek-V3's weights, without scales.

    As config.json and the index of deepseek-ai/DeepSeek-V3 say.
    """
    yield "model.embed_tokens.weight", "BF16", (129280, 7168)
    for layer in range(61):
        at = f"model.layers.{layer}"
        for name, rows, columns in (
            ("q_a_proj", 1536, 7168), ("q_b_proj", 24576, 1536), ("kv_a_proj_with_mqa", 576, 7168),
            ("kv_b_proj", 32768, 512), ("o_proj", 7168, 16384),
        ):  # fmt: skip
            yield f"{at}.self_attn.{name}.weight", "F8_E4M3", (rows, columns)
        for name, size in (("self_attn.q_a_layernorm", 1536), ("self_attn.kv_a_layernorm", 512),
                           ("input_layernorm", 7168), ("post_attention_layernorm", 7168)):  # fmt: skip
            yield f"{at}.{name}.weight", "BF16", (size,)
        if layer < 3:
            yield from _mlp(f"{at}.mlp", 18432)
            continue
        yield f"{at}.mlp.gate.weight", "BF16", (256, 7168)
        yield f"{at}.mlp.gate.e_score_correction_bias", "F32", (256,)
        for expert in range(256):
            yield from _mlp(f"{at}.mlp.experts.{expert}", 2048)
        yield from _mlp(f"{at}.mlp.shared_experts", 2048)
    yield "model.norm.weight", "BF16", (7168,)
    yield "lm_head.weight", "BF16", (129280, 7168)


def _mlp(at: str, width: int) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    for name, shape in (("gate_proj", (width, 7168)), ("up_proj", (width, 7168)), ("down_proj", (7168, width))):
        yield f"{at}.{name}.weight", "F8_E4M3", shape


def write(folder: str) -> int:
    """Write the model's files, of which only headers take room on a disk; its number of tensors."""
    tensors = list(weights())
    each, index = -(-len(tensors) // PARTS), {}
    for part in range(PARTS):
        file, table, at = f"model-{part + 1:05d}-of-{PARTS:05d}.safetensors", {}, 0
        for name, form, shape in tensors[part * each : (part + 1) * each]:
            size = {"BF16": 2, "F32": 4, "F8_E4M3": 1}[form]
            for n in shape:
                size *= n
            table[name] = {"dtype": form, "shape": list(shape), "data_offsets": [at, at + size]}
            index[name], at = file, at + size
        text = json.dumps(table, separators=(",", ":")).encode()
        with open(os.path.join(folder, file), "wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            out.truncate(8 + len(text) + at)
    with open(os.path.join(folder, "model.safetensors.index.json"), "w", encoding="utf-8") as out:
        json.dump({"metadata": {}, "weight_map": index}, out)
    return len(tensors)


@contextmanager
def hub(folder: str) -> Iterator[dict[str, str]]:
    """The stand-in, answering in a process of its own; the environment of who asks it."""
    code = f"import sys; sys.path[:0] = {[os.path.join(ROOT, 'tests', 'sources'), ROOT]!r}; "
    code += f"from benchmarks.headers import served; served({folder!r})"
    server = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as home:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTHON"))}
        endpoint = server.stdout.readline().strip()
        try:
            yield {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": home, "HF_HUB_DISABLE_TELEMETRY": "1"}
        finally:
            # Its end of input ends it.
            server.stdin.close()
            server.wait()


def served(folder: str) -> None:
    """Answer until the input ends."""
    from standin import Hub, Repository, Sparse, running  # type: ignore[import-not-found]

    files: dict[str, Any] = {}
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        with open(path, "rb") as file:
            length = file.read(8)
            whole = name.endswith(".json")
            head = length + file.read(-1 if whole else int.from_bytes(length, "little"))
        files[name] = head if whole else Sparse(head, os.path.getsize(path))
    with running(Hub(DELAY)) as standin:
        standin.repositories = {"org/model": Repository(files)}
        print(standin.endpoint, flush=True)
        sys.stdin.read()


def from_the_hub(python: str, folder: str, tensors: int, rounds: int) -> dict[int, list[Run]]:
    """Interleaved runs with one thread and several; the imports and the index are not timed."""
    found: dict[int, list[Run]] = {threads: [] for threads in THREADS}
    with hub(folder) as environment:
        for turn in range(rounds + 1):
            for threads in THREADS:
                command = [python, "-c", HUB, str(threads), str(tensors)]
                done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
                wall, cpu = (float(n) for n in done.stdout.split())
                if turn:
                    found[threads].append(Run(wall=wall, cpu=cpu, peak=0))
    return found


def from_the_disk(home: str, folder: str, rounds: int) -> dict[str, list[Run]]:
    """Interleaved runs of the whole programs."""
    python = os.path.join(home, "bin", "python")
    commands: dict[str, Sequence[str]] = {
        BASE: [python, "-c", "pass"],
        OURS: [os.path.join(home, "bin", "tonnage"), "params", folder, "--json"],
    }
    commands |= {name: [python, "-c", code, folder] for name, code in READERS.items()}
    return measured(commands, rounds)


def over_budget(disk: Mapping[str, Mapping[str, float]], faster: float) -> list[str]:
    """What exceeds the budget, in words."""
    ours, out = disk[OURS], []
    if ours["cpu_seconds"] > CPU:
        out.append(f"{ours['cpu_seconds']:.2f} s of processor time, budget {CPU:g} s")
    if ours["peak_bytes"] > PEAK:
        out.append(f"{ours['peak_bytes'] / 2**20:.1f} MiB at the peak, budget {PEAK / 2**20:g} MiB")
    if faster < FASTER:
        out.append(f"eight threads are {faster:.1f} times as fast as one, budget {FASTER:g}")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 when ``--check`` is given and the budget is exceeded."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.headers", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="interleaved rounds (9)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--check", action="store_true", help="exit 1 when the budget is exceeded")
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as work:
        folder = os.path.join(work, "model")
        os.mkdir(folder)
        tensors = write(folder)
        home = installed(ROOT, os.path.join(work, "environment"))
        assert home is not None
        python = os.path.join(home, "bin", "python")
        more = ["huggingface_hub>=1,<3", "safetensors>=0.8", "numpy"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *more], check=True)
        runs = from_the_disk(home, folder, asked.rounds)
        hub_runs = from_the_hub(python, folder, tensors, max(asked.rounds // 3, 1))
    disk = {
        name: {
            "cpu_seconds": statistics.median(r.cpu for r in done),
            "peak_bytes": statistics.median(r.peak for r in done),
            "over_bare": ratio(done, runs[BASE]),
            "ours_over_it": ratio(runs[OURS], done),
        }
        for name, done in runs.items()
    }
    walls = {threads: statistics.median(r.wall for r in done) for threads, done in hub_runs.items()}
    faster = ratio(hub_runs[1], hub_runs[8])
    exceeded = over_budget(disk, faster)
    if asked.json:
        hub_dict = {"delay_seconds": DELAY, "wall_seconds": walls, "one_thread_over_eight": faster}
        print(json.dumps({"schema": 1, "tensors": tensors, "disk": disk, "hub": hub_dict, "over_budget": exceeded}))
    else:
        _show(disk, walls, faster, tensors, asked.rounds)
        for what in exceeded:
            print(f"OVER BUDGET: {what}")
    return int(asked.check and bool(exceeded))


def _show(
    disk: Mapping[str, Mapping[str, float]], walls: Mapping[int, float], faster: float, tensors: int, rounds: int
) -> None:
    print(f"{tensors:,} tensors in {PARTS} files; median of {rounds} interleaved rounds")
    print(f"{'':<18}{'processor':>12}{'peak':>13}{'over bare':>12}{'ours over it':>15}")
    for name, f in disk.items():
        sizes = f"{f['cpu_seconds'] * 1e3:>9.0f} ms{f['peak_bytes'] / 2**20:>9.1f} MiB"
        print(f"{name:<18}{sizes}{f['over_bare']:>11.2f}x{f['ours_over_it']:>14.2f}x")
    told = ", ".join(f"{wall:.2f} s with {threads}" for threads, wall in walls.items())
    print(f"a Hub {DELAY * 1e3:.0f} ms away: {told} threads; eight are {faster:.1f} times as fast as one")


if __name__ == "__main__":
    begin = time.perf_counter()
    code = main()
    print(f"took {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    sys.exit(code)
