"""The model of the JSON contract, as far as traced code told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def model_told(told: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of every module that ran."""
    n = told["parameters"]
    return {
        "name": told["class"], "parameters": n, "active_parameters": n, "active_parameters_without_embedding": n,
        "stored_parameters": n, "trainable_parameters": told["trainable"],
    }  # fmt: skip
