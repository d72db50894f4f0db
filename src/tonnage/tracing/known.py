"""What only the model as tonnage reads it tells of a trace: the pictures of a batch, and parts that are not trained."""

from __future__ import annotations

from typing import Any

from tonnage.arch.model import Model
from tonnage.estimate.composites import forbidden
from tonnage.estimate.pictured import pictures
from tonnage.estimate.settle import refuse
from tonnage.workload.training import Train


def told(model: Model | None, w: Train, seq: int) -> dict[str, Any]:
    """The same as the process takes it.

    Args:
        model: None where tonnage cannot read its config.
        w: the workload.
        seq: tokens of a sequence.

    Raises:
        InputError: pictures or parts that the model has not.
        UnsupportedError: the model is not known, or its pictures are not.
    """
    if model is None:
        for key in ("images", "freeze"):
            refuse(w, key, "nothing is known of this model but its code", unless=(None, ()), hint="leave it out")
        return {}
    found = pictures(model, w, seq, "flash")
    if found is None or model.eye is None:
        return {"pictures": None, "frozen": forbidden(model, w)}
    seen = {
        "count": found.count, "patches": found.patches, "pixels": found.pixels,
        "length": getattr(getattr(model.eye, "processor", None), "length", 0),
        "tokens": (w.batch or 1) * model.eye.tokens(found),
    }  # fmt: skip
    return {"pictures": seen, "frozen": forbidden(model, w)}
