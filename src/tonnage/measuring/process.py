"""A measurement in a process of its own, with a limit: a fresh context, and nothing of torch stays behind."""

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

KINDS: Final = {kind.category: kind for kind in (InputError, ConfigError, UnsupportedError, SourceError)}
HINT: Final = "pip install 'tonnage[trace]'"
GRACE: Final = 10.0
"""Seconds from the request to end to the end by force."""


def available(job: Mapping[str, Any]) -> None:
    """Raise unless what the job needs is installed.

    Raises:
        UnsupportedError: it is not.
    """
    needed = ["torch", "transformers", *(["peft"] if job.get("lora") else [])]
    for name in needed:
        if find_spec(name) is None:
            raise UnsupportedError(f"measuring needs {name}, which is not installed", key="measure", hint=HINT)


def measured(job: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Run a job.

    Args:
        job: the workload, settled, with the ``device``.
        seconds: that it may take.

    Returns:
        What the process told: versions, device, phases, and ``out_of_memory`` where it ended so.

    Raises:
        UnsupportedError: something is not installed, or it cannot be measured.
        InputError: no such device.
    """
    available(job)
    with tempfile.TemporaryDirectory(prefix="tonnage-measure-") as folder:
        asked, told, now = (os.path.join(folder, name) for name in ("job.json", "row.json", "now.txt"))
        with open(asked, "w", encoding="utf-8") as file:
            json.dump(job, file)
        code, last = _run([asked, told, now], seconds, str(job.get("alloc_conf") or ""))
        found = _read(told)
        if isinstance(found, dict) and "error" in found:
            raise _error(found["error"])
        if not isinstance(found, dict) or code:
            raise _died(code, _text(now), last, seconds)
        return found


def _run(paths: list[str], seconds: float, alloc_conf: str) -> tuple[int | None, str]:
    """Exit code, None where time ran out, and the end of standard error."""
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH")))),
        "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    if alloc_conf:
        # The first is read up to torch 2.9 and on ROCm beside its own name, the second since.
        env |= dict.fromkeys(("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF"), alloc_conf)
    command = [sys.executable, "-m", "tonnage.measuring.child", *paths]
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True
        )
        try:
            code: int | None = child.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(child)
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - 4000))
        return code, errors.read().decode("utf-8", "replace")


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a process that still runs, and what it started: asked first, since a killed one may leave a device busy."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is not None:
            return
        try:
            os.killpg(child.pid, how)
            child.wait(GRACE)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


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
    return kind(str(told["message"]), key=told.get("key"), value=told.get("value"), hint=told.get("hint"))


def _died(code: int | None, now: str, told: str, seconds: float) -> TonnageError:
    """What to say of a process that ended without an answer."""
    at = f" in {now!r}" if now else ""
    if code is None:
        return UnsupportedError(
            f"the measured process took more than {seconds:g} s and was ended{at}", key="measure",
            hint="--max-seconds sets its limit",
        )  # fmt: skip
    if code == -signal.SIGKILL:
        return UnsupportedError(f"the measured process was ended{at}: the host has too little memory", key="measure")
    last = told.strip().splitlines()[-1] if told.strip() else f"exit code {code}"
    how = f"signal {-code}" if code < 0 else last
    return UnsupportedError(f"the measured process ended without an answer{at}: {how}"[:400], key="measure")
