"""The optimizers that are traced: the libraries' own classes, made as the Trainer makes them.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/trainer_optimizer.py and
trainer.py (``create_optimizer``: tables keep states in full under 8 bits).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

import torch

from tonnage.errors import InputError, UnsupportedError
from tonnage.memory.optimizers import PLACES
from tonnage.record import Record
from tonnage.tracing.patches import Patches

RATE: Final = 1e-4
RANK: Final = 128
GALORE: Final = {"rank": RANK, "update_proj_gap": 200, "scale": 0.25, "proj_type": "std"}

PLAIN: Final = "the optimizer's compiled step is traced as its plain code, which takes more for a moment"

Parameters = list[Any]


class Made(Record):
    """An optimizer.

    Args:
        steppers: objects with ``step`` and ``zero_grad``, in the order in which they step.
        item: what it reads out of its tensors, for those that do: it tells no size.
        plain: its step is compiled, and traced as the code that is written.
        caveat: what has to be said of its step.
        kept: gives state that lies in no ``state``, and the parameter's name; it may die before the trace ends.
        backward: what goes back from the loss, where it is a method of the optimizer's.
    """

    steppers: tuple[Any, ...]
    item: float | None = None
    plain: bool = False
    caveat: str | None = None
    backward: Callable[[Any], None] | None = None
    kept: Callable[[], Iterable[tuple[torch.Tensor, str]]] = tuple


def trained(model: Any) -> Parameters:
    """What is trained, in the order of the model."""
    return [p for p in model.parameters() if p.requires_grad]


def _torch(name: str, **how: Any) -> Callable[[Any], Made]:
    def make(model: Any) -> Made:
        return Made((getattr(torch.optim, name)(trained(model), lr=RATE, **how),))

    return make


def _reading(make: Callable[[Any], Made]) -> Callable[[Any], Made]:
    return lambda model: make(model).but(item=1.0)


def _of(package: str, name: str, **how: Any) -> Callable[[Any], Made]:
    """A class of a library."""

    def make(model: Any) -> Made:
        return Made((getattr(imported(package), name)(trained(model), lr=RATE, **how),))

    return make


def _bitsandbytes(name: str, bits: int, *, paged: bool = False) -> Callable[[Any], Made]:
    def make(model: Any) -> Made:
        from tonnage.tracing.bnb_optimizers import made

        return Made((made(model, trained(model), name, bits, paged=paged, rate=RATE),))

    return make


def _by_format(model: Any) -> Made:
    from tonnage.tracing.older_steps import ByFormat

    return Made((ByFormat(trained(model), lr=RATE),))


def _torchao(name: str) -> Callable[[Any], Made]:
    def make(model: Any) -> Made:
        one = getattr(imported("torchao.optim"), name)(trained(model), lr=RATE)
        return Made((one,), plain=True, caveat=PLAIN)

    return make


def _linear(model: Any) -> set[int]:
    """Matrices of linear modules but the head, by identity."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head}


def _hidden(model: Any) -> set[int]:
    """Every matrix but tables and the head."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    tables = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    outside = {id(m.weight) for m in (*tables, head) if m is not None}
    return {id(p) for p in model.parameters() if p.dim() == 2} - outside


def _split(model: Any, chosen: set[int]) -> tuple[Parameters, Parameters]:
    own = trained(model)
    return [p for p in own if id(p) in chosen], [p for p in own if id(p) not in chosen]


def _muon(model: Any) -> Made:
    wide, rest = _split(model, _hidden(model))
    made = [torch.optim.Muon(wide, lr=RATE)] if wide else []
    return Made((*made, *([torch.optim.AdamW(rest, lr=RATE, fused=True)] if rest else ())))


def _low_rank(
    package: str, name: str, group: Mapping[str, Any] = MappingProxyType({}), **more: Any
) -> Callable[[Any], Made]:
    def make(model: Any) -> Made:
        linear = _linear(model)
        wide, rest = _split(model, linear)
        if not linear:
            raise InputError(
                "the model has no linear modules whose gradients the optimizer would project", key="optimizer",
                hint="--optimizer adamw",
            )  # fmt: skip
        groups = [{"params": rest}, {"params": wide, **GALORE, **group}]
        return Made((getattr(imported(package), name)(groups, lr=RATE, **more),), item=1.0)

    return make


def _q_galore(name: str) -> Callable[[Any], Made]:
    def make(model: Any) -> Made:
        from tonnage.tracing import q_galore

        stepper, kept = getattr(q_galore, name)(model, trained(model), rank=RANK, rate=RATE)
        return Made((stepper,), item=1.0, kept=kept)

    return make


def _schedule_free(name: str) -> Callable[[Any], Made]:
    def make(model: Any) -> Made:
        one = getattr(imported("schedulefree"), name)(trained(model), lr=RATE, foreach=True)
        one.train()
        return Made((one,))

    return make


def _hooked(name: str) -> Callable[[Any], Made]:
    """Optimizers that step in hooks, and have the loss go back by a method of theirs."""

    def make(model: Any) -> Made:
        like, moved = next(model.parameters()), torch.Tensor.cuda
        # What it makes for a device lies where the model does.
        torch.Tensor.cuda = lambda t: like.new_empty(t.shape, dtype=t.dtype)
        try:
            one = getattr(imported("lomo_optim"), name)(model, lr=RATE)
        finally:
            torch.Tensor.cuda = moved
        kept = [held for key, held in vars(one).items() if key.startswith("exp_avg")]
        return Made(
            (), item=1.0, backward=lambda loss: one.fused_backward(loss, RATE),
            kept=lambda: [(t, key) for held in kept for key, t in held.items()],
        )  # fmt: skip

    return make


def _adam_mini(model: Any) -> Made:
    c = model.config.get_text_config()
    one = imported("adam_mini").Adam_mini(
        model.named_parameters(), lr=RATE, dim=c.hidden_size, n_heads=c.num_attention_heads,
        n_kv_heads=c.num_key_value_heads, verbose=False,
    )  # fmt: skip
    return Made((one,), item=1.0)


def imported(package: str) -> Any:
    """A library.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as e:
        name = package.partition(".")[0]
        raise UnsupportedError(
            f"the optimizer is traced with {name}, which cannot be imported: {e}"[:300], key="optimizer",
            hint=f"pip install {PACKAGES.get(name, name)}",
        ) from e  # fmt: skip


PACKAGES: Final = {
    "lion_pytorch": "lion-pytorch", "came_pytorch": "came-pytorch", "galore_torch": "galore-torch",
    "apollo_torch": "apollo-torch", "pytorch_optimizer": "pytorch-optimizer", "adam_mini": "adam-mini",
    "lomo_optim": "lomo-optim", "q_galore_torch": "q-galore-torch",
}  # fmt: skip
"""Names that pip knows, where they are others."""

NEEDS: Final = {
    **dict.fromkeys(PLACES["eight_bit"], "bitsandbytes"), "galore": "galore_torch",
    "galore-8bit": "galore_torch", "apollo": "apollo_torch", "q-galore": "q_galore_torch",
    "q-galore-proj": "q_galore_torch",
}  # fmt: skip
"""Libraries that look for a device as they are imported."""

MOVED: Final = ("grokadamw",)
"""Optimizers whose state moves between host and device, which tensors without a device cannot."""

OPTIMIZERS: Final[dict[str, Callable[[Any], Made]]] = {
    "adamw-fused": _torch("AdamW", fused=True),
    "adamw-foreach": _torch("AdamW", foreach=True),
    "adamw-foreach-2.0": _by_format,
    "adamw-loop": _torch("AdamW", foreach=False, fused=False),
    "adamw-amsgrad": _torch("AdamW", foreach=True, amsgrad=True),
    "sgd": _torch("SGD", foreach=True),
    "sgd-momentum": _torch("SGD", foreach=True, momentum=0.9),
    "rmsprop": _torch("RMSprop", foreach=True),
    "adagrad": _reading(_torch("Adagrad", foreach=True)),
    "nadam": _torch("NAdam", foreach=True),
    "adafactor-torch": _reading(_torch("Adafactor")),
    "muon": _muon,
    "adafactor": _of("transformers.optimization", "Adafactor", scale_parameter=False, relative_step=False),
    "adamw-8bit": _bitsandbytes("AdamW", 8),
    "paged-adamw-8bit": _bitsandbytes("AdamW", 8, paged=True),
    "paged-adamw": _bitsandbytes("AdamW", 32, paged=True),
    "adamw-bnb": _bitsandbytes("AdamW", 32),
    "ademamix": _bitsandbytes("AdEMAMix", 32),
    "ademamix-8bit": _bitsandbytes("AdEMAMix", 8),
    "paged-ademamix": _bitsandbytes("AdEMAMix", 32, paged=True),
    "paged-ademamix-8bit": _bitsandbytes("AdEMAMix", 8, paged=True),
    "lion-bnb": _bitsandbytes("Lion", 32),
    "lion-8bit": _bitsandbytes("Lion", 8),
    "paged-lion": _bitsandbytes("Lion", 32, paged=True),
    "paged-lion-8bit": _bitsandbytes("Lion", 8, paged=True),
    "rmsprop-bnb": _bitsandbytes("RMSprop", 32),
    "rmsprop-8bit": _bitsandbytes("RMSprop", 8),
    "adamw-8bit-ao": _torchao("AdamW8bit"),
    "adamw-4bit-ao": _torchao("AdamW4bit"),
    "adamw-fp8-ao": _torchao("AdamWFp8"),
    "lion": _of("lion_pytorch", "Lion"),
    "came": _of("came_pytorch", "CAME"),
    "schedule-free": _schedule_free("AdamWScheduleFree"),
    "schedule-free-sgd": _schedule_free("SGDScheduleFree"),
    "lamb": _of("pytorch_optimizer", "Lamb"),
    "grokadamw": _of("grokadamw", "GrokAdamW"),
    "adam-mini": _adam_mini,
    "lomo": _hooked("Lomo"),
    "adalomo": _hooked("AdaLomo"),
    "soap": _of("pytorch_optimizer", "SOAP"),
    "shampoo": _of("pytorch_optimizer", "ScalableShampoo", start_preconditioning_step=1),
    "galore": _low_rank("galore_torch", "GaLoreAdamW", no_deprecation_warning=True),
    "galore-8bit": _low_rank("galore_torch", "GaLoreAdamW8bit"),
    "q-galore": _q_galore("packed"),
    "q-galore-proj": _q_galore("projected"),
    "apollo": _low_rank("apollo_torch", "APOLLOAdamW", {"proj": "random", "scale_type": "channel", "scale": 1.0}),
}


def ready(name: str) -> None:
    """Import what an optimizer is made of, before torch believes in a device.

    Raises:
        UnsupportedError: it is not installed.
    """
    if NEEDS.get(name) is not None:
        from tonnage.tracing import bnb_optimizers

        bnb_optimizers.real()
        imported(NEEDS[name])


class _Only:
    """A model of which one parameter is trained."""

    def __init__(self, model: Any, only: Any) -> None:
        self.model = model
        self.only = only

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def parameters(self) -> Parameters:
        return [self.only]

    def named_parameters(self) -> list[tuple[str, Any]]:
        return [(name, p) for name, p in self.model.named_parameters() if p is self.only]


def in_backward(name: str, model: Any) -> Made:
    """An optimizer for every parameter, which steps as soon as its gradient is there, as the Trainer's layerwise ones.

    Raises:
        UnsupportedError: it is not traced, its library is not installed, or it goes back from the loss by itself.
    """
    if name == "q-galore":
        from tonnage.tracing import q_galore

        kept = q_galore.within(model, rank=RANK, rate=RATE)
        return Made((), item=1.0, backward=lambda loss: loss.backward(), kept=kept)
    each = {p: optimizer(name, _Only(model, p)) for p in trained(model)}
    if any(made.backward is not None for made in each.values()):
        raise UnsupportedError(
            f"optimizer = {name} steps in hooks of its own", key="optimizer", value=name,
            hint="leave out optimizer_in_backward",
        )  # fmt: skip

    def step(p: Any) -> None:
        for one in each[p].steppers:
            one.step()
            one.zero_grad()

    for p in each:
        p.register_post_accumulate_grad_hook(step)
    first = next(iter(each.values()))
    return first.but(steppers=(), backward=lambda loss: loss.backward())


def optimizer(name: str, model: Any) -> Made:
    """The optimizer over what is trained; call it before any mode is active, since some read numbers as they are made.

    Raises:
        UnsupportedError: it is not traced, or its library is not installed.
    """
    make = OPTIMIZERS.get(name)
    if make is None:
        raise UnsupportedError(
            f"optimizer = {name} is not traced", key="optimizer", value=name, hint=f"one of {', '.join(OPTIMIZERS)}"
        )
    return make(model)


def patches(p: Patches, made: Made) -> None:
    """What a step needs replaced: random numbers from a generator of a device that is not there, compilation."""
    if made.plain:
        p.put(torch, "compile", lambda function=None, **how: function)
    if "q_galore_torch" in sys.modules:
        from tonnage.tracing import q_galore

        q_galore.patches(p)
    if {"galore_torch", "q_galore_torch"} & set(sys.modules):
        # It waits for the device behind every parameter.
        p.put(torch.cuda, "synchronize", lambda *args, **how: None)
    drawn = sys.modules.get("apollo_torch.random_projector")
    if drawn is not None:
        p.put(drawn, "stable_randn", lambda shape, seed, device=None, dtype=None: torch.empty(
            shape, device=device, dtype=dtype
        ))  # fmt: skip
        p.put(drawn, "next_seed", lambda seed, adv=0: seed + 1)


def states(made: Made, names: Mapping[int, str]) -> Iterator[tuple[torch.Tensor, str]]:
    """State that is there before the first step, with the name of its parameter.

    Args:
        made: the optimizer.
        names: of parameters, by identity.
    """
    yield from made.kept()
    for one in made.steppers:
        for p, held in one.state.items():
            for value in held.values():
                if isinstance(value, torch.Tensor):
                    yield value, names.get(id(p), "")
