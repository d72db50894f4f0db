"""Target modules as one regular expression over full names, which peft takes in place of a list.

Reference: peft 0.21.2, tuners/tuners_utils.py (``check_target_module_exists``: ``re.fullmatch`` where
``target_modules`` is a text) and utils/transformers_weight_conversion.py (``_resolve_string_target_modules``: for types
whose experts transformers 5 stacks, the last parts of the names that it matches stand in its place).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tonnage.arch.model import Model
from tonnage.errors import ConfigError, InputError, UnsupportedError
from tonnage.memory.adapter_targets import STACKED
from tonnage.tensors import Tensor

if TYPE_CHECKING:
    from tonnage.quant import Entry
    from tonnage.quant._stored import Matrix

NAME: Final = re.compile(r"[\w.-]*")


def is_pattern(name: str) -> bool:
    """Whether a target is a pattern, and no name.

    >>> is_pattern("self_attn.q_proj"), is_pattern(".*q_proj")
    (False, True)
    """
    return NAME.fullmatch(name) is None


def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern that ends in bounded time, by the rule for those of quantization.

    Raises:
        InputError: no regular expression, or one that may take long.
    """
    # Imported late: most targets are names.
    from tonnage.quant._matching import expression

    try:
        return expression(pattern)
    except ConfigError as e:
        raise InputError(
            f"lora_targets: {e}", key="lora_targets", value=pattern[:60], hint="list the names of the modules instead"
        ) from None


def chosen(model: Model, matrices: Sequence[Matrix], pattern: str) -> frozenset[str]:
    """Full names of the matrices that a pattern means, of those that stand for layers that are alike.

    Raises:
        InputError: no regular expression.
        UnsupportedError: it takes a module of one layer, and leaves that of another which is alike.
    """
    from tonnage.memory.adapters import local_names

    whole = compiled(pattern)
    names = frozenset(m.module for m in matrices if whole.fullmatch(m.module))
    taken = {name for module in names for name in local_names(model, [module])}
    for m in matrices:
        (local,) = local_names(model, [m.module])
        if local in taken and any(whole.fullmatch(name) is None for name in _alike(model, m)):
            raise UnsupportedError(
                f"lora_targets = {pattern[:60]!r} adapts {local} in some layers alone, which is not modelled",
                key="lora_targets", value=pattern[:60], hint=f"--lora-targets {local.rpartition('.')[2]} takes all",
            )  # fmt: skip
    return names


def resolved(model: Model, found: Sequence[Entry], asked: Sequence[str]) -> tuple[str, ...]:
    """Targets with a pattern as last parts of names, for types whose experts are stacked; else as they are.

    Raises:
        InputError: a pattern beside names, or no regular expression.
    """
    if not any(map(is_pattern, asked)):
        return tuple(asked)
    if len(asked) > 1:
        first = next(filter(is_pattern, asked))
        raise InputError(
            f"lora_targets: {first[:60]!r} is a pattern, which peft takes alone, and {len(asked) - 1} more are named",
            key="lora_targets", value=first[:60], hint="one pattern, or names",
        )  # fmt: skip
    mapping = STACKED.get(model.model_type, {})
    if not mapping:
        return tuple(asked)
    whole = compiled(asked[0])
    modules = [m.module for _, _, m in found if m is not None]
    out = [module.rpartition(".")[2] for module in modules if whole.fullmatch(module)]
    for old, new in mapping.items():
        inside = (module.rpartition(".")[0] for module in modules if module.rpartition(".")[2] == new)
        if any(whole.fullmatch(f"{container}.{old}") for container in inside):
            out.append(old)
    return tuple(dict.fromkeys(out)) or tuple(asked)


def passed_over(model: Model, asked: Sequence[str]) -> tuple[str, ...]:
    """Names of a list that no module of the model has, where another has one: peft takes what there is.

    Reference: peft 0.21.2, tuners/tuners_utils.py (``inject_adapter`` fails where nothing at all was found).
    """
    # Imported late: most workloads name what is there.
    from tonnage.quant import entries

    modules = [m.module for _, _, m in entries(model, by_layer=False) if m is not None]
    modules += [t.name.removesuffix(".weight") for t in (*model.decoder.stem.weights(), *_heads(model))]
    known = (*STACKED.get(model.model_type, {}), "all-linear", "attention")
    missing = tuple(
        name
        for name in asked
        if not is_pattern(name)
        and name not in known
        and not any(module == name or module.endswith(f".{name}") for module in modules)
    )
    return missing if len(missing) < len(asked) else ()


def _heads(model: Model) -> tuple[Tensor, ...]:
    return tuple(model.head.weights()) if model.head is not None else ()


def of_peft(targets: Sequence[str]) -> list[str] | str | None:
    """Targets as peft's config takes them.

    >>> of_peft(["q_proj"]), of_peft([".*q_proj"]), of_peft(["all-linear"]), of_peft([])
    (['q_proj'], '.*q_proj', 'all-linear', None)
    """
    alone = len(targets) == 1 and (targets[0] == "all-linear" or is_pattern(targets[0]))
    return targets[0] if alone else list(targets) or None


def _alike(model: Model, m: Matrix) -> list[str]:
    """A matrix's full names in all layers that are the object that holds it."""
    for stack in model.stacks:
        for path in (stack.path, stack.path.partition(".")[2]):
            head = f"{path}.{m.layer}."
            if path and m.layer is not None and m.module.startswith(head):
                layer = stack.layers[m.layer]
                below = m.module.removeprefix(head)
                return [f"{path}.{i}.{below}" for i, other in enumerate(stack.layers) if other is layer]
    return [m.module]
