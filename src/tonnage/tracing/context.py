"""``with tonnage.trace() as t:``: any PyTorch code, its tensors without data, every allocation told."""

from __future__ import annotations

import weakref
from typing import Any, Final

import torch

from tonnage.errors import UnsupportedError
from tonnage.tracing import bnb_optimizers, flash_attention, flex
from tonnage.tracing.needs import PACKED_HINT, packed
from tonnage.tracing.recorder import Recorder
from tonnage.tracing.run import Place, quiet, uncollected
from tonnage.tracing.stream import BUFFER, GRADIENT, PARAMETER, Traced

FORWARD: Final = "forward"
BACKWARD: Final = "backward"
OPTIMIZER: Final = "optimizer"
COMPILED: Final = (
    "torch.compile is traced as if it were not there: what its partitioner keeps for the backward pass, and what its "
    "kernels fuse, are not known"
)
KERNELS: Final = ("flash", "efficient", "math")


class Tracing:
    """A stretch of code under the tracer.

    Tensors are made on ``device`` unless the code names another; those of the CPU are not counted. Phases are told by
    what runs: a backward pass, an optimizer's step, anything else is ``forward``; ``phase`` names one.

    Args:
        device: compute capability of the device that is meant.
        workspace: that a thread takes at its first matrix product. [byte]
        item: what reading a number out of a tensor gives; None stops there.
        backend: "cuda", "meta", or None for the first of the two that works.
        kernels: of attention, in the order in which the device tries them.
    """

    def __init__(
        self, device: tuple[int, int] = (8, 0), *, workspace: int = 0, item: float | None = None,
        backend: str | None = None, kernels: tuple[str, ...] = KERNELS,
    ) -> None:  # fmt: skip
        self._how = (backend or "auto", device, kernels)
        self._workspace = workspace
        self._item = item
        self._stack: list[Any] = []
        self._models: list[weakref.ref[Any]] = []
        self._names: dict[int, str] = {}
        self._seen: set[int] = set()
        self._step = 0
        self._told: dict[str, Any] = {}
        self._compiled = False

    def __enter__(self) -> Tracing:
        self.place = place = Place(*self._how)
        self.recorder = r = Recorder(place.counts, self._workspace, self._item)
        r.inplace = place.inplace
        r.phase_of = self._phase_of
        try:
            self._enter(quiet())
            self._hooks()
            flash_attention.install(place.patches, self._how[1])
            self._compiles = flex.install(place.patches, lambda: self._compiled)
            bnb_optimizers.patched_when_used(place.patches, r)
            place.patches.put(torch, "compile", self._uncompiled)
            self._enter(uncollected())
            self._enter(place.fake)
            self._enter(r)
            self._enter(torch.device(place.device))
        except BaseException:
            self._leave()
            raise
        r.enter(FORWARD)
        return self

    def __exit__(self, *error: Any) -> None:
        self._gradients()
        r = self.recorder
        self._record = (list(r.born), list(r.order), list(r.marks))
        self._finish()
        self._leave()
        if len(error) > 1 and error[1] is not None and packed(error[1]):
            message = "weights packed by bitsandbytes are not traced in code of one's own"
            raise UnsupportedError(message, key="trace", hint=PACKED_HINT) from error[1]

    def _enter(self, manager: Any) -> None:
        manager.__enter__()
        self._stack.append(lambda: manager.__exit__(None, None, None))

    def _leave(self) -> None:
        while self._stack:
            self._stack.pop()()
        self.place.restore()

    # What the user tells.

    def phase(self, name: str) -> None:
        """What runs from here on, by name; forward, backward and optimizer steps are told apart below it."""
        self._gradients()
        self.recorder.enter(name)

    def step(self, number: int) -> None:
        """A step of a loop begins; figures are those of the last."""
        self._gradients()
        self._step = number
        self.recorder.enter(f"step{number}.{FORWARD}")

    def trace(self) -> Traced:
        """What was recorded."""
        return Traced(*self._record, self._told)

    @property
    def result(self) -> Any:
        """The result, in the shape of every other.

        Raises:
            InputError: nothing was made on the device.
        """
        from tonnage.tracing.answer import result
        from tonnage.tracing.told import model_told

        return result(
            self.trace(), model=model_told(self._told), workload={"task": "trace", "target": "code"}, device=None
        )

    # What the code tells by running.

    def _phase_of(self, backward: bool) -> None:
        """A backward pass has begun, or is over."""
        r = self.recorder
        base = r.phase.rpartition(".")[2]
        prefix = f"step{self._step}." if self._step else ""
        if backward and base != BACKWARD:
            self._before = r.phase
            r.enter(prefix + BACKWARD)
        elif not backward and base == BACKWARD:
            self._gradients()
            r.enter(getattr(self, "_before", prefix + FORWARD))

    def _hooks(self) -> None:
        from torch.nn.modules import module
        from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

        # What follows a step (gradients set to None) belongs to it until a model runs again.
        for hook in (
            module.register_module_forward_pre_hook(self._in),
            module.register_module_forward_hook(self._out, always_call=True),
            register_optimizer_step_pre_hook(self._stepping),
            register_optimizer_step_post_hook(self._stepped),
        ):
            self._stack.append(hook.remove)

    def _in(self, module: Any, args: Any) -> None:
        r = self.recorder
        if not r.modules:
            if id(module) not in self._seen:
                self._meet(module)
            if r.phase.endswith(OPTIMIZER):
                r.enter(r.phase.removesuffix(OPTIMIZER) + FORWARD)
        r.modules.append(self._names.get(id(module), type(module).__name__))

    def _out(self, module: Any, args: Any, out: Any) -> None:
        if self.recorder.modules:
            self.recorder.modules.pop()

    def _meet(self, model: Any) -> None:
        """A model runs for the first time: what its tensors are for."""
        self._seen.add(id(model))
        self._models.append(weakref.ref(model))
        for name, m in model.named_modules():
            self._names.setdefault(id(m), name)
        r = self.recorder
        for name, p in model.named_parameters():
            r.parameters[id(p)] = name
            r.is_for(p, PARAMETER)
        for _, t in model.named_buffers():
            r.is_for(t, BUFFER)

    def _stepping(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self._gradients()
        prefix = f"step{self._step}." if self._step else ""
        self.recorder.enter(prefix + OPTIMIZER)

    def _uncompiled(self, model: Any = None, **how: Any) -> Any:
        made = model if model is None else self._compiles(model)
        # Flex attention is compiled wherever it is called, and nothing else by that.
        self._compiled = self._compiled or made is model
        return made if made is not None else lambda function: self._uncompiled(function, **how)

    def _stepped(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.recorder.stepped = True

    def _gradients(self) -> None:
        for found in self._models:
            model = found()
            for p in model.parameters() if model is not None else ():
                if p.grad is not None:
                    self.recorder.is_for(p.grad, GRADIENT)

    def _finish(self) -> None:
        r, place = self.recorder, self.place
        models = [m for m in (ref() for ref in self._models) if m is not None]
        parameters = {id(p): p for m in models for p in m.parameters()}.values()
        self._told = {
            "versions": {"torch": torch.__version__},
            "device": place.device,
            "fallback": place.fallback,
            "kernels": {**place.attention.ran, **flash_attention.ran, **flex.ran},
            "parameters": sum(p.numel() for p in parameters),
            "trainable": sum(p.numel() for p in parameters if p.requires_grad),
            "class": type(models[0]).__name__ if models else "code",
            "dispatched": r.dispatched,
            "corrected": r.inplace.corrected,
            "resized": sorted(r.resized),
            "caveat": COMPILED if self._compiled else None,
        }


__all__ = ["Tracing"]
