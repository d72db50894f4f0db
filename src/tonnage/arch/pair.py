"""How an encoder and a decoder belong together."""

from __future__ import annotations

from tonnage.record import Record


class Pair(Record):
    """An encoder and a decoder whose training step is modelled.

    Args:
        shifts_first: what the decoder is given is made of the labels before the encoder runs (BART), else behind it.
        caches: the decoder keeps keys and values though nothing is written: its config is a copy, which the Trainer
            does not reach (T5). Checkpoints turn it off.
    """

    shifts_first: bool = False
    caches: bool = False
