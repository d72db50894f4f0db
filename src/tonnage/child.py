"""A job in a Python process of its own, with a limit of time: files carry it there and its answer back.

The module that is run takes three paths: the job, where its answer goes, and where it writes what it is at. An error
that it wants to be raised is an answer ``{"error": error.as_dict()}``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any, Final

from tonnage.errors import UnsupportedError, raised

GRACE: Final = 10.0
"""Seconds from the request to end to the end by force."""
TOLD: Final = 4000
"""Bytes of the end of standard error that are looked at."""
STDERR: Final = 2
"""What a job prints is not the answer."""
COMMON: Final = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}


def asked(
    module: str, job: Mapping[str, Any], seconds: float, *, environment: Mapping[str, str], key: str, limits: str
) -> dict[str, Any]:
    """Run a job and wait for its answer.

    Args:
        module: that is run, with the three paths as its arguments.
        job: plain data.
        seconds: that the process may take.
        environment: variables of the process beside those of this one.
        key: what was asked for, which an error names.
        limits: what an error says of how to raise the limits.

    Raises:
        UnsupportedError: the process ended without an answer.
        TonnageError: the answer is an error.
    """
    with tempfile.TemporaryDirectory(prefix="tonnage-") as folder:
        paths = [os.path.join(folder, file) for file in ("job.json", "answer.json", "now.txt")]
        with open(paths[0], "w", encoding="utf-8") as file:
            json.dump(job, file)
        code, last = _run(["-m", module, *paths], seconds, environment)
        found = _answer(paths[1])
        if found is not None and "error" in found:
            raise raised(found["error"])
        if found is None or code:
            death = _death(code, _text(paths[2]), last, seconds)
            raise UnsupportedError(f"the process {death}"[:400], key=key, hint=limits)
        return found


def _run(arguments: list[str], seconds: float, environment: Mapping[str, str]) -> tuple[int | None, str]:
    """Exit code, None where time ran out, and the end of standard error."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, *arguments], env={**os.environ, **COMMON, **environment, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL, stdout=STDERR, stderr=errors, start_new_session=True,
        )  # fmt: skip
        try:
            code: int | None = child.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(child)
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - TOLD))
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


def _answer(path: str) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def _death(code: int | None, now: str, told: str, seconds: float) -> str:
    """How a process ended that gave no answer."""
    at = f" at {now!r}" if now else ""
    if code is None:
        return f"was ended{at}: longer than {seconds:g} s"
    if code == -signal.SIGKILL:
        return f"was ended{at}: the host has too little memory"
    last = told.strip().splitlines()[-1] if told.strip() else f"exit code {code}"
    return f"ended without an answer{at}: {f'signal {-code}' if code < 0 else last}"
