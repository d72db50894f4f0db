"""A training step of reversible layers, which keeps activations of one layer, whatever their number."""

from __future__ import annotations

import math
from typing import cast

from tonnage.arch.model import Model
from tonnage.arch.reversible import Reversible
from tonnage.arch.sparse.axial import Gridded
from tonnage.arch.tape import HALF
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.one_tape import TapedStep
from tonnage.estimate.switches import refuse
from tonnage.memory.passes import Pass
from tonnage.memory.reversible import Mirrored
from tonnage.workload.training import Train


def refused(model: Model, w: Train) -> None:
    """Refuse what a step of such layers is not modelled with, and what their code does not do.

    Raises:
        UnsupportedError: a key of the workload.
    """
    if w.recompute not in (None, "none"):
        raise UnsupportedError(
            f"{model.model_type} has no gradient checkpointing: its layers work their input out again by themselves",
            key="recompute", value=w.recompute, hint="leave out recompute",
        )  # fmt: skip
    said = {
        "loss": w.loss not in (None, "full"),
        "kernels": w.kernels not in (None, "none"),
        "offload": w.offload not in (None, "none"),
        "objective": w.objective not in (None, "sft"),
        "precision": str(w.precision).startswith("fp8"),
        "quant": w.quant not in (None, "none"),
        "adapter": w.adapter is not None,
        "lora_rank": w.lora_rank is not None,
        "stack": w.stack not in (None, "transformers"),
        "train_only": bool(w.train_only),
        "freeze_layers": w.freeze_layers is not None,
        "padded": bool(w.padded),
        "compile": bool(w.compile),
        "eval_batch": w.eval_batch is not None,
        "optimizer_in_backward": bool(w.optimizer_in_backward),
    }
    refuse(w, said, f"{{key}} = {{value}}: not modelled for reversible layers ({model.model_type})")


def length(model: Model, asked: int | None, otherwise: int) -> int:
    """Tokens of a sequence: as asked, or those that the model's grid of positions is made for.

    Raises:
        InputError: the model's code refuses sequences of that length in training.
    """
    stem = model.decoder.stem
    only = stem.trains_on if isinstance(stem, Gridded) else None
    layers = [cast(Reversible, layer) for layer, _ in model.decoder.distinct()]
    chunks = [layer.attention[1].near.chunk for layer in layers]
    whole, least = math.lcm(*chunks), min(chunks)
    tokens = asked or only or max(otherwise - otherwise % whole, least)
    parts = {layer.mlp.chunk for layer in layers if layer.mlp.chunk}
    why = ""
    if only is not None and tokens != only:
        why, hint = f"sequences of {only:,} tokens alone, as many as axial_pos_shape has", f"--seq {only}"
    elif tokens % whole and tokens > least:
        why, hint = f"sequences of a multiple of {whole:,} tokens, its chunks", f"--seq {-(-tokens // whole) * whole}"
    elif any(tokens % part for part in parts):
        why, hint = f"multiples of chunk_size_feed_forward = {max(parts):,}", f"--seq {math.lcm(whole, *parts)}"
    if why:
        raise InputError(f"seq = {tokens:,}: {model.model_type} trains on {why}", key="seq", value=tokens, hint=hint)
    return tokens


def told(model: Model, weights: str) -> list[str]:
    """What is said of weights in 16 bit: a grid of positions is made in fp32, which no norm of the others takes."""
    stem = model.decoder.stem
    if weights not in HALF or not isinstance(stem, Gridded) or stem.trains_on is None:
        return []
    return [
        f"transformers loads a grid of positions in fp32, so that {model.model_type} loaded in {weights} fails in its "
        f"first norm: answered as model.to({weights}) makes it"
    ]


class MirroredStep(TapedStep):
    """One step of reversible layers."""

    def passed(self, model: Model, *, accumulated: bool) -> Pass:
        """The pass; ``accumulated`` where gradients are there already."""
        r = self.recipe
        found = Mirrored(
            model, batch=r.batch, tokens=r.tokens, weights=r.weights, autocast=r.autocast, accumulated=accumulated,
            keep_logits=r.keep_logits, stepping=self.stepping(), drops=r.drops,
        )  # fmt: skip
        # What a step of either is asked for is the same.
        return cast(Pass, found)
