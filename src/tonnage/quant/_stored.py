"""What a scheme maps: one matrix of a model to the tensors that are stored for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from tonnage.arch.model import Model
from tonnage.errors import ConfigError
from tonnage.quant._matching import as_listed, as_modules
from tonnage.record import Record
from tonnage.tensors import Axes, Axis, Role, Tensor

PACKED: Final = "packed values"
SCALES: Final = "scales"
ZEROS: Final = "zero points"
INDICES: Final = "indices"
CODES: Final = "codebooks"
KEPT: Final = "kept"
"""What a stored tensor is to the weight that it stands for."""

PROJECTIONS: Final = frozenset(
    (
        "embeddings_project", "embedding_hidden_mapping_in", "map_inputs_layer", "project_in",
        "per_layer_model_projection", "altup_projections", "altup_unembed_projections",
    )
)  # fmt: skip
"""Matrices beside a table of tokens (ELECTRA, RemBERT, RoCBert, OPT, Gemma 3n and 4): linear modules, which a table is
not."""

Entry = tuple[int, Tensor, "Matrix | None"]
"""How often a tensor stands, the tensor, and the matrix that it is; None for what no scheme packs."""
Stored = tuple[int, Tensor, str]
"""How often a tensor is stored, the tensor, and what it is to its weight."""


class Matrix(Record):
    """A weight ``[*batch, outs, ins]``.

    Args:
        module: full path of the module that owns it.
        role: of its tensor.
        outs: axis of its outputs, merged.
        ins: axis of its inputs, merged.
        batch: axes along which it is stacked: experts, and gate beside up.
        transposed: stored input first.
        linear: whether transformers builds it as a linear module, which stacked experts and GPT-2's matrices are not.
        biased: whether its module has a bias.
        layer: index in its stack.
    """

    module: str
    role: Role
    outs: Axis
    ins: Axis
    batch: Axes = ()
    transposed: bool = False
    linear: bool = True
    biased: bool = False
    layer: int | None = None

    @property
    def rows(self) -> int:
        """Outputs of one matrix of the stack."""
        return self.outs[1]

    @property
    def columns(self) -> int:
        """Inputs."""
        return self.ins[1]


class Part(Record):
    """A tensor stored for a matrix.

    Args:
        name: below the module; a stacked matrix's name takes its place before an underscore.
        axes: behind those of the stack.
        format: of its elements; None for the one that the model is loaded in.
        kind: what it is to the weight.
        shared: one for the whole stack.
    """

    name: str
    axes: Axes
    format: str | None
    kind: str
    shared: bool = False


def up(a: int, b: int) -> int:
    """``a / b``, rounded up."""
    return -(-a // b)


def grid(m: Matrix, rows: int, columns: int) -> Axes:
    """Axes of one number for each block of ``rows`` x ``columns``; 0 stands for all of them."""
    return (
        (m.outs[0], up(m.rows, rows) if rows else 1),
        (m.ins[0], up(m.columns, columns) if columns else 1),
    )


class Recipe(Record):
    """How the weights of one checkpoint, or of one load, are stored.

    Args:
        method: as ``quantization_config`` names it.
        title: in words.
        source: the code that is followed.
        store: the tensors stored for a matrix.
        takes: whether the scheme packs a matrix, beside the lists of names; linear modules where None.
        skips: names of modules that stay as they are.
        adds_default: whether transformers' own list (the head, tied tensors, the last module) stands beside ``skips``;
            None when it stands only where the config has none.
        matching: how names are matched: "modules" as transformers does, "exact" with ``re:`` for expressions.
        itself: whether linear modules of a class of their own are left as they are.
        by_layer: whether layers that are alike in shape may be stored differently.
        bias: format of the biases of packed modules; None for the model's.
        loaded_bias: their format on the device, where a file has another; by name where they differ.
        resident: "packed", or "dense" where the weights are unpacked before they are used.
        saved: the same for its files: "dense" where weights are packed after loading and never written so.
        dtype: the one format in which it computes; None for the model's.
        needs: compute capability below which transformers dequantizes on load.
        unties: whether a head that shares the table of tokens is packed as a matrix of its own.
        trains: how products run while gradients flow: "unpacks" each matrix, "multiplies bytes", or None: not modelled.
        nested: elements that share a scale, where the scales are quantized themselves.
        calibrated: whether only a checkpoint can be in it: it is not made while loading.
        told: caveats.
        plan: how the whole model is stored, where that is not weight by weight.
        ignored: keys that were passed over.
    """

    method: str
    title: str
    source: str
    store: Callable[[Matrix], tuple[Part, ...]] | None = None
    takes: Callable[[Matrix], bool] | None = None
    skips: tuple[str, ...] = ()
    adds_default: bool | None = None
    matching: str = "modules"
    itself: bool = False
    by_layer: bool = False
    bias: str | None = None
    loaded_bias: str | Callable[[str], str] | None = None
    resident: str = "packed"
    saved: str = "packed"
    dtype: str | None = None
    needs: tuple[int, int] | None = None
    unties: bool = False
    trains: str | None = None
    nested: int = 0
    calibrated: bool = False
    told: tuple[str, ...] = ()
    plan: Callable[[Model], Iterator[Stored]] | None = None
    ignored: tuple[str, ...] = ()

    def packs(self, m: Matrix) -> bool:
        """Whether a matrix is of a kind that is packed."""
        return m.linear if self.takes is None else self.takes(m)


class Scheme(Record):
    """One quantization method.

    Args:
        read: a ``quantization_config`` to a recipe; what changes bytes and is not understood is refused.
        source: the code that is followed.
    """

    read: Callable[..., Recipe]
    source: str


def entries(model: Model, *, by_layer: bool) -> list[Entry]:
    """Every tensor of a model under its full name, with the matrix that it is.

    Args:
        model: what is stored.
        by_layer: each layer for itself; else layers that are alike stand once, under the first one's name.
    """
    tops = {stack.path.partition(".")[0] for stack in model.stacks}
    base = tops.pop() + "." if model.head is None and len(tops) == 1 else ""
    out: list[Entry] = []
    for stack in model.stacks:
        found = tuple(stack.weights())
        biases = {t.name for t in found if t.name.endswith("bias")}
        first: dict[int, int] = {}
        times: dict[int, int] = {}
        turned: dict[int, tuple[str, ...]] = {}
        for index, layer in enumerate(stack.layers):
            times[id(layer)] = times.get(id(layer), 0) + 1
            if first.setdefault(id(layer), index) == index:
                turned[id(layer)] = tuple(
                    f".{t.name}"
                    for sub in layer.sublayers
                    if getattr(sub.block, "transposed", False)
                    for t in sub.block.weights()
                    if t.role not in ("router", "shared_expert")
                )
        for t in found:
            n, transposed = 1, False
            if t.layer is not None:
                layer = stack.layers[t.layer]
                if not by_layer and first[id(layer)] != t.layer:
                    continue
                n = 1 if by_layer else times[id(layer)]
                transposed = bool(turned[id(layer)]) and t.name.endswith(turned[id(layer)])
            biased = t.name.removesuffix("weight") + "bias" in biases or t.name + "_bias" in biases
            t = t.below(base) if base else t
            out.append((n, t, matrix(t, transposed, biased)))
    out += [(1, t.below(base) if base else t, matrix(t)) for t in model.extra]
    if model.head is not None:
        found = tuple(model.head.weights())
        biases = {t.name for t in found}
        out += [(1, t, matrix(t, False, t.name.removesuffix("weight") + "bias" in biases)) for t in found]
    return out


def matrix(t: Tensor, transposed: bool = False, biased: bool = False) -> Matrix | None:
    """The matrix that a tensor is: a linear module's weight, or stacked experts; a table of positions is none."""
    module = t.name.removesuffix(".weight")
    if t.role in ("norm", "buffer") or t.alias_of is not None or (t.axes and t.axes[0][0] == "P"):
        return None
    if t.role in ("embedding", "position") and PROJECTIONS.isdisjoint(module.split(".")):
        return None
    if t.role == "expert" and module == t.name:
        return _stacked(t, transposed, biased)
    dims = t.dims or (1,) * len(t.axes)
    if module == t.name or len(dims) != 2:
        return None
    first, last = t.axes[: dims[0]], t.axes[dims[0] :]
    if transposed:
        first, last = last, first
    return Matrix(
        module=module,
        role=t.role,
        outs=_merged(first),
        ins=_merged(last),
        transposed=transposed,
        # A router is a bare parameter, or a module with a linear one in it (JetMoE, LongCat).
        linear=not transposed and (t.role != "router" or ".router." in module),
        biased=biased,
        layer=t.layer,
    )


def _stacked(t: Tensor, transposed: bool, biased: bool) -> Matrix | None:
    if len(t.dims or t.axes) != 3 or t.name.endswith("bias"):
        return None
    batch = tuple(a for i, a in enumerate(t.axes) if not i or a[0] == "X")
    rest = tuple(a for i, a in enumerate(t.axes) if i and a[0] != "X")
    if len(rest) != 2:
        return None
    outs, ins = (rest[1], rest[0]) if transposed else rest
    return Matrix(
        module=t.name,
        role=t.role,
        outs=outs,
        ins=ins,
        batch=batch,
        transposed=transposed,
        linear=False,
        biased=biased,
        layer=t.layer,
    )


def _merged(axes: Axes) -> Axis:
    return axes[0] if len(axes) == 1 else (axes[0][0], math.prod([n for _, n in axes]))


def stored(model: Model, recipe: Recipe, found: list[Entry] | None = None) -> Iterator[Stored]:
    """What is stored for a model's weights and buffers.

    Args:
        model: what is stored.
        recipe: how.
        found: the model's entries, if they are there already.
    """
    if recipe.plan is not None:
        yield from recipe.plan(model)
        return
    yield from _stored(
        entries(model, by_layer=recipe.by_layer) if found is None or recipe.by_layer else found, model, recipe
    )


def as_stored(found: Iterable[Entry], model: Model, recipe: Recipe | None) -> Iterator[Stored]:
    """What is stored for the tensors that are handed, such as one rank's pieces; as they are without a recipe."""
    if recipe is None:
        yield from ((times, t, KEPT) for times, t, _ in found)
    elif recipe.plan is not None:
        yield from recipe.plan(model)
    else:
        cut = [(n, t, None if m is None else matrix(t, m.transposed, m.biased)) for n, t, m in found]
        yield from _stored(cut, model, recipe)


def _stored(found: list[Entry], model: Model, recipe: Recipe) -> Iterator[Stored]:
    store = recipe.store
    assert store is not None
    keeps, bias = skipped(model, recipe), recipe.bias or recipe.loaded_bias
    packed: set[str] = set()
    for times, t, m in found:
        if recipe.unties and t.alias_of is not None and t.role == "head":
            t = Tensor(t.name, t.axes, t.role, t.dims, t.layer)
            m = matrix(t)
        if m is not None and recipe.packs(m) and not keeps(m.module):
            packed.add(m.module)
            for part in store(m):
                axes = part.axes if part.shared else m.batch + part.axes
                join = "_" if m.batch else "."
                name = f"{m.module}{join}{part.name}" if part.name else m.module
                yield times, Tensor(name, axes, t.role, layer=t.layer, dtype=part.format), part.kind
        elif bias is not None and t.name.removesuffix("_bias").removesuffix(".bias") in packed:
            how = bias(t.name) if callable(bias) else bias
            yield times, Tensor(t.name, t.axes, t.role, t.dims, t.layer, t.alias_of, how), KEPT
        else:
            yield times, model.kept(t), KEPT


def packed_modules(model: Model, recipe: Recipe) -> list[str]:
    """Full names of the modules that a recipe packs; of layers that are alike, the first one's."""
    keeps = skipped(model, recipe)
    return [
        m.module
        for _, _, m in entries(model, by_layer=recipe.by_layer)
        if m is not None and recipe.packs(m) and not keeps(m.module)
    ]


def apart(model: Model, recipe: Recipe) -> Iterator[Stored]:
    """How the recipe stores what a checkpoint holds and transformers does not build (multi-token prediction).

    The layer is stored as the others are; the matrix in front of it and its output head stay as they are, as in the
    headers of deepseek-ai/DeepSeek-V3.
    """
    found: list[Entry] = []
    for t in model.apart:
        m = matrix(t)
        found.append((1, t, None if m is None or m.role == "head" or m.module.endswith("eh_proj") else m))
    yield from _stored(found, model, recipe)


def default_skips(model: Model) -> list[str]:
    """What transformers leaves alone unless told: the output head, tied tensors, the module of the last parameter.

    https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/quantizers/base.py,
    ``get_keys_to_not_convert``.
    """
    if model.head is None:
        return []
    tensors = [t for t in model.head.weights() if t.role != "buffer"]
    out = [t.name for t in tensors[-1:]]
    for t in tensors:
        if t.alias_of is not None:
            out += [t.name, t.alias_of]
        elif t.name == f"{model.head.name}.weight" and model.classes is None:
            out.append(t.name)
    return list(dict.fromkeys(name.removesuffix(".weight") for name in out))


def skipped(model: Model, recipe: Recipe) -> Callable[[str], bool]:
    """Whether a module of this name stays as it is."""
    names = list(recipe.skips)
    if recipe.adds_default or (recipe.adds_default is None and not names):
        names += default_skips(model)
    listed = (as_listed if recipe.matching == "exact" else as_modules)(names)
    apart = (*model.plain, *(model.subclassed if recipe.itself else ()))
    if not apart:
        return listed
    return lambda module: listed(module) or any(part in module for part in apart)


def names_of(m: Matrix) -> list[str]:
    """Names of the linear modules that a matrix stands for: its own, or those of the first and the last expert.

    >>> names_of(Matrix(module="mlp.experts.down_proj", role="expert", outs=("D", 1), ins=("F", 1), batch=(("E", 3),)))
    ['mlp.experts.0.down_proj', 'mlp.experts.2.down_proj']
    """
    if not m.batch:
        return [m.module]
    base, _, last = m.module.rpartition(".")
    inner = ("gate_proj", "up_proj") if last == "gate_up_proj" else (last,)
    return [f"{base}.{e}.{name}" for e in (0, m.batch[0][1] - 1) for name in inner]


def numbered(names: Iterable[str]) -> bool:
    """Whether a list of names tells layers apart.

    >>> numbered(["lm_head"]), numbered(["model.layers.0.mlp"])
    (False, True)
    """
    return any(c.isdigit() for n in names for c in n)


def options(config: Mapping[str, object], key: str) -> tuple[str, ...]:
    """A list of names out of a config; empty where it is absent or null."""
    value = config.get(key)
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
        raise ConfigError(f"quantization_config.{key} must be a list of texts", key=key, value=repr(value)[:80])
    return tuple(value)
