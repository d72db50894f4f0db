"""Pictures of a batch, settled."""

from __future__ import annotations

from tonnage.arch.forward import AttentionKernel
from tonnage.arch.model import Model
from tonnage.arch.sight.pictures import Pictures
from tonnage.errors import InputError, UnsupportedError
from tonnage.workload.training import Train


def pictures(model: Model, w: Train, seq: int, kernel: AttentionKernel) -> Pictures | None:
    """What a sequence holds of them; None where it is text alone. ``kernel`` is what computes attention over the text.

    Raises:
        InputError: a size without pictures, or pictures that are longer than the sequence.
        UnsupportedError: the model's batches of them are not modelled.
    """
    if w.images is None:
        if w.image_size is not None:
            raise InputError(
                f"image_size = {w.image_size} is said, and no images", key="image_size", value=w.image_size,
                hint="--images 1",
            )  # fmt: skip
        return None
    if model.eye is None and model.sight is None:
        raise InputError(
            f"images = {w.images}: {model.model_type} sees no pictures", key="images", value=w.images,
            hint="leave it out",
        )  # fmt: skip
    if model.eye is None:
        raise UnsupportedError(
            f"training {model.model_type} on pictures is not modelled yet", key="images", value=w.images,
            hint="without it the step is of text alone",
        )  # fmt: skip
    if model.eye.checkpointed and w.recompute in (None, "none"):
        raise UnsupportedError(
            f"training {model.whole_type or model.model_type} on pictures without checkpoints, whose layers cache "
            "states then, is not modelled", key="recompute", value="none", hint="--recompute full",
        )  # fmt: skip
    found = model.eye.pictures(w.images, w.image_size)
    tokens = model.eye.tokens(found)
    if tokens > seq:
        raise InputError(
            f"images = {w.images:,}: their {tokens:,} tokens are more than the {seq:,} of a sequence", key="images",
            value=w.images, hint=f"--seq {tokens + 1} or more",
        )  # fmt: skip
    asked = w.attention or "sdpa"
    if asked == "math" and model.eye.masks:
        raise UnsupportedError(
            f"the unfused path with the mask that pictures bring to {model.model_type} is not modelled",
            key="attention", value="math", hint="--attention sdpa or eager",
        )  # fmt: skip
    # Heads of a tower are not grouped: what sdpa passes over for the text, it takes for them.
    return found.but(kernel="efficient" if (asked, kernel) == ("sdpa", "math") else kernel)
