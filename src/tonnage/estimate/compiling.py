"""``torch.compile``: what of a step it compiles, what is not modelled with it, and the range of what it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated, Plain
from tonnage.arch.model import Model
from tonnage.arch.objectives.chunked import Chunked
from tonnage.arch.tape import WIDTH
from tonnage.arch.tuning.adapters import FourBit
from tonnage.errors import UnsupportedError
from tonnage.estimate.moments import instants, largest
from tonnage.estimate.recipe import Recipe
from tonnage.estimate.settle import asked_as
from tonnage.estimate.training import Step
from tonnage.evidence import ASSUMED
from tonnage.memory.compiled import Compiled
from tonnage.stacks import Stack
from tonnage.timeline import Component
from tonnage.workload.training import Train

TOLD: Final = {
    "model": "the model and its loss are one graph",
    "layers": "each layer is a graph of its own, and the loss is one",
}
REFERENCE: Final = "https://github.com/pytorch/pytorch/blob/v2.13.0/torch/_functorch/partitioners.py (solve_min_cut)"
NOT_MODELLED: Final = (
    "CUDA graphs (mode = reduce-overhead), and templates that inductor tunes (mode = max-autotune)",
    "what compiling itself takes for a moment, and graph breaks",
    "inductor's own order of kernels (reorder_for_peak_memory), with which experts may take less than the range",
)
HINT: Final = "leave out compile"
ROUTED: Final = ("softmax-fp32", "softmax", "softmax-top-fp32")
"""Routers whose steps are equal to AOTAutograd's: those of Mixtral, Qwen, OLMoE and Granite."""


def compiled(model: Model, w: Train, stack: Stack, recipe: Recipe) -> Compiled:
    """How a step is compiled.

    Raises:
        UnsupportedError: together with what is not modelled.
    """
    if not stack.compiles:
        raise UnsupportedError(
            f"compile is not modelled for {stack.name}", key="compile", value="true", hint="--stack transformers"
        )
    blocks = [s.block for layer, _ in model.decoder.distinct() for s in layer.sublayers]
    strange = next(
        (b for b in blocks if not isinstance(b, GroupedQuery | Gated | Plain) and not _grouped(b, stack)), None
    )
    way = recipe.way()
    against = {
        "model": len(model.stacks) > 1 or model.classes is not None or not model.causal,
        "objective": w.objective not in (None, "sft"),
        "kernels": recipe.fused is not None,
        "loss": recipe.loss is not None and type(recipe.loss) is not Chunked,
        "precision": recipe.narrow is not None,
        "quant": (recipe.packing is not None or bool(recipe.shares)) and not _unpacks(recipe, stack),
        "adapter": recipe.tuning is not None and not _plain(w, stack),
        "train_only": bool(w.train_only),
        "freeze_layers": w.freeze_layers is not None,
        "modules_to_save": bool(w.modules_to_save),
        "offload": recipe.offloads or recipe.hosts,
        "optimizer_in_backward": bool(w.optimizer_in_backward),
        "optimizer": recipe.in_backward,
        "recompute": way is not None and (bool(way.modules) or (bool(way.keeps) and stack.compiles != "layers")),
        "retain": any("outputs" in said for said in w.retain),
        "eval_batch": recipe.evaluates is not None,
        "ema": recipe.averaged,
        "replay": w.replay is True,
        "alloc_conf": w.alloc_conf is not None,
    }
    for key, there in against.items():
        if there:
            value = model.model_type if key == "model" else getattr(w, key)
            raise UnsupportedError(
                f"compile is not modelled with {key} = {value}", key="compile", value="true",
                hint=HINT if key == "model" else f"{HINT} or {key}",
            )  # fmt: skip
    if strange is not None:
        raise UnsupportedError(
            f"compile is not modelled for the blocks of {model.model_type} ({type(strange).__name__})", key="compile",
            value="true", hint=HINT,
        )  # fmt: skip
    if recipe.kernel in ("eager", "math", "unfused") and not model.eager_only:
        asked = asked_as(recipe.kernel)
        raise UnsupportedError(
            f"compile is not modelled with attention = {asked}: inductor may put a kernel in its place",
            key="compile", value="true", hint="--attention sdpa",
        )  # fmt: skip
    return Compiled(within=stack.compiles == "model", loss=compiles_loss(stack, recipe))


def _grouped(b: object, stack: Stack) -> bool:
    """Whether a block is of experts by grouped products, whose router's operations are known to the partitioner."""
    return (
        isinstance(b, Experts)
        and type(b) is Experts
        and b.routing in ROUTED
        and stack.compiles == "model"
        and not (b.bias or b.limited or b.correction or b.zero)
    )


def _unpacks(recipe: Recipe, stack: Stack) -> bool:
    """Whether packed matrices are bitsandbytes' of 4 bit, whose operations are part of the model's graph."""
    packed = None if recipe.tuning is None else recipe.tuning.packed
    return isinstance(packed, FourBit) and not packed.keeps and stack.compiles == "model"


def _plain(w: Train, stack: Stack) -> bool:
    """Whether adapters are LoRA's own, as peft runs them."""
    return w.adapter in (None, "lora") and not w.adapter_options and stack.compiles == "model"


def compiles_loss(stack: Stack, recipe: Recipe) -> bool:
    """Whether the loss is compiled: torchtune's full fine-tuning lets go of the compiled one, but for chunks.

    https://github.com/pytorch/torchtune/blob/v0.6.1/recipes/full_finetune_single_device.py (``_setup_loss``:
    ``training.compile_loss(self._loss_fn)``, which chunks take in place)
    """
    return stack.compiles != "layers" or recipe.loss is not None


def told(stack: Stack, how: Compiled, model: Model, recipe: Recipe) -> list[str]:
    """What is compiled, in words."""
    what = TOLD[stack.compiles] if how.loss else "each layer is a graph of its own, and the loss is not compiled"
    said = [f"torch.compile: {what}; what is kept for the backward pass is the min cut of torch 2.13's partitioner"]
    packed = None if recipe.tuning is None else recipe.tuning.packed
    if isinstance(packed, FourBit):
        size = WIDTH[packed.dtype] * sum(
            n * t.numel for layer, n in model.decoder.distinct() for t in layer.weights()
            if t.name.removesuffix(".weight") in packed.modules
        )  # fmt: skip
        said.append(
            "bitsandbytes is meant from 0.50 on: up to 0.49 both passes unpack by the same operation, which the "
            f"partitioner runs once and keeps the result of: up to {size:,} B more"
        )
    return said


def widened(components: list[Component], step: Step, again: Callable[[Recipe], Step]) -> list[Component]:
    """The lines with the range of what inductor puts in memory, on the largest line of what the passes hold.

    Args:
        components: of the step's peak.
        step: the step.
        again: makes another step of a recipe.
    """
    how = step.recipe.compiled
    assert how is not None
    peak = largest(instants(step.moments()))[0].bytes
    ends = []
    for buffers in ("fewest", "most"):
        other = again(step.recipe.but(compiled=how.but(buffers=buffers)))
        ends.append(largest(instants(other.moments()))[0].bytes)
    low, high = peak - min(*ends, peak), max(*ends, peak) - peak
    passing = [c for c in components if c.tier == "requested" and c.name in ("activations", "logits", "loss")]
    if not passing:
        return components
    line = max(passing, key=lambda c: c.bytes)
    low = min(low, line.bytes)
    words = (
        f"{line.why}; compiled: {line.bytes - low:,} B where inductor's kernels write over what they read last, "
        f"{line.bytes + high:,} B where buffers wait for others of their size"
    )
    ranged = line.but(
        low_bytes=line.bytes - low, high_bytes=line.bytes + high, trust=ASSUMED, why=words, reference=REFERENCE
    )
    return [ranged if c is line else c for c in components]
