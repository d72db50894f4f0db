"""mamba-ssm, flash-linear-attention and causal-conv1d over tensors without data: their own ``autograd.Function``s run,
their kernels do not.

What Triton would launch is not launched, as with Liger's. The two extensions in C++ have stand-ins here that make what
theirs make: https://github.com/state-spaces/mamba/blob/v2.3.2.post1/csrc/selective_scan/selective_scan.cpp
(``selective_scan_fwd``, ``selective_scan_bwd``) and https://github.com/Dao-AILab/causal-conv1d/blob/v1.6.1.post4/csrc/
causal_conv1d.cpp, which makes nothing. So the packages' Python code is enough, without a compiler of CUDA.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import torch

from tonnage.errors import UnsupportedError
from tonnage.tracing.patches import Patches

PACKAGES: Final = {
    "mamba-ssm": ("mamba_ssm", "causal_conv1d", "triton", "einops"),
    "fla": ("fla", "causal_conv1d", "triton", "einops"),
}  # fmt: skip
INSTALLS: Final = {"mamba-ssm": "mamba-ssm causal-conv1d", "fla": "flash-linear-attention fla-core causal-conv1d"}
PATHS: Final = {
    "mamba_inner_fn": "mamba_ssm.ops.selective_scan_interface",
    "selective_scan_fn": "mamba_ssm.ops.selective_scan_interface",
    "mamba_split_conv1d_scan_combined": "mamba_ssm.ops.triton.ssd_combined",
    "mamba_chunk_scan_combined": "mamba_ssm.ops.triton.ssd_combined",
    "chunk_gated_delta_rule": "fla.ops.gated_delta_rule",
    "causal_conv1d_fn": "causal_conv1d",
}
"""Where transformers takes a function from (``_KERNELS_INTERNAL_PATH_MAPPINGS`` of integrations/hub_kernels.py)."""
NAMES: Final = {
    "mamba_inner_fn": "mamba_inner_fn", "mamba_selective_scan": "selective_scan_fn",
    "mamba2_split_conv1d_scan_combined": "mamba_split_conv1d_scan_combined",
    "mamba2_chunk_scan": "mamba_chunk_scan_combined", "causal_conv1d_fn": "causal_conv1d_fn",
    "torch_chunk_gated_delta_rule": "chunk_gated_delta_rule",
}  # fmt: skip
"""What a function is called in a modeling file, and in the package."""
SCANNED: Final = 2048


def ready(package: str) -> None:
    """Import the packages, with stand-ins for what is compiled.

    Args:
        package: whose kernels are asked for.

    Raises:
        UnsupportedError: one is not installed.
    """
    missing = [name for name in PACKAGES[package] if find_spec(name) is None]
    if missing:
        raise UnsupportedError(
            f"the kernels of {package} are traced with their own Python code: {', '.join(missing)} is not installed",
            key="kernels", value=package,
            hint="MAMBA_SKIP_CUDA_BUILD=TRUE CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE pip install --no-build-isolation "
            f"--no-deps {INSTALLS[package]} einops",
        )  # fmt: skip
    for name, functions in (
        ("selective_scan_cuda", {"fwd": _scan, "bwd": _scan_back}),
        ("causal_conv1d_cuda", dict.fromkeys(("causal_conv1d_fwd", "causal_conv1d_bwd", "causal_conv1d_update"))),
    ):
        if name not in sys.modules and find_spec(name) is None:
            module = ModuleType(name)
            module.__dict__.update(functions)
            sys.modules[name] = module
    # The package's own root imports whole models; the functions lie below it.
    if package == "mamba-ssm" and "mamba_ssm" not in sys.modules:
        _shell("mamba_ssm")
    for path in _paths(package).values():
        import_module(path)


def _paths(package: str) -> dict[str, str]:
    """Where the functions of a package lie, and the convolution's."""
    own = PACKAGES[package][0]
    return {name: path for name, path in PATHS.items() if path.partition(".")[0] in (own, "causal_conv1d")}


def _shell(name: str) -> None:
    found = find_spec(name)
    assert found is not None
    module = ModuleType(name)
    module.__path__ = list(found.submodule_search_locations or ())
    module.__spec__ = found
    sys.modules[name] = module


def install(p: Patches, model: Any, package: str, processors: int) -> None:
    """Have a model's mixers run by the packages' functions.

    Args:
        p: takes what has to be undone.
        model: whose code is patched.
        package: whose functions.
        processors: multiprocessors of the device.
    """
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.jit import KernelInterface

    p.put(KernelInterface, "__getitem__", lambda self, grid: _unlaunched)
    told = SimpleNamespace(multi_processor_count=processors, major=9, minor=0, name="device", total_memory=2**36)
    p.put(torch.cuda, "get_device_properties", lambda *args, **kwargs: told)
    p.put(torch.cuda, "device", lambda *args, **kwargs: contextlib.nullcontext())
    paths = _paths(package)
    for module in [m for name, m in list(sys.modules.items()) if name.startswith("mamba_ssm.ops.triton")]:
        for tuned in [v for v in vars(module).values() if isinstance(v, Autotuner)]:
            # How many of the sums in parts are read; it decides the size of nothing.
            tuned.best_config = tuned.configs[0]
    for module, name in _functions(model):
        if NAMES[name] in paths:
            p.put(module, name, _called(getattr(import_module(paths[NAMES[name]]), NAMES[name])))
    for module in [m for name, m in list(sys.modules.items()) if name.startswith("fla.")]:
        if hasattr(module, "check_shared_mem"):
            p.put(module, "check_shared_mem", lambda *args: True)


def in_torch(p: Patches, model: Any) -> None:
    """Have a model's mixers run in operations of torch, though transformers found a package as it was imported."""
    for module, name in _functions(model):
        p.put(module, name, inspect.unwrap(getattr(module, name)))


def _functions(model: Any) -> Iterator[tuple[ModuleType, str]]:
    """Modeling files of a model, each with the functions for which transformers looks for a package."""
    for module in {sys.modules[type(m).__module__] for m in model.modules()}:
        if module.__name__.startswith("transformers."):
            yield from ((module, name) for name in NAMES if hasattr(module, name))


def _called(function: Any) -> Any:
    """As transformers calls it: without the arguments that it does not have."""
    takes = frozenset(inspect.signature(function).parameters)

    def called(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **{k: v for k, v in kwargs.items() if k in takes})

    return called


def _unlaunched(*args: Any, **kwargs: Any) -> None:
    """A kernel that does not run."""


def _scan(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, z: Any, bias: Any, softplus: bool) -> list[Any]:
    outz = [torch.empty_like(z)] if z is not None else []
    out = torch.empty_like(delta)
    chunks = -(-u.shape[2] // SCANNED)
    x = torch.empty((u.shape[0], u.shape[1], chunks, A.shape[1] * 2), dtype=A.dtype, device=u.device)
    return [out, x, *outz]


def _scan_back(
    u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, z: Any, bias: Any, dout: Any, x: Any, out: Any, dz: Any,
    softplus: bool, again: bool,
) -> list[Any]:  # fmt: skip
    if z is not None and dz is None:
        dz = torch.empty_like(z)
    outz = torch.empty_like(out) if z is not None and again else None
    du, ddelta, dA = torch.empty_like(u), torch.empty_like(delta), torch.zeros_like(A)
    dB, dC = (torch.zeros_like(v, dtype=torch.float32 if v.dim() >= 3 else v.dtype) for v in (B, C))
    dD = torch.zeros_like(D) if D is not None else None
    dbias = torch.zeros_like(bias) if bias is not None else None
    made = [du, ddelta, dA, dB.to(B.dtype), dC.to(C.dtype), dD, dbias]
    return [*made, *([dz] if z is not None else []), *([outz] if again else [])]
