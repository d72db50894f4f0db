"""Model types that have the structure of another family: type to module."""

from __future__ import annotations

from typing import Final

ALIASES: Final[dict[str, str]] = {
    "gemma3": "gemma3_text",
}
