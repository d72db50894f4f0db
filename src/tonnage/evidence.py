"""How far a number can be trusted."""

from __future__ import annotations

from typing import Final, Literal

Trust = Literal["exact", "derived", "measured", "assumed"]

EXACT: Final[Trust] = "exact"
"""Follows from shapes and storage formats alone."""
DERIVED: Final[Trust] = "derived"
"""Follows from a stated rule of the software that is modelled."""
MEASURED: Final[Trust] = "measured"
"""Read off a real device or log, with its conditions."""
ASSUMED: Final[Trust] = "assumed"
"""A labelled reserve: it has a low and a high with a stated basis."""

TRUSTS: Final[tuple[Trust, ...]] = (EXACT, DERIVED, MEASURED, ASSUMED)
