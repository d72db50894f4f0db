"""Where a model's description comes from. Each source gives the same shape; none knows a formula."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tonnage.record import Record


class RawModel(Record):
    """A config as written, and where it was found.

    Args:
        config: its keys and values.
        name: what the model is called.
        origin: the source in words.
        file: for messages about keys; None where there is no file.
    """

    config: Mapping[str, Any]
    name: str
    origin: str
    file: str | None = None
