"""The process that traces: ``python -m tonnage.tracing.child JOB TRACE NOW``, all of them paths."""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from tonnage.errors import TonnageError, UnsupportedError
from tonnage.units import gib

EVERY: Final = 0.05
"""Seconds between two looks at the limits."""
KIB: Final = 1024


def main(job_path: str, out_path: str, now_path: str) -> int:
    """Run the job and write its trace, or the error."""
    with open(job_path, encoding="utf-8") as file:
        job = json.load(file)
    watch = Watch(job.pop("limits"), out_path, now_path)
    watch.start()
    try:
        answer = _traced(job, watch)
    except TonnageError as e:
        answer = {"error": e.as_dict()}
    watch.done.set()
    watch.join()
    _write(answer, out_path)
    # The patched interpreter is not taken down: nothing in it is wanted any more.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _traced(job: dict[str, Any], watch: Watch) -> dict[str, Any]:
    from tonnage.tracing.stream import as_dict

    if job["kind"] == "own":
        from tonnage.tracing.own import function_trace

        return as_dict(function_trace(job, watch.follow))
    # An eighth of the time that the libraries take to be imported goes into a search for garbage that is not there.
    gc.disable()
    from tonnage.tracing import deferred

    deferred.install()
    from tonnage.tracing.run import model_trace

    try:
        return as_dict(model_trace(job, watch.follow))
    except TonnageError:
        raise
    except Exception as e:
        from tonnage.tracing.own import blamed

        raise blamed(e, None) from e


def _write(answer: dict[str, Any], path: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(answer, file, separators=(",", ":"))


class Watch(threading.Thread):
    """Ends the process at its limits, and writes down where it is.

    Args:
        limits: seconds and resident memory. [s, byte]
        out_path: where the error goes.
        now_path: where the last instant goes, for whoever ends this process.
    """

    def __init__(self, limits: dict[str, Any], out_path: str, now_path: str) -> None:
        super().__init__(daemon=True)
        self.limits = limits
        self.out_path = out_path
        self.now_path = now_path
        self.done = threading.Event()
        self.now: Callable[[], str] = lambda: "start"
        self.began = time.monotonic()

    def follow(self, recorder: Any) -> None:
        """Instants are this recorder's from now on."""

        def now() -> str:
            module = recorder.modules[-1:] or [""]
            return f"{recorder.phase} {module[0]}".strip()

        self.now = now

    def run(self) -> None:
        """Look at the limits until the trace is done."""
        last = ""
        while not self.done.wait(EVERY):
            now = self.now()
            if now != last:
                last = now
                with open(self.now_path, "w", encoding="utf-8") as file:
                    file.write(now)
            over = self._over()
            if over is not None:
                hint = "--max-seconds and --max-memory set its limits"
                error = UnsupportedError(f"the traced process was ended at {now!r}: {over}", key="trace", hint=hint)
                _write({"error": error.as_dict()}, self.out_path)
                os._exit(0)

    def _over(self) -> str | None:
        if time.monotonic() - self.began > self.limits["seconds"]:
            return f"longer than {self.limits['seconds']:g} s"
        held = resident()
        if held > self.limits["memory"]:
            return f"{gib(held)} of memory, more than {gib(self.limits['memory'])}"
        return None


def resident() -> int:
    """Memory that this process holds. [byte]"""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * KIB


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
