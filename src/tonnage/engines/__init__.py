"""Serving engines: versioned records of how an engine fills memory."""

from __future__ import annotations

from tonnage.record import Record
from tonnage.releases import Releases, Since


class Engine(Record):
    """One engine's policy.

    Args:
        name: as the command line takes it.
        releases: which are modelled.
        latent: a latent cache is kept as the latent; as the heads' own keys and values where not.
        pool: whether the cache is a pool of fixed size.
        logits: positions for which the prefill makes logits.
        reference: the code.
    """

    name: str
    releases: Releases
    latent: Since[bool]
    pool: bool
    logits: str
    reference: str
