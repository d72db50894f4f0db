"""What XLA says that a compiled function takes: ``compiled.memory_analysis()`` of JAX, printed or as JSON.

``CompiledMemoryStats`` of jaxlib 0.10.2: arguments, results, results that take the place of arguments (alias),
temporaries and code. No moments are told: everything counts as alive at once, which is how XLA adds them up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from tonnage.history import History, Life
from tonnage.sources._unpack import whole, wrong

PARTS: Final = {
    "argument_size_in_bytes": ("other:arguments", "parameters, state and inputs of the function"),
    "output_size_in_bytes": ("other:results", "what it returns, apart from what takes the place of arguments"),
    "temp_size_in_bytes": ("other:temporaries", "activations and other tensors of its own"),
    "generated_code_size_in_bytes": ("other:code", "the compiled program"),
}
ALIAS: Final = "alias_size_in_bytes"
PEAK: Final = "peak_memory_in_bytes"
MARK: Final = b"_size_in_bytes"
_PRINTED: Final = re.compile(r"\b([a-z_]{1,40}_in_bytes)\s*[=:]\s*(-?\d{1,19})\b")


def history(data: bytes, value: Any, file: str) -> History:
    """One analysis.

    Args:
        data: the text of the file.
        value: what it holds as JSON, else None.
        file: for messages.

    Raises:
        InputError: it is none.
    """
    told = _told(value) if isinstance(value, dict) else _printed(data)
    if "argument_size_in_bytes" not in told:
        raise wrong(file, "no memory analysis: argument_size_in_bytes and its like are expected")
    for key, size in told.items():
        if not whole(size) or size < 0:
            raise wrong(file, f"{key} is no size")
    lives = []
    for key, (name, what) in PARTS.items():
        size = told.get(key, 0) - (told.get(ALIAS, 0) if key.startswith("output") else 0)
        if size < 0:
            raise wrong(file, f"{ALIAS} is more than {key}")
        if size:
            lives.append(Life(size, name, what))
    return History(
        kind="memory analysis of XLA",
        file=file,
        device="",
        tier="requested",
        lives=lives,
        order=range(len(lives)),
        begin=max(len(lives) - 1, 0),
        notes=_notes(told),
    )


def _told(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: size for key, size in value.items() if isinstance(key, str) and key.endswith("_in_bytes")}


def _printed(data: bytes) -> dict[str, Any]:
    return {key: int(size) for key, size in _PRINTED.findall(data[:65536].decode("utf-8", "replace"))}


def _notes(told: Mapping[str, int]) -> tuple[str, ...]:
    notes = ["a compiler's plan for one call: other arrays of the process are not among it"]
    if told.get(ALIAS):
        notes.append(f"results of {told[ALIAS]:,} B take the place of arguments")
    if told.get(PEAK):
        notes.append(f"XLA's own figure of its peak is {told[PEAK]:,} B")
    host = sum(size for key, size in told.items() if key.startswith("host_") and not key.startswith("host_alias"))
    if host:
        notes.append(f"memory of the host, {host:,} B, is left out")
    return tuple(notes)
