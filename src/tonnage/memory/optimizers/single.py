"""Optimizers of libraries of their own, with one or two moments of a parameter.

References: lion-pytorch 0.2.5; schedulefree 1.4.1; Sophia sophia.py (SophiaG, as committed in
https://github.com/Liuhong99/Sophia); pytorch-optimizer 4.1.0 lamb.py; torch-optimi 0.3.3 stableadamw.py; grokadamw
0.1.2; adam-mini 1.1.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from tonnage.errors import UnsupportedError
from tonnage.memory import steps
from tonnage.memory.optimizers import Optimizer, Stored, like
from tonnage.memory.steps import Bound, Group, Trained
from tonnage.tensors import Tensor

FREE: Final = "https://pypi.org/project/schedulefree/1.4.1/"
HESSIAN: Final = "the pass over sampled labels by which the Hessian is estimated every few steps"

HEADS: Final = ("k_proj", "q_proj", "wq", "wk", "query", "key")
"""Parts of names by which Adam-mini knows queries and keys: a value for a head."""
ROWS: Final = (
    "embed", "embd", "wte", "lm_head", "output", "final_layer", "v_proj", "wv", "value", "feed_forward", "linear",
    "mlp", "o_proj", "wo", "attn.proj",
)  # fmt: skip
"""The same of matrices that get a value for a row; the rest gets one for the whole tensor."""


def _stable(t: Tensor) -> Iterator[Stored]:
    """Two moments, what rounding took off, and for the kernel a constant and a sum."""
    yield from like("exp_avg", "exp_avg_sq", "kahan_comp")(t)
    yield "eps_sq", (), None
    yield "mean_square", (("X", 1),), "fp32"


def _stable_fp32(t: Tensor) -> Iterator[Stored]:
    """Nothing is lost in fp32: the kernel is given one byte in its place."""
    for name, axes, form in _stable(t):
        yield (name, (("X", 1),), "uint8") if name == "kahan_comp" else (name, axes, form)


def sophia(t: Tensor, width: int) -> Iterator[Bound]:
    """A ratio by name, then the momentum's sign."""
    n = t.numel * width
    yield "", n, (n, n)
    yield "ratio", n, (n,)
    yield "", n, ()


def grokadamw(t: Tensor, width: int) -> Iterator[Bound]:
    """Copies of three moments, which lie on the host, and the gradient that is stepped with."""
    n = t.numel * width
    for name in ("exp_avg", "exp_avg_sq", "grok_ema"):
        yield name, n, ()
    yield "grok_grad", n, (n,)
    yield "", n, ()


def _adam_mini(t: Tensor, width: int, values: int) -> Iterator[Bound]:
    """A mean of squares for each of so many values, the step of each, and the update with its sign turned."""
    n, few = t.numel * width, values * width
    if _kind(t) == "all":
        yield "h", n, (n,)
        return
    yield "tmp_lr", few, (n,)
    yield "h", few, (few,)
    yield "stepsize", few, ()
    yield "update", n, ()
    yield "", n, ()


def _lamb(trained: Trained) -> Group:
    """Every update, and their norms: each by itself and all in a row, then where none is zero, and the ratios."""
    every = [(t.numel * width, width) for t, width, times in trained for _ in range(times)]
    updates, widths = [n for n, _ in every], [width for _, width in every]
    few = sum(widths)
    yield [*updates, few, *widths, few]
    yield [*updates, few, few, len(every), few, few, max(widths, default=0)]


def _norms(trained: Trained) -> list[int]:
    """Both norms of every parameter and their ratio, which LAMB leaves in its state. [byte]"""
    return [sum(width * times for _, width, times in trained)] * 3


def _kind(t: Tensor) -> str:
    name = "lm_head" if t.role == "head" else t.name.lower()
    if "bias" in name:
        return "all"
    if any(part in name for part in HEADS):
        return "heads"
    return "rows" if t.role == "embedding" or any(part in name for part in ROWS) else "one"


def mini(width: int, heads: int) -> Optimizer:
    """Adam-mini for a residual width and a number of query heads, which it is told.

    Raises:
        UnsupportedError: as the library refuses: its heads do not divide a tensor.
    """
    each = width * width // heads

    def values(t: Tensor) -> int:
        return {"heads": t.numel // each, "rows": t.shape[0], "one": 1, "all": t.numel}[_kind(t)]

    def state(t: Tensor) -> Iterator[Stored]:
        yield "m", t.axes, None
        kind = _kind(t)
        if kind == "heads" and t.numel % each:
            raise UnsupportedError(
                f"adam-mini takes {t.name} for heads of {each:,} elements each, which {t.numel:,} are no multiple of",
                key="optimizer", value="adam-mini", hint="--optimizer adamw",
            )  # fmt: skip
        yield "v" if kind == "all" else "vmean", (("X", values(t)),), None

    return Optimizer(
        "adam-mini", state, steps.looped(lambda t, width: _adam_mini(t, width, values(t))),
        "one moment, and a second one for each head, row or tensor", "https://pypi.org/project/adam-mini/1.1.1/",
    )  # fmt: skip


def _told(trained: Iterable[Tensor]) -> Optimizer:
    """Adam-mini as the model's config tells it."""
    stated = [(dict(t.axes), t) for t in trained]
    widths = [axes["D"] for axes, t in stated if t.role == "embedding" and "D" in axes]
    heads = [axes["N"] for axes, t in stated if t.role == "attention" and "N" in axes]
    if not widths or not heads:
        raise UnsupportedError(
            "adam-mini is told a width and a number of heads, and what is trained has no embedding or no queries",
            key="optimizer", value="adam-mini", hint="--optimizer adamw",
        )  # fmt: skip
    return mini(widths[0], heads[0])


OPTIMIZERS: Final = (
    Optimizer(
        "lion", like("exp_avg"), steps.each(2), "one moment in the parameters' format",
        "https://pypi.org/project/lion-pytorch/0.2.5/",
    ),
    Optimizer(
        "schedule-free", like("z", "exp_avg_sq"), steps.all_at_once(1), "a second copy of the weights and one moment",
        FREE,
    ),
    Optimizer(
        "schedule-free-radam", like("z", "exp_avg_sq"), steps.all_at_once(1),
        "a second copy of the weights and one moment", FREE,
    ),
    Optimizer("schedule-free-sgd", like("z"), steps.nothing, "a second copy of the weights", FREE),
    Optimizer(
        "sophia", like("exp_avg", "hessian"), steps.looped(sophia), "a moment and the Hessian's diagonal",
        "https://github.com/Liuhong99/Sophia/blob/main/sophia.py", rough=HESSIAN,
    ),
    Optimizer(
        "lamb", like("exp_avg", "exp_avg_sq"), _lamb, "two moments in the parameters' format",
        "https://pypi.org/project/pytorch-optimizer/4.1.0/", once=_norms,
    ),
    Optimizer(
        "stable-adamw", _stable, steps.nothing, "two moments, and what rounding took off the weights",
        "https://pypi.org/project/torch-optimi/0.3.3/", in_fp32=_stable_fp32,
    ),
    Optimizer(
        "grokadamw", like("exp_avg", "exp_avg_sq", "grok_ema"), steps.looped(grokadamw),
        "three moments, which lie on the host between steps", "https://pypi.org/project/grokadamw/0.1.2/",
        hosted=lambda t, name: True,
    ),
    mini(1, 1).but(fitted=_told),
)  # fmt: skip
