"""CUDA tensors without CUDA: torch believes that there is a device, and every tensor is fake.

A build of torch for CPUs aborts on the first autograd operation of a CUDA tensor, because no guard for the device is
there. libc10 has one for tests that does nothing, installed when a guard says that there are no devices; a stand-in
that answers zero to everything makes it so. The hooks of CUDA are told apart by a table of functions, of which two are
replaced: that CUDA is built, and that no context exists yet.

All of that is private to a release: the places are known for those in KNOWN, a self-test follows, and what fails is
undone. A build with CUDA needs none of it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any, Final

import torch

from tonnage.tracing.patches import Patches

KNOWN: Final = ("2.13.",)
"""Releases whose tables are laid out as below."""
GUARDS: Final = "_ZN3c104impl26device_guard_impl_registryE"
HOOKS: Final = "_ZN2at6detail12getCUDAHooksEv"
CUDA: Final = 1
"""CUDA's place among the guards: its number as a device type."""
BUILT, CONTEXT = 2, 4
"""Places in the table of the hooks: whether CUDA is built, whether a context exists."""
TABLE: Final = 96
STREAM: Final = "_cuda_getCurrentRawStream"
DECOMPOSED: Final = ("silu_backward", "mish_backward", "native_channel_shuffle")
"""Operations with a kernel for CPUs and a composite one: without CUDA's they would fall apart into others."""

_kept: list[Any] = []
"""What C code points to must outlive it."""


class NotPossibleError(RuntimeError):
    """Fake CUDA cannot be set up here."""


def set_up(p: Patches, capability: tuple[int, int]) -> Any:
    """Make torch believe in a CUDA device; returns the mode under which its tensors are fake.

    Args:
        p: takes what has to be undone.
        capability: of the device.

    Raises:
        NotPossibleError: another release, system, or the self-test fails; all is undone.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    class Faked(FakeTensorMode):  # type: ignore[misc]
        """Starts no device where a list becomes an index, although torch believes that there is one."""

        @property
        def avoid_device_init(self) -> bool:
            return True

    inner = Patches()
    try:
        if not torch.backends.cuda.is_built():
            _pretend(inner)
        mode = Faked(allow_non_fake_inputs=True)
        _python(inner, capability)
        _self_test(mode)
    except NotPossibleError:
        inner.restore()
        raise
    except Exception as e:
        inner.restore()
        raise NotPossibleError(f"{type(e).__name__}: {e}") from e
    p.later(inner.restore)
    return mode


def _pretend(p: Patches) -> None:
    if not torch.__version__.startswith(KNOWN):
        raise NotPossibleError(f"torch {torch.__version__} is not among {', '.join(KNOWN)}x")
    if not sys.platform.startswith("linux"):
        raise NotPossibleError(f"not on {sys.platform}")
    folder = os.path.join(os.path.dirname(torch.__file__), "lib")
    _guard(ctypes.CDLL(os.path.join(folder, "libc10.so")))
    _hooks(ctypes.CDLL(os.path.join(folder, "libtorch_cpu.so")), p)
    found = torch.accelerator.current_accelerator()
    if found is None or found.type != "cuda":
        raise NotPossibleError(f"the accelerator is {found}")


def _guard(c10: ctypes.CDLL) -> None:
    """Have libc10's own guard installed that does nothing."""
    places = (ctypes.c_void_p * 16).in_dll(c10, GUARDS)
    if places[CUDA]:
        return
    zero = ctypes.CFUNCTYPE(ctypes.c_long)(lambda: 0)
    table = (ctypes.c_void_p * 64)(*([ctypes.cast(zero, ctypes.c_void_p).value] * 64))
    stand_in = (ctypes.c_void_p * 4)(ctypes.addressof(table), 0, 0, 0)
    _kept.extend((zero, table, stand_in))
    before, places[CUDA] = places[CUDA], ctypes.addressof(stand_in)
    torch._C._ensureCUDADeviceGuardSet()
    if places[CUDA] == ctypes.addressof(stand_in):
        places[CUDA] = before
        raise NotPossibleError("no guard for fake devices was installed")


def _hooks(library: ctypes.CDLL, p: Patches) -> None:
    """Two answers of CUDA's hooks."""
    get = getattr(library, HOOKS)
    get.restype = ctypes.c_void_p
    hooks = ctypes.c_void_p.from_address(get())
    before = hooks.value
    if before is None:
        raise NotPossibleError("CUDA's hooks have no table")
    table = (ctypes.c_void_p * TABLE)(*((ctypes.c_void_p * TABLE).from_address(before)))
    true, false = (ctypes.CFUNCTYPE(ctypes.c_bool)(lambda answer=answer: answer) for answer in (True, False))
    table[BUILT] = ctypes.cast(true, ctypes.c_void_p).value
    table[CONTEXT] = ctypes.cast(false, ctypes.c_void_p).value
    _kept.extend((table, true, false))
    hooks.value = ctypes.addressof(table)

    def undo() -> None:
        hooks.value = before

    # Left in place, the process would crash when it ends.
    p.later(undo)


def _python(p: Patches, capability: tuple[int, int]) -> None:
    """What torch's Python code asks of the device."""
    import torch.cuda.amp.common

    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda *args, **kwargs: capability,
        "is_bf16_supported": lambda *args, **kwargs: capability >= (8, 0),
        "is_current_stream_capturing": lambda: False,
        "synchronize": lambda *args, **kwargs: None,
        "empty_cache": lambda: None,
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
    }
    for name, answer in answers.items():
        p.put(torch.cuda, name, answer)
    # Else autocast turns itself off.
    p.put(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    before = torch.autograd.is_multithreading_enabled()
    # A thread for the device would be outside of the mode.
    torch.autograd.set_multithreading_enabled(False)
    p.later(lambda: torch.autograd.set_multithreading_enabled(before))
    if not hasattr(torch._C, STREAM):
        # Libraries look for it as they are imported, once a device is there.
        setattr(torch._C, STREAM, lambda device=0: 0)
        p.later(lambda: delattr(torch._C, STREAM))
    if not torch.backends.cuda.is_built():
        library = torch.library.Library("aten", "IMPL")
        for name in DECOMPOSED:
            like = (lambda x, g: torch.empty_like(x)) if name == "native_channel_shuffle" else _like_second
            library.impl(name, like, "CUDA")
        p.later(library._destroy)


def _like_second(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def _self_test(mode: Any) -> None:
    """A product and its backward pass under autocast, and a list as an index, give what they give on a device."""
    with mode:
        w = torch.empty(4, 4, device="cuda", requires_grad=True)
        x = torch.empty(2, 4, device="cuda")
        with torch.autocast("cuda", dtype=torch.bfloat16):
            y = torch.nn.functional.linear(x, w)
        if y.dtype is not torch.bfloat16 or y.device.type != "cuda":
            raise NotPossibleError(f"autocast gives {y.dtype} on {y.device}")
        y[:, [0, 1]].float().sum().backward()
        if w.grad is None or w.grad.device.type != "cuda":
            raise NotPossibleError("no gradient on the device")
