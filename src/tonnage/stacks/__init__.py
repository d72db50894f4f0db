"""Training stacks: versioned records of what a stack does when nothing is said."""

from __future__ import annotations

from collections.abc import Mapping

from tonnage.record import Record


class Stack(Record):
    """One stack's defaults, newest release first.

    Args:
        name: as the command line takes it.
        versions: releases that are modelled, newest first; a version belongs to the first entry that begins it.
        precision: by version, when nothing is said; empty for the checkpoint's own format.
        optimizer: by version, the implementation that ``adamw`` means.
        shards: what ``sharding`` means on several devices.
        recomputes: values of ``recompute`` that the stack has.
        reference: the code.
    """

    name: str
    versions: tuple[str, ...]
    precision: Mapping[str, str]
    optimizer: Mapping[str, str]
    shards: str
    recomputes: tuple[str, ...]
    reference: str
