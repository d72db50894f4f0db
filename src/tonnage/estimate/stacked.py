"""What a stack other than transformers' Trainer decides when nothing is said, and its own names and code."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from tonnage.arch.model import Model
from tonnage.errors import UnsupportedError
from tonnage.estimate.composites import composite
from tonnage.memory.adapters import own_weights
from tonnage.releases import Version, since
from tonnage.stacks import Stack
from tonnage.workload.training import Train

if TYPE_CHECKING:
    from tonnage.arch.tuning.tuners import Method
    from tonnage.estimate.tuning import Own


LORA: Final = ("lora", "rslora", "dora")
"""Methods that adapt what the stack says."""


def as_stack(
    model: Model, w: Train, stack: Stack, version: Version
) -> tuple[Model, Train, Callable[[str], Own] | None, tuple[str, ...]]:
    """The model as the stack runs it, the workload with its defaults, its adapters by format of the weights, and what
    of it is not modelled.

    Raises:
        UnsupportedError: the stack has no such loss or kernels, or trains no such model.
    """
    if stack.restated is not None and (not model.causal or model.classes is not None):
        raise UnsupportedError(
            f"stack = {stack.name}: it trains causal language models alone here", key="stack", value=stack.name,
            hint="--stack transformers",
        )  # fmt: skip
    said: dict[str, Any] = {}
    if w.precision is None and w.adapts:
        said["precision"] = since(version, stack.adapted) or None
        if (said["precision"] or "").endswith("-mixed") and w.dtype is None:
            # What is frozen is loaded in fp32 as well.
            said["dtype"] = "fp32"
    if w.recompute is None:
        said["recompute"] = since(version, stack.recompute)
    if w.optimizer is None and stack.steps:
        said["optimizer"] = stack.steps
    if w.loss not in (None, *stack.losses):
        raise UnsupportedError(
            f"loss = {w.loss}: {stack.name} has {', '.join(stack.losses)}", key="loss", value=w.loss,
            hint=f"--loss {stack.losses[0]}",
        )  # fmt: skip
    doubt: tuple[str, ...] = ()
    found = _loss(model, w, stack, version)
    if found is not None and stack.own_losses.get(found) is None and _odd(model, found):
        doubt = (f"loss = {found} is not modelled for the head of {model.model_type}: all logits are answered",)
    elif found is not None:
        said["loss"] = found
    if w.modules_to_save and stack.copies:
        doubt += (stack.copies,)
    if w.objective not in (None, "sft"):
        doubt += since(version, stack.pursues)
    if w.kernels not in (None, "none") and not stack.kernels:
        raise UnsupportedError(
            f"kernels = {w.kernels}: {stack.name} runs its own modules", key="kernels", value=w.kernels,
            hint="--kernels none",
        )  # fmt: skip
    model, prepared = _prepared(model, w.but(**said), stack, version)
    said |= prepared
    if stack.keeps and not w.retain:
        said["retain"] = stack.keeps
    if stack.restated is not None:
        given, model = model, stack.restated(model, version, w.lora_rank)
        if model is given:
            doubt += (stack.unstated.format(stack=stack.name, model=model.model_type),)
    if stack.targets and w.lora_rank is not None and w.adapter in (None, *LORA) and not w.lora_targets:
        said["lora_targets"] = stack.targets
    if stack.freezes and not w.freeze and not w.train_only and composite(model) is not None:
        said["freeze"] = stack.freezes
    if stack.modules and w.lora_targets:
        said["lora_targets"] = _targets(model, w.lora_targets, stack)
    return model, w.but(**said), _own(model, w, stack, version) if w.adapts else None, doubt


def _prepared(model: Model, w: Train, stack: Stack, version: Version) -> tuple[Model, dict[str, Any]]:
    """The model as a stack prepares it for adapters on packed weights, and what that settles of the workload."""
    how = since(version, stack.prepares)
    if not how or not w.adapts or w.kbit_prepared is not None or w.quant in (None, "none"):
        return model, {}
    form = str(w.precision)
    mixed = form.startswith("bf16-") and form.endswith(("mixed", "autocast"))
    comes_back = mixed and str(w.quant).startswith(("nf4", "fp4"))
    if how == "all" and not comes_back:
        return model, {"kbit_prepared": True}
    # Embeddings and the head are cast to bf16, whatever they were loaded in.
    return model.but(fp32=(*model.fp32, *_norms(model))), {"dtype": "bf16" if comes_back else w.dtype}


def _norms(model: Model) -> tuple[str, ...]:
    """Parts of the names of norms: those that are called so, and layer norms, which have a bias."""
    found = {t.name.rpartition(".")[::2] for t in own_weights(model, lambda t: t.role == "norm")}
    layered = {path.rpartition(".")[2] for path, leaf in found if leaf == "bias"}
    return ("norm", *sorted(f"{name}." for name in layered if "norm" not in name))


def _loss(model: Model, w: Train, stack: Stack, version: Version) -> str | None:
    """The loss when nothing is said; None for what it is without a stack."""
    if w.loss is not None:
        return None
    own = since(version, stack.loss)
    if not own:
        return None if stack.losses[0] == "full" else stack.losses[0]
    plain = w.objective in (None, "sft") and w.kernels in (None, "none") and w.logits_to_keep is None
    return own if plain and model.causal and model.classes is None and own != "full" else None


def _odd(model: Model, said: str) -> bool:
    # Imported late: most stacks have no loss of their own.
    from tonnage.estimate.savers import odd

    return odd(model, said)


def _own(model: Model, w: Train, stack: Stack, version: Version) -> Callable[[str], Own]:
    """The stack's adapters, for weights of a format."""
    from tonnage.estimate.tuning import Own

    lora, asked = stack.lora, w.lora_targets
    beside = since(version, stack.packed_adapters)
    form = beside if beside and w.quant not in (None, "none") else stack.adapters
    base = Own(keeps=stack.keeps_inputs, embeds=since(version, stack.embeds))
    if lora is None:
        return lambda weights: base.but(dtype=form or weights)

    def make(names: frozenset[str], rank: int, dropout: float, dtype: str) -> Method:
        return lora(names, rank, dropout, dtype, asked, model)

    return lambda weights: base.but(dtype=form or weights, make=make)


def _targets(model: Model, asked: tuple[str, ...], stack: Stack) -> tuple[str, ...]:
    """Names of modules as the model has them, for those that are the stack's own."""
    leaves = {t.name.rpartition(".")[0].rpartition(".")[2] for t in own_weights(model, lambda t: t.role != "norm")}
    out: list[str] = []
    for name in asked:
        out += [name] if name in leaves else [n for n in stack.modules.get(name, (name,)) if n in leaves] or [name]
    return tuple(dict.fromkeys(out))
