"""What a config that trains on preferences says beyond one of the next token."""

from __future__ import annotations

from typing import Any, Final

SIGMOID: Final = ("sigmoid", "hinge", "ipo", "robust", "apo_zero", "apo_down", "kto_pair", "sigmoid_norm")
"""Losses over an answer's log-probabilities, which differ in a few numbers a pair."""


def preferring(said: dict[str, Any], objective: str) -> list[str]:
    """Put the objective into the keys of the workload; returns what has to be said.

    A loss that replaces the model's own of the next token is not run: the trainers ask for log-probabilities.
    """
    said["objective"] = objective
    if said.pop("_precomputed", False):
        said["reference"] = "precomputed"
    left = said.pop("loss", None)
    return (
        [f"loss = {left} is of the next token, which {objective} does not ask for"]
        if left not in (None, "full")
        else []
    )
