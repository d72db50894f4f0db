"""What a stack of frames tells about the tensor that it made: which component, and where in the user's program.

Rules over the names of PyTorch's and transformers' own functions (torch 2.13, transformers 5): they name what code ran,
and so are an attribution, not a fact of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from tonnage.history import UNTOLD, Book

BACKWARD: Final = "other:backward pass"
STEP: Final = "other:optimizer step"
NO_STACK: Final = "other:no stack"
RULES: Final = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"getNewWorkspace|getCUDABlasLtWorkspace|createCublasHandle|allocateWorkspace|cudnn.*[wW]orkspace",
         "workspace"),
        (r"ProcessGroupNCCL|distributed/(distributed_c10d|_functional_collectives)|fsdp.*(all_gather|reduce_scatter)",
         "communication"),
        (r"(torch|bitsandbytes|transformers|apex)/optim\w*/.*(_init_group|init_state|init_empty_state)",
         "optimizer_state"),
        (r"optim/optimizer\.py.*\bzero_grad|clip_grad", STEP),
        (r"(torch|bitsandbytes|apex)/optim\w*/|Optimizer\.step", STEP),
        (r"AccumulateGrad", "gradients"),
        (r"cache_utils\.py.*\b(update|lazy_initialization|__init__)\b|allocate_kv_cache|_allocate_kv|KVCache",
         "kv_cache"),
        (r"_engine_run_backward|torch/_tensor\.py.*\bbackward|autograd::[Ee]ngine|Backward\d*(_\d+)?$"
         r"|autograd/__init__\.py", BACKWARD),
        (r"cross_entropy|nll_loss|CrossEntropyLoss|loss_utils\.py|modules/loss\.py|aten::_?log_softmax", "loss"),
        (r"utils/data/|data_collator|_fetch_dataset", "inputs"),
        (r"_call_impl|\bforward\b|nn\.Module: ", "activations"),
        (r"reset_parameters|_apply\b|from_pretrained|modeling_utils\.py|core_model_loading|nn/modules/.*__init__"
         r"|nn/init\.py|nn/parameter\.py|load_state_dict", "weights"),
    )
)  # fmt: skip
"""The first rule of which any frame of a stack tells decides; patterns over ``file:line function``."""
PYTHON: Final = re.compile(r"\.py:\d+ |\.py\(\d+\): |<ipython-input|ipykernel_|<stdin>|<string>:")
"""A frame of Python, as a snapshot or a Chrome trace has it."""
LIBRARY: Final = re.compile(r"(^|/)(torch|einops|contextlib\.py|functools\.py)(/|:|\(|$)|<frozen ")
"""Frames that tell nothing of the user's program."""
NONE: Final = len(RULES)
CATEGORIES: Final = {
    "input": "inputs", "temporary": "other:temporary", "activation": "activations", "gradient": "gradients",
    "autograd_detail": "other:autograd detail", "parameter": "weights", "optimizer_state": "optimizer_state",
}  # fmt: skip
"""Categories of ``torch.profiler._memory_profiler``, to names of components."""


class Told(NamedTuple):
    """What a stack tells: the component, and the innermost line outside of PyTorch."""

    name: str
    where: str


class Frames:
    """Reads stacks; each frame and each different stack once."""

    def __init__(self) -> None:
        self._rules: dict[str, int] = {}
        self._told: dict[tuple[str, ...], Told] = {}
        self._kept: dict[tuple[str, ...], tuple[str, ...]] = {}

    def kept(self, stack: Sequence[str]) -> tuple[str, ...]:
        """The stack, one object for all that are equal."""
        key = tuple(stack)
        return self._kept.setdefault(key, key)

    def stacks(self) -> Iterable[tuple[str, ...]]:
        """Every different one."""
        return self._kept

    def told(self, stack: tuple[str, ...]) -> Told:
        """What it tells; innermost frame first."""
        found = self._told.get(stack)
        if found is None:
            own = next((f for f in stack if PYTHON.search(f) and not LIBRARY.search(f)), "")
            found = self._told[stack] = Told(self.component(stack), own)
        return found

    def component(self, stack: Sequence[str]) -> str:
        """The component that a stack's allocation stands for.

        >>> Frames().component(("torch/nn/functional.py:3079 cross_entropy", "train.py:12 <module>"))
        'loss'
        >>> Frames().component(("/lib/torch/optim/adamw.py:185 _init_group", "torch/optim/adamw.py:227 step"))
        'optimizer_state'
        """
        if not stack:
            return NO_STACK
        first = self.rule_of(stack)
        return RULES[first][1] if first < NONE else UNTOLD

    def rule_of(self, stack: Sequence[str]) -> int:
        """The first rule that any frame meets; ``NONE`` where none does."""
        return min(map(self.rule, stack), default=NONE)

    def rule(self, frame: str) -> int:
        """The first rule that a frame meets; ``NONE`` where it meets none."""
        found = self._rules.get(frame)
        if found is None:
            found = next((i for i, (pattern, _) in enumerate(RULES) if pattern.search(frame)), NONE)
            self._rules[frame] = found
        return found


def gradients(book: Book, zeroed: set[int]) -> None:
    """Names what the backward pass leaves: what ``zero_grad`` frees, and what is alive in the optimizer's step.

    The stack of a backward pass ends in the engine and does not tell which of its tensors is a gradient.
    """
    stepping = [i for i, n in enumerate(book.order) if n >= 0 and book.lives[n].name in ("optimizer_state", STEP)]
    born = {n: i for i, n in enumerate(book.order) if n >= 0}
    dies = {~n: i for i, n in enumerate(book.order) if n < 0}
    last = stepping[-1] if stepping else -1
    following = _next(stepping, len(book.order))
    for n in born:
        if book.lives[n].name != BACKWARD:
            continue
        step = following[born[n]]
        outlives = step is not None and dies.get(n, len(book.order)) > step and born[n] < last
        if n in zeroed or outlives:
            book.lives[n] = book.lives[n]._replace(name="gradients")


def _next(marks: Sequence[int], size: int) -> list[int | None]:
    """For every position the first mark behind it."""
    found: list[int | None] = [None] * size
    following, left = None, list(marks)
    for i in range(size - 1, -1, -1):
        found[i] = following
        if left and left[-1] == i:
            following = left.pop()
    return found
