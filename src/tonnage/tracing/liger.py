"""Liger's kernels over tensors without data: its own ``autograd.Function``s run, and their Triton kernels do not.

A kernel fills tensors that the Python code around it has made, so that the code allocates what it does on a device.
What is replaced is the launch of a kernel and what the code asks of the device. The model is patched by the function
that the Trainer calls.

Reference: https://github.com/linkedin/Liger-Kernel/blob/v0.8.5/src/liger_kernel/transformers/monkey_patch.py
(``_apply_liger_kernel_to_instance``) and https://github.com/triton-lang/triton/blob/v3.4.0/python/triton/runtime/jit.py
(``KernelInterface``).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import torch

from tonnage.arch.experts_fused import tiles
from tonnage.errors import UnsupportedError
from tonnage.tracing.patches import Patches
from tonnage.tracing.stream import LOSS

PACKAGE: Final = "liger-kernel"
LOSSES: Final = {
    # what is asked for: switches of the function that patches a model
    None: {}, "full": {"fused_linear_cross_entropy": False, "cross_entropy": False},
    "fused": {"fused_linear_cross_entropy": True, "cross_entropy": False},
    "liger": {"fused_linear_cross_entropy": False, "cross_entropy": True},
}  # fmt: skip
LOSS_FUNCTION: Final = "LigerForCausalLMLoss"
BLOCKS: Final = ("rope", "rms_norm", "layer_norm", "swiglu", "geglu")
ALIKE: Final = {"rms_norm": ("rms_norm", "layer_norm"), "swiglu": ("swiglu", "geglu")}
"""Switches that go with another."""


def switches(parts: Iterable[str], loss: str | None) -> dict[str, bool]:
    """What ``liger_kernel_config`` would say.

    Args:
        parts: that are replaced of norms, rotary embeddings and gated blocks.
        loss: that is asked for; None for the model's own choice.
    """
    here = {own for part in parts for own in ALIKE.get(part, (part,))}
    return {**LOSSES[loss], **dict.fromkeys((name for name in BLOCKS if name not in here), False)}


def ready(asked: str | None) -> None:
    """Import what looks for a device as it is imported.

    Args:
        asked: a release, such as "0.8.5"; None for the one that is installed.

    Raises:
        UnsupportedError: it is not installed, or another release is.
    """
    hint = f"pip install {PACKAGE}" + (f"=={asked}" if asked else "")
    try:
        found = version(PACKAGE)
        import triton  # noqa: F401
    except (PackageNotFoundError, ImportError) as e:
        raise UnsupportedError(
            f"Liger's kernels are traced with {PACKAGE} and triton, which are not both installed", key="kernels",
            hint=hint,
        ) from e  # fmt: skip
    if asked is not None and found != asked:
        raise UnsupportedError(f"{PACKAGE} {found} is installed, not {asked}", key="kernels", value=asked, hint=hint)
    with contextlib.suppress(ImportError):
        import peft  # noqa: F401


def install(p: Patches, model: Any, job: Mapping[str, Any], modules: list[str]) -> None:
    """Patch a model; call it while torch believes in a device, for which the library settles as it is imported.

    Args:
        p: takes what has to be undone.
        model: whose operations are replaced.
        job: ``parts`` and ``loss`` as ``switches`` takes them, ``processors`` and ``capability`` of the device.
        modules: names of those that run, innermost last: the loss is told as one.
    """
    from triton.runtime.jit import KernelInterface

    p.put(KernelInterface, "__getitem__", lambda self, grid: _unlaunched)
    major, minor = job["capability"]
    told = SimpleNamespace(
        multi_processor_count=job["processors"], major=major, minor=minor, name="device", total_memory=2**36
    )
    p.put(torch.cuda, "get_device_properties", lambda *args, **kwargs: told)
    p.put(torch.cuda, "device", lambda *args, **kwargs: contextlib.nullcontext())
    from liger_kernel.transformers.monkey_patch import _apply_liger_kernel_to_instance

    _spread(p)
    for module in _modules(model):
        _kept(p, module)
    _kept(p, torch.nn.functional)
    _apply_liger_kernel_to_instance(model, **switches(job["parts"], job["loss"]))
    for name, module in list(sys.modules.items()):
        if name.startswith("liger_kernel.transformers.model.") and LOSS_FUNCTION in module.__dict__:
            p.put(module, LOSS_FUNCTION, _named(getattr(module, LOSS_FUNCTION), modules))


def _spread(p: Patches) -> None:
    """Tokens are spread evenly over experts: nobody knows how many tiles they fill where they have no data."""
    try:
        from liger_kernel.ops import fused_moe
    except ImportError:
        return
    whole = fused_moe.compute_routing_metadata

    def spread(chosen: Any, experts: int, *sizes: int) -> Any:
        before = torch.Tensor.item
        torch.Tensor.item = lambda _: tiles(chosen.numel(), experts)
        try:
            return whole(chosen, experts, *sizes)
        finally:
            torch.Tensor.item = before

    p.put(fused_moe, "compute_routing_metadata", spread)


def _named(function: Callable[..., Any], modules: list[str]) -> Callable[..., Any]:
    """A function told as the module of the loss."""

    def named(*args: Any, **kwargs: Any) -> Any:
        modules.append(LOSS)
        try:
            return function(*args, **kwargs)
        finally:
            modules.pop()

    return named


def _unlaunched(*args: Any, **kwargs: Any) -> None:
    """A kernel that does not run."""


def _modules(model: Any) -> list[ModuleType]:
    """Modules of Python that the model's code lies in: some of their functions are replaced."""
    names = {type(m).__module__ for m in model.modules()} | {type(model).__module__}
    return [sys.modules[name] for name in sorted(names) if name.startswith("transformers.")]


def _kept(p: Patches, module: ModuleType) -> None:
    """Have a module's names put back."""
    before = dict(module.__dict__)

    def undo() -> None:
        for name, value in before.items():
            if module.__dict__.get(name) is not value:
                setattr(module, name, value)

    p.later(undo)
