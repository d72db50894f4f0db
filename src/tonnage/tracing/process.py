"""A trace in a process of its own, with limits: torch is imported, patched and thrown away with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Final

from tonnage.errors import ConfigError, InputError, SourceError, TonnageError, UnsupportedError
from tonnage.record import Record
from tonnage.tracing.stream import Traced, from_dict
from tonnage.units import GiB, gib

GRACE: Final = 5.0
"""Seconds that a process has to end itself at its limit, before it is ended."""
KINDS: Final = {kind.category: kind for kind in (InputError, ConfigError, UnsupportedError, SourceError)}


class Limits(Record):
    """What a traced process may take.

    Args:
        seconds: of time.
        memory: of the host, resident. [byte]
    """

    seconds: float = 600.0
    memory: int = 8 * GiB


def available() -> None:
    """Raise unless torch is installed.

    Raises:
        UnsupportedError: it is not.
    """
    if find_spec("torch") is None:
        raise UnsupportedError(
            "tracing needs torch, which is not installed", key="trace", hint="pip install 'tonnage[trace]'"
        )


def traced(job: Mapping[str, Any], limits: Limits = Limits()) -> Traced:  # noqa: B008
    """Run a job.

    Args:
        job: what is traced.
        limits: of the process.

    Raises:
        UnsupportedError: torch is not installed, it cannot be traced, or a limit was reached.
        InputError: the code that is traced needs data, or is wrong.
    """
    available()
    if job["kind"] == "model" and find_spec("transformers") is None:
        raise UnsupportedError(
            "models are traced with transformers, which is not installed",
            key="trace",
            hint="pip install 'tonnage[trace]'",
        )
    with tempfile.TemporaryDirectory(prefix="tonnage-trace-") as folder:
        paths = [os.path.join(folder, name) for name in ("job.json", "trace.json", "now.txt")]
        with open(paths[0], "w", encoding="utf-8") as file:
            json.dump({**job, "limits": {"seconds": limits.seconds, "memory": limits.memory}}, file)
        code, told = _run(paths, limits)
        found = _read(paths[1])
        if found is not None and "error" in found:
            raise _error(found["error"])
        if found is None or code:
            raise _died(code, _text(paths[2]), told, limits)
        return from_dict(found)


def _run(paths: list[str], limits: Limits) -> tuple[int, str]:
    """The process's exit code, and the end of what it wrote to standard error."""
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH")))),
        # Tensors have no data: a device at hand is not to be touched, nor the network.
        "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    command = [sys.executable, "-m", "tonnage.tracing.child", *paths]
    # Code that is traced may print: that is not the answer.
    with subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=subprocess.PIPE
    ) as child:
        try:
            _, told = child.communicate(timeout=limits.seconds + GRACE)
        except subprocess.TimeoutExpired:
            child.kill()
            _, told = child.communicate()
        except BaseException:
            child.kill()
            raise
    return child.returncode, told.decode("utf-8", "replace")


def _read(path: str) -> Any:
    try:
        with open(path, "rb") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def _error(told: Mapping[str, Any]) -> TonnageError:
    kind = KINDS.get(str(told.get("category")), InputError)
    return kind(
        str(told["message"]), key=told.get("key"), value=told.get("value"), file=told.get("file"),
        hint=told.get("hint"), nearest=told.get("nearest") or (),
    )  # fmt: skip


def _died(code: int, now: str, told: str, limits: Limits) -> TonnageError:
    """What to say of a process that ended without an answer."""
    at = f" at {now!r}" if now else ""
    if code == -signal.SIGKILL:
        return UnsupportedError(
            f"the traced process was ended{at}: longer than {limits.seconds:g} s, or more memory than the machine has",
            key="trace", hint=f"--max-seconds and --max-memory set its limits ({gib(limits.memory)})",
        )  # fmt: skip
    last = told.strip().splitlines()[-1] if told.strip() else f"exit code {code}"
    how = f"signal {-code}" if code < 0 else last
    return UnsupportedError(f"the traced process ended without an answer{at}: {how}"[:400], key="trace")
