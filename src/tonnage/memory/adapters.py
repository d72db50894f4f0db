"""Adapters beside the matrices of a frozen model: which matrices have one, and its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tonnage.arch.model import Model
from tonnage.arch.tuning.adapters import Trained
from tonnage.errors import InputError, nearest
from tonnage.memory.adapter_patterns import chosen, is_pattern, resolved
from tonnage.memory.adapter_targets import LORA, PAIRED
from tonnage.memory.weights import is_parameter
from tonnage.tensors import Tensor

if TYPE_CHECKING:
    from tonnage.arch.tuning.tuners import Method
    from tonnage.quant import Entry
    from tonnage.quant._stored import Matrix

Standing = tuple[tuple[Tensor, int], ...]
"""Tensors with how often each stands."""


def targeted(
    model: Model,
    found: Sequence[Entry],
    asked: Sequence[str],
    default: Mapping[str, tuple[str, ...]] = LORA,
    gone: Collection[str] = (),
    *,
    heads: bool = False,
) -> list[tuple[int, Matrix]]:
    """The matrices that get an adapter, with how often each stands.

    Args:
        model: that is adapted.
        found: its entries.
        asked: module names as peft matches them, a pattern over full names, ``attention``, ``all-linear``, or nothing
            for peft's own choice.
        default: that choice by type of model.
        gone: names that mean parameters instead, and no matrix of that name.
        heads: whether all-linear means the head as well.

    Raises:
        InputError: a name matches no matrix, or none is named and none is known for the type.
    """
    # A head is one only by its own name: neither all-linear nor attention means it. What stands before it is none.
    before = () if model.head is None or model.classes is not None else model.head.before()
    matrices = [
        (n, m)
        for n, _, m in found
        if m is not None
        and (heads or m.role != "head" or m.module in before or m.module.rpartition(".")[2] in asked)
        and (m.linear or m.transposed or m.role == "head")
        and not m.batch
    ]
    matrices += [(1, m) for m in _tied(model) if m.module.rpartition(".")[2] in asked]
    if not asked:
        kind = model.whole_type or model.model_type
        asked = default.get(kind, ())
        if not asked:
            raise InputError(
                f"no target modules are known for {kind}", key="lora_targets",
                hint=f"--lora-targets all-linear, attention, or names: {', '.join(_leaves(matrices))}",
            )  # fmt: skip
    if model.model_type in PAIRED and {"all-linear", "router"}.intersection(asked):
        raise InputError(
            f"lora_targets: the router of {model.model_type} is a linear module to peft, and fails in its adapter",
            key="lora_targets", value=",".join(asked),
            hint="name the modules: --lora-targets q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
        )  # fmt: skip
    asked = [name for name in resolved(model, found, asked) if name not in gone]
    only = [m for _, m in matrices]
    tests = [_test(model, only, name, gone, heads, before) for name in asked]
    for name, test in zip(asked, tests, strict=True):
        if not any(test(m) for _, m in matrices):
            leaves = _leaves(matrices)
            raise InputError(
                f"lora_targets: no matrix of {model.name or model.model_type} is called {name!r}", key="lora_targets",
                value=name, nearest=nearest(name, (*leaves, "all-linear", "attention")),
                hint=f"its matrices: {', '.join(leaves)}",
            )  # fmt: skip
        around = [c for c in (m.module.rpartition(".")[0] for m in only) if _called(c, name)]
        if around:
            raise InputError(
                f"lora_targets = {name}: {around[0]} is called so as well, and peft adapts no module around a matrix",
                key="lora_targets", value=name,
                hint=f"--lora-targets '{model.decoder.path}.*{name}' or all-linear",
            )  # fmt: skip
    return [(n, m) for n, m in matrices if any(test(m) for test in tests)]


def _tied(model: Model) -> list[Matrix]:
    """The matrix of a head that shares the embedding's: a module of its own all the same."""
    if model.head is None or model.head.alias_of is None:
        return []
    # Imported late: most targets are no heads.
    from tonnage.quant._stored import matrix

    own = [
        Tensor(t.name, t.axes, t.role, t.dims)
        for t in model.head.weights()
        if t.role == "head" and t.alias_of == model.head.alias_of
    ]
    return [m for m in map(matrix, own) if m is not None]


def _leaves(matrices: list[tuple[int, Matrix]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(m.module.rpartition(".")[2] for _, m in matrices))


def _test(
    model: Model, matrices: Sequence[Matrix], name: str, gone: Collection[str], heads: bool, before: Collection[str]
) -> Callable[[Matrix], bool]:
    if name == "all-linear":
        return lambda m: (heads or m.role != "head" or m.module in before) and m.module.rpartition(".")[2] not in gone
    if name == "attention":
        return lambda m: m.role == "attention"
    if is_pattern(name):
        names = chosen(model, matrices, name)
        return lambda m: m.module in names
    return lambda m: _called(m.module, name)


def _called(module: str, name: str) -> bool:
    """As peft matches a name."""
    return module == name or module.endswith(f".{name}")


def adapters(
    model: Model, targets: Sequence[tuple[int, Matrix]], method: Method, dtype: str
) -> tuple[Standing, Standing]:
    """The tensors beside each matrix with how often they stand: those that are trained, and the others.

    .. math:: r (d_{in} + d_{out})

    for the low-rank methods, and a magnitude for every output with DoRA.

    Args:
        model: that is adapted.
        targets: matrices with how often each stands.
        method: what is trained beside them.
        dtype: format of what is.

    Reference: Hu et al. 2021, arXiv:2106.09685, section 4.1; arch/tuning/tuners.py.
    """
    trained: list[tuple[Tensor, int]] = []
    kept: list[tuple[Tensor, int]] = []
    for times, m in targets:
        (local,) = local_names(model, [m.module])
        for found, tensors in ((trained, method.trained), (kept, method.kept)):
            for beside in tensors(local, (m.outs,), (m.ins,)):
                name, axes = beside[:2]
                form = beside[2] if len(beside) > 2 else dtype
                role = beside[3] if len(beside) > 3 else m.role
                found.append((Tensor(f"{m.module}.{name}", axes, role, layer=m.layer, dtype=form), times))
    return tuple(trained), tuple(kept)


def own_weights(model: Model, wanted: Callable[[Tensor], bool]) -> Iterator[Tensor]:
    """The model's parameters, each layer for itself, that are wanted; a tied head as its table."""
    for stack in model.stacks:
        yield from (t for t in stack.weights() if is_parameter(t) and wanted(t))
    ends = (*model.extra, *(model.head.weights() if model.head is not None else ()))
    yield from (t for t in ends if is_parameter(t) and wanted(t))


def trained_own(model: Model, tensors: Sequence[Tensor], *, copied: bool) -> Trained:
    """Which of the model's own weights are trained, as a pass asks for it."""
    layers: dict[int, set[str]] = {}
    stack = model.decoder
    below = re.compile(rf"{re.escape(stack.path)}\.\d+\.(.+)")
    ends = set()
    for t in tensors:
        match = below.fullmatch(t.name) if t.layer is not None else None
        if match is not None and t.layer is not None:
            layers.setdefault(t.layer, set()).add(match.group(1))
        else:
            ends.add(t.name if copied or t.alias_of is None else t.alias_of)
    # Layers that train alike share one set, so that one account stands for them.
    alike: dict[frozenset[str], frozenset[str]] = {}
    found = [frozenset(layers.get(i, ())) for i in range(len(stack.layers))]
    return Trained(frozenset(ends), tuple(alike.setdefault(names, names) for names in found), copied)


def local_names(model: Model, modules: Sequence[str]) -> frozenset[str]:
    """Names below the layer of modules that are named in full.

    >>> from tonnage.api import load
    >>> local_names(load("llama-3.1-8b"), ["model.layers.0.self_attn.q_proj"])
    frozenset({'self_attn.q_proj'})
    """
    below = []
    for stack in model.stacks:
        # A bare model's names lack the module that holds it.
        top, _, rest = stack.path.partition(".")
        path = rf"(?:{re.escape(top)}\.)?{re.escape(rest)}" if rest else re.escape(top)
        below.append(re.compile(rf"{path}\.\d+\.(.+)"))
    return frozenset(next((m.group(1) for b in below if (m := b.fullmatch(name))), name) for name in modules)
