"""Every storage's birth and death, seen from beneath autograd.

A storage's first appearance as an output is its birth; a weak reference tells its death. Modules are known from hooks,
in a backward pass from the sequence number of the node, which is that of the forward operation it came from.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass_type

from tonnage.tracing import flash_kernels
from tonnage.tracing.inplace import InPlace
from tonnage.tracing.needs import declared
from tonnage.tracing.scratch import SCRATCHES, WORKSPACED
from tonnage.tracing.stream import GRADIENT, LAYER, OTHER, OUTSIDE, PHASE, SCRATCH, STATE, WORKSPACE, Born, Mark

DEVICE_OF: Final = torch.ops.prim.device.default
KERNELS: Final = {**SCRATCHES, **flash_kernels.SCRATCHES}
GROUPED: Final = torch.ops.aten._grouped_mm.default
SCATTERED: Final = torch.ops.aten.masked_scatter_backward.default
PICKED: Final = torch.ops.aten.index.Tensor
READS: Final = frozenset((torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default))


class Recorder(TorchDispatchMode):  # type: ignore[misc]
    """A mode under which operations run and are recorded.

    Args:
        devices: types of device whose storages count.
        workspace: that a thread takes at its first matrix product. [byte]
        item: what reading a number out of a tensor gives; None stops there.
    """

    def __init__(self, devices: frozenset[str], workspace: int = 0, item: float | None = None) -> None:
        super().__init__()
        self.devices = devices
        self.workspace = workspace
        self.item = item
        self.born: list[Born] = []
        self.order: list[int] = []
        self.marks: list[Mark] = []
        self.phase = ""
        self.stepped = False
        """Whether the optimizer is through, and what is made is no state of it."""
        self.layer = OUTSIDE
        self.modules: list[str] = []
        self.outside = ""
        self.dispatched = 0
        self.resized: set[str] = set()
        self.host = 0
        """What is held in memory that host and device share. [byte]"""
        self._hosted = False
        self.seen: int | None = None
        """How many places of a mask are set by which rows are picked."""
        self.inplace = InPlace()
        self.layer_of: Callable[[str], int] = lambda name: OUTSIDE
        self.phase_of: Callable[[bool], None] | None = None
        self.parameters: dict[int, str] = {}
        self._known: dict[int, int] = {}
        self._watched: dict[int, Any] = {}
        self._made_by: dict[int, str] = {}
        self._last_made = -1
        self._last_node = ("", "")
        self._threads: set[bool] = set()
        self._leaving = False
        self._unowned: list[int] = []
        self._plain: set[Any] = set()

    # What the loops tell.

    def enter(self, phase: str) -> None:
        """A phase begins."""
        self.phase = phase
        self.stepped = False
        self.layer = OUTSIDE
        self.outside = ""
        self._leaving = False
        self._unowned.clear()
        self.marks.append(Mark(len(self.order), PHASE, phase))

    def at(self, layer: int) -> None:
        """A layer begins, or the last one is through."""
        if layer != self.layer:
            self.layer = layer
            self.marks.append(Mark(len(self.order), LAYER, layer))

    def leave(self) -> None:
        """The last layer is through: what still dies is its own, the next operation is not."""
        self._leaving = True

    def there(self, tensor: torch.Tensor, kind: str, module: str) -> None:
        """A tensor that was made before, outside of the mode's sight, or just now: what it is for."""
        self.is_for(tensor, kind)
        self._see(tensor, kind, module, kind, self.layer_of(module), "")

    def is_for(self, tensor: torch.Tensor, kind: str) -> None:
        """What a storage that has been seen is for."""
        n = self._known.get(tensor.untyped_storage()._cdata)
        if n is not None and self.born[n].kind != kind:
            self.born[n] = self.born[n]._replace(kind=kind)

    def alive(self, tensor: torch.Tensor) -> bool:
        """Whether this tensor's storage has been seen."""
        return tensor.untyped_storage()._cdata in self._known

    # Births and deaths.

    def _see(self, t: torch.Tensor, op: str, module: str, kind: str, layer: int, node: str) -> None:
        storage = t.untyped_storage()
        key = storage._cdata
        n = self._known.get(key)
        if n is not None:
            if storage.nbytes() != self.born[n].size:
                self.resized.add(op)
            return
        n = len(self.born)
        dtype = str(t.dtype)[6:]
        self.born.append(Born(storage.nbytes(), op, module, kind, layer, tuple(t.shape), dtype, node))
        self._known[key] = n
        self.order.append(n)
        self._watched[n] = weakref.ref(storage, self._death(n, key))

    def _death(self, n: int, key: int) -> Callable[[Any], None]:
        def dead(_: Any) -> None:
            if self._known.get(key) == n:
                del self._known[key]
            self._watched.pop(n, None)
            self.order.append(~n)

        return dead

    def passing(self, sizes: Sequence[int], op: str, kind: str) -> None:
        """Memory that no tensor holds: scratch is gone at once, a workspace stays. [byte]"""
        module = self.modules[-1] if self.modules else self._last_node[1]
        born = []
        for size in sizes:
            if size > 0:
                born.append(len(self.born))
                self.born.append(Born(size, op, module, kind, self.layer, (size,), "uint8", ""))
                self.order.append(born[-1])
        if kind == SCRATCH:
            self.order += [~n for n in reversed(born)]

    def _kernel(self, op: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        """What the kernel of an operation takes for itself."""
        scratch = KERNELS.get(op)
        if scratch is not None and self._counts(out):
            self.passing(scratch(args, kwargs), op, SCRATCH)

    @contextmanager
    def on_host(self) -> Iterator[None]:
        """What is made lies in memory that host and device share: it is summed up, and no event."""
        self._hosted = True
        try:
            yield
        finally:
            self._hosted = False

    # Where an operation stands.

    def _place(self, backward: bool) -> tuple[str, str]:
        """Module and autograd node of the operation at hand."""
        made = torch._C._autograd._get_sequence_nr()
        if self.modules or not backward:
            module = self.modules[-1] if self.modules else self.outside
            for n in range(max(self._last_made, made - 4, 0), made):
                self._made_by[n] = module
            self._last_made = made
            return module, ""
        self._last_made = made
        node = torch._C._current_autograd_node()
        if node is None:
            # The engine's own: it adds up what came from several nodes.
            return self._last_node[1], f"accumulate, {self._last_node[0]}"
        name = str(node.name())
        if name.endswith("AccumulateGrad"):
            self._last_node = ("AccumulateGrad", self.parameters.get(id(node.variable), ""))
            return self._last_node[1], "AccumulateGrad"
        self._last_node = (name, self._made_by.get(node._sequence_nr(), ""))
        self._move(self.layer_of(self._last_node[1]))
        return self._last_node[1], name

    def _move(self, layer: int) -> None:
        """The backward pass reaches another layer; what is outside between two layers belongs to the one before."""
        if layer != OUTSIDE or self.layer == 0:
            self.at(layer)

    def _made_of_others(self, kind: Any) -> bool:
        if is_traceable_wrapper_subclass_type(kind):
            return True
        self._plain.add(kind)
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is DEVICE_OF:
            return func(*args, **kwargs)
        if any(t not in self._plain and self._made_of_others(t) for t in types):
            # A tensor made of others: its own code runs first, and what it calls comes here.
            return NotImplemented
        if self._hosted:
            out = func(*args, **kwargs)
            self.host += sum(t.untyped_storage().nbytes() for t in tensors(out))
            return out
        self.dispatched += 1
        if self._leaving:
            self._leaving = False
            self.at(OUTSIDE)
        backward = torch._C._current_graph_task_id() != -1
        if self.phase_of is not None:
            self.phase_of(backward)
        rerun = backward and bool(self.modules)
        module, node = self._place(backward)
        if func in READS:
            return declared(func, args, self.item)
        if backward and not rerun:
            done, out = self.inplace.instead(func, args, kwargs)
            if done:
                self._kernel(str(func), args, kwargs, out)
                return out
        elif self.inplace.in_math:
            done, out = self.inplace.masked(func, args)
            if done:
                return out
        if func is SCATTERED and args[0].device.type in self.devices:
            # How much of a gradient is a picture's is read out of the mask.
            out = torch.empty(args[2], dtype=args[0].dtype, device=args[0].device)
            self._outputs(out, args, str(func), module, node)
            return out
        if func is PICKED and self.seen is not None and args[1][0].dtype is torch.bool:
            out = torch.empty(
                (self.seen, *args[0].shape[args[1][0].dim() :]), dtype=args[0].dtype, device=args[0].device
            )
            self._outputs(out, args, str(func), module, node)
            return out
        # The meta kernel takes bf16 only.
        narrow = func is GROUPED and args[0].dtype is not torch.bfloat16
        out = _as_bf16(func, args, kwargs) if narrow else func(*args, **kwargs)
        op = str(func)
        self._outputs(out, args, op, module, node)
        if backward:
            self.inplace.made(op, out)
        if self.workspace and op in WORKSPACED and backward not in self._threads and self._counts(out):
            self._threads.add(backward)
            self.passing((self.workspace,), op, WORKSPACE)
        self._kernel(op, args, kwargs, out)
        return out

    def _counts(self, out: Any) -> bool:
        first = next(tensors(out), None)
        return first is not None and first.device.type in self.devices

    def _outputs(self, out: Any, args: Sequence[Any], op: str, module: str, node: str) -> None:
        kind = GRADIENT if node == "AccumulateGrad" else OTHER
        stepping = self.phase.endswith("optimizer") and not self.stepped
        for i, t in enumerate(tensors(out)):
            if t.device.type in self.devices:
                if stepping:
                    self._state(t, args, i, op)
                else:
                    self._see(t, op, module, kind, self.layer, node)

    def _state(self, t: torch.Tensor, args: Sequence[Any], i: int, op: str) -> None:
        """What an optimizer makes, for the layer of what it works on: its operand in the same place."""
        first = args[0] if args else None
        if isinstance(first, list | tuple):
            first = first[i] if i < len(first) else None
        of = self._known.get(first.untyped_storage()._cdata) if isinstance(first, torch.Tensor) else None
        before = len(self.born)
        self._see(t, op, "", STATE, OUTSIDE if of is None else self.born[of].layer, "")
        if of is None:
            # A counter is made first: it goes with what is made next.
            self._unowned += range(before, len(self.born))
        else:
            for n in self._unowned:
                self.born[n] = self.born[n]._replace(layer=self.born[of].layer)
            self._unowned.clear()


def tensors(out: Any) -> Iterator[torch.Tensor]:
    """Every tensor in what an operation returned."""
    if isinstance(out, torch.Tensor):
        yield out
    elif isinstance(out, list | tuple):
        for part in out:
            yield from tensors(part)
    elif isinstance(out, Mapping):
        for part in out.values():
            yield from tensors(part)


def _as_bf16(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """A grouped product in another format: CUDA takes it, with the same shapes and strides."""

    def like(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return torch.empty_strided(value.size(), value.stride(), dtype=torch.bfloat16, device=value.device)
        return value

    out = func(*map(like, args), **{key: like(value) for key, value in kwargs.items()})
    return torch.empty_strided(out.size(), out.stride(), dtype=args[0].dtype, device=out.device)
