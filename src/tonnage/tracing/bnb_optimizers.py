"""bitsandbytes' optimizers over tensors without data: its own Python code, whose kernels have fake ones of their own.

What is replaced is what speaks to a device: memory that host and device share is asked of a C library, and is counted
on the host here.

Reference: https://github.com/bitsandbytes-foundation/bitsandbytes/blob/0.50.2/bitsandbytes/optim/optimizer.py
(``get_state_buffer``, ``init_state``) and functional.py (``get_paged``).
"""

from __future__ import annotations

import sys
from typing import Any, Final

import torch

from tonnage.errors import UnsupportedError
from tonnage.tracing.patches import Patches

KNOWN: Final = ("0.4", "0.5")
"""Releases whose functions are those below."""
MAP: Final = 256
"""Values of 8 bits."""
STAND_IN: Final = ("bitsandbytes", "bitsandbytes.nn")


def made(model: Any, trained: list[Any], name: str, bits: int, *, paged: bool, rate: float) -> Any:
    """An optimizer as the Trainer makes it: tables keep their states in full.

    Raises:
        UnsupportedError: the library is not installed.
    """
    optim = real().optim
    one = getattr(optim, name)(trained, lr=rate, optim_bits=bits, **({"is_paged": True} if paged else {}))
    if bits == 8:
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding) and module.weight.requires_grad:
                one.mng.register_module_override(module, "weight", {"optim_bits": 32})
    return one


def real() -> Any:
    """The library itself, in the place of what stands in for it; import it before torch believes in a device.

    Raises:
        UnsupportedError: it is not installed, or of a release that is not known.
    """
    for name in STAND_IN:
        if getattr(sys.modules.get(name, torch), "__file__", None) is None:
            del sys.modules[name]
    try:
        import bitsandbytes
    except ImportError as e:
        raise UnsupportedError(
            f"the optimizer is traced with bitsandbytes, which cannot be imported: {e}"[:300], key="optimizer",
            hint="pip install bitsandbytes",
        ) from e  # fmt: skip
    if not bitsandbytes.__version__.startswith(KNOWN):
        raise UnsupportedError(
            f"bitsandbytes {bitsandbytes.__version__} is not known to the tracer", key="optimizer",
            hint="pip install bitsandbytes==0.50.2",
        )  # fmt: skip
    # One for the process: what an earlier trace has told it is forgotten.
    bitsandbytes.optim.GlobalOptimManager._instance = None
    return bitsandbytes


def patches(p: Patches, recorder: Any) -> None:
    """Memory that host and device share, counted on the host."""
    functional = sys.modules.get("bitsandbytes.functional")
    if functional is None:
        return

    def get_paged(*shape: int, dtype: torch.dtype = torch.float32, device: Any = None) -> torch.Tensor:
        with recorder.on_host():
            out = torch.empty(*shape, dtype=dtype, device=device)
        out.is_paged, out.page_deviceid = True, 0
        return out

    update = functional.optimizer_update_32bit

    def update_32bit(name: str, grad: Any, of: torch.Tensor, *rest: Any, max_unorm: float = 0.0, **how: Any) -> None:
        # The kernel's argument is read out of this norm, of which a tensor without data tells no number.
        norm = torch.norm(of.data.float()) if max_unorm > 0 else None
        update(name, grad, of, *rest, max_unorm=0.0, **how)
        del norm

    p.put(functional, "optimizer_update_32bit", update_32bit)
    p.put(functional, "get_paged", get_paged)
    # Of the map of formats there is no more to know than its size.
    p.put(functional, "create_dynamic_map", lambda *args, **how: torch.empty(MAP, dtype=torch.float32, device="cpu"))
    p.put(functional, "fill", lambda A, value, device=None, prefetch=True: None)
    p.put(functional, "prefetch_tensor", lambda A, to_cpu=False: None)


def patched_when_used(p: Patches, recorder: Any) -> None:
    """``patches`` once an optimizer is made: code of one's own may import the library while it is traced."""
    before = torch.optim.Optimizer.__init__
    done: list[bool] = []

    def init(self: Any, *args: Any, **how: Any) -> None:
        if not done and "bitsandbytes.functional" in sys.modules:
            done.append(True)
            patches(p, recorder)
        before(self, *args, **how)

    p.put(torch.optim.Optimizer, "__init__", init)
