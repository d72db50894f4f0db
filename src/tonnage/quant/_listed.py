"""Model Optimizer's list of modules, each with an algorithm of its own (``quantized_layers``).

A list names modules as the checkpoint does, which is not always as transformers does: another path above the layers,
experts one by one where they are stacked, matrices that are joined. So a module is found by its layer, by whether it is
of the routed experts, of a shared one or of neither, and by its last name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from tonnage.errors import ConfigError, UnsupportedError
from tonnage.keys import Keys
from tonnage.quant._stored import Matrix

KEY: Final = "quantized_layers"
JOINED: Final = {"gate_up_proj": ("gate_proj", "w1"), "qkv_proj": ("q_proj",), "down_proj": ("w2",)}
"""Names of what is joined here, or called otherwise, as checkpoints have it."""
_LAYER: Final = re.compile(r"(?:^|\.)layers\.(\d+)\.")

Place = tuple[int | None, str, str]


def algorithms(k: Keys) -> Callable[[Matrix], Mapping[str, Any] | None]:
    """What the list says of a matrix; None where it is not listed.

    Raises:
        ConfigError: it is no table of settings.
        UnsupportedError: one layer's experts have different algorithms.
    """
    listed: Any = k.config.get(KEY)
    k.skip(KEY)
    if not isinstance(listed, Mapping) or not all(isinstance(v, Mapping) for v in listed.values()):
        raise ConfigError(f"{k.path}{KEY} must tell settings by module", key=f"{k.path}{KEY}", file=k.file)
    found: dict[Place, Mapping[str, Any]] = {}
    for name, told in listed.items():
        if found.setdefault(_place(str(name)), told) != told:
            raise UnsupportedError(
                f"{k.path}{KEY}: experts of one layer in different formats are not modelled",
                key=f"{k.path}{KEY}", value=name, file=k.file,
            )  # fmt: skip

    def settings(m: Matrix) -> Mapping[str, Any] | None:
        last = m.module.rpartition(".")[2]
        if m.batch:
            return found.get((m.layer, "experts", ""))
        kind = "shared" if m.role == "shared_expert" else ""
        names = (last, *JOINED.get(last, ()))
        return next((found[p] for name in names if (p := (m.layer, kind, name)) in found), None)

    return settings


def _place(name: str) -> Place:
    """Layer, kind and last name of a module as a checkpoint calls it.

    >>> _place("model.layers.3.mlp.experts.7.w1"), _place("language_model.model.layers.0.mlp.shared_experts.up_proj")
    ((3, 'experts', ''), (0, 'shared', 'up_proj'))
    """
    at = _LAYER.search(name)
    layer = None if at is None else int(at[1])
    parts = name.split(".")
    if any(part == "experts" for part in parts):
        return layer, "experts", ""
    return layer, "shared" if any("shared_expert" in part for part in parts) else "", parts[-1]
