"""Serving engines: versioned records of how an engine fills memory."""

from __future__ import annotations

from collections.abc import Mapping

from tonnage.record import Record


class Engine(Record):
    """One engine's policy.

    Args:
        name: as the command line takes it.
        versions: releases that are modelled, newest first; a version belongs to the first entry that begins it.
        latent: by version, whether a latent cache is kept as the latent or as the heads' own keys and values.
        pool: whether the cache is a pool of fixed size.
        logits: positions for which the prefill makes logits.
        reference: the code.
    """

    name: str
    versions: tuple[str, ...]
    latent: Mapping[str, bool]
    pool: bool
    logits: str
    reference: str
