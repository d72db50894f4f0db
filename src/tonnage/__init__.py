"""tonnage: how much accelerator memory a model takes, where every byte goes, and what would make it fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tonnage.api import load, serve, trace, train
    from tonnage.errors import ConfigError, InputError, SourceError, TonnageError, UnsupportedError
    from tonnage.estimate.result import Result

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "InputError",
    "Result",
    "SourceError",
    "TonnageError",
    "UnsupportedError",
    "__version__",
    "load",
    "serve",
    "trace",
    "train",
]

_HOMES = {
    "load": "api",
    "serve": "api",
    "trace": "api",
    "train": "api",
    "Result": "estimate.result",
}


def __getattr__(name: str) -> Any:
    # Names are loaded when they are used: a plain answer pays for what it needs only.
    if name not in __all__:
        raise AttributeError(f"module 'tonnage' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"tonnage.{_HOMES.get(name, 'errors')}"), name)
