"""Training stacks: versioned records of what a stack does when nothing is said."""

from __future__ import annotations

from tonnage.record import Record
from tonnage.releases import Releases, Since


class Stack(Record):
    """One stack's defaults.

    Args:
        name: as the command line takes it.
        releases: which are modelled.
        precision: when nothing is said; empty for the checkpoint's own format.
        optimizer: the implementation that ``adamw`` means.
        makes_mask: a mask is handed to ``sdpa`` although none was given.
        shards: what ``sharding`` means on several devices.
        recomputes: values of ``recompute`` that the stack has.
        reference: the code.
    """

    name: str
    releases: Releases
    precision: Since[str]
    optimizer: Since[str]
    makes_mask: Since[bool]
    shards: str
    recomputes: tuple[str, ...]
    reference: str
