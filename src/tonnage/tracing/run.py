"""One trace in this process: build, patch, record, put everything back."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import torch

from tonnage.errors import UnsupportedError
from tonnage.tracing import (
    bnb_optimizers,
    fakecuda,
    flash_attention,
    flex,
    layers,
    liger,
    loops,
    mixers,
    models,
    optimizers,
    texts,
)
from tonnage.tracing.inplace import InPlace
from tonnage.tracing.patches import Patches, swapped_modules, torch_patches, transformers_patches
from tonnage.tracing.recorder import Recorder
from tonnage.tracing.sdpa import Chooser
from tonnage.tracing.spread import Uneven, Unit, spread
from tonnage.tracing.stream import BUFFER, LOSS, OUTSIDE, PARAMETER, STATE, Traced

META: Final = frozenset(("meta",))
FAKE: Final = frozenset(("cuda", "meta"))

FLEX: Final = "flex_attention"
"""As transformers names it."""
LEADS: Final = (1, 2)
"""Units before the two that are compared: what the first layers do differently may reach one further."""

LOUD: Final = ("torch", "transformers", "peft", "liger_kernel", "bitsandbytes")
"""Libraries whose warnings are not shown; a record of one would hold on to the tensors at hand."""

COPIES: Final = frozenset(("diffllama", "falcon", "gpt_neo", "t5"))
"""Types whose code indexes with lists or makes scalars on the device: only fake CUDA shows those copies."""

ASSERTING: Final = frozenset(("flaubert", "xlm"))
"""Types whose code reads the longest sequence only to say that it is no longer than the batch: 1 is not."""


class Place:
    """A device for tensors without data, and what is patched around it.

    Args:
        backend: "cuda", "meta", or "auto" for the first of the two that works.
        capability: of the device that is meant.
        kernels: of attention, in the order in which it tries them.
    """

    def __init__(self, backend: str, capability: tuple[int, int], kernels: tuple[str, ...]) -> None:
        self.patches = Patches()
        self.fallback: str | None = None
        self.fake: Any = contextlib.nullcontext()
        self.device = "meta"
        try:
            if backend in ("cuda", "auto"):
                self._cuda(backend, capability)
            original = torch.nn.functional.scaled_dot_product_attention
            self.inplace = InPlace()
            self.attention = Chooser(kernels, self.inplace, original)
            self.patches.put(torch.nn.functional, "scaled_dot_product_attention", self.attention)
            torch_patches(self.patches)
            transformers_patches(self.patches)
        except BaseException:
            self.patches.restore()
            raise

    def _cuda(self, backend: str, capability: tuple[int, int]) -> None:
        try:
            self.fake = fakecuda.set_up(self.patches, capability)
        except fakecuda.NotPossibleError as e:
            if backend == "cuda":
                raise UnsupportedError(
                    f"autocast is traced on a stand-in for CUDA, which cannot be set up here: {e}"[:300],
                    key="precision", hint="--precision bf16, or torch 2.13 on Linux",
                ) from e  # fmt: skip
            self.fallback = str(e)[:200]
            return
        self.device = "cuda"
        swapped_modules(self.patches)

    @property
    def counts(self) -> frozenset[str]:
        """Types of device whose storages count."""
        return FAKE if self.device == "cuda" else META

    def restore(self) -> None:
        """Put everything back."""
        self.patches.restore()


def model_trace(job: Mapping[str, Any], tell: Callable[[Recorder], None] = lambda r: None) -> Traced:
    """Trace a transformers model.

    Args:
        job: as ``request`` settles it.
        tell: given the recorder before anything runs.

    Raises:
        UnsupportedError: it cannot be traced.
    """
    p = Patches()
    with quiet():
        try:
            if job["attention"] in flash_attention.NAMES:
                flash_attention.install(p, tuple(job["capability"]))
            if job["attention"] == FLEX:
                # Imported as it is, so that all of its names are found.
                import transformers.integrations.flex_attention
                import transformers.masking_utils  # noqa: F401

                flex.install(p)
            return _model_trace(job, tell)
        finally:
            p.restore()


def _model_trace(job: Mapping[str, Any], tell: Callable[[Recorder], None]) -> Traced:
    began = time.perf_counter()
    config = models.config_of(job["config"])
    how = {"head": job["head"], "dtype": job["weights"], "attention": job["attention"]}
    model = models.build(config, **how)
    whole = _counted(model)
    found, unit = _few(config, model, job, how, tell)
    if found is None:
        found = _recorded(model, job, tell)
    told = found.told | whole
    told["layers_traced"] = "all" if unit is None else told["layers"]
    if unit is not None:
        told["layers"] += unit.added
        told["trainable"] += unit.times * sum(told["trainable_by_layer"][unit.first : unit.first + unit.period])
    del told["trainable_by_layer"]
    told["seconds"] = round(time.perf_counter() - began, 3)
    return found.but(told=told)


def _few(
    config: Any, model: Any, job: Mapping[str, Any], how: Mapping[str, Any], tell: Callable[[Recorder], None]
) -> tuple[Traced | None, Unit | None]:
    """The trace told from few layers, and what repeats in it; None twice where the layers are not alike enough."""
    if job["layers"] != "few" or job["task"] != "train":
        return None, None
    for lead in LEADS:
        thin = layers.thinned(config, model, lead, **how)
        if thin is None:
            break
        small, unit = thin
        with contextlib.suppress(Uneven):
            return spread(_recorded(small, job, tell), unit), unit
    return None, None


def _counted(model: Any) -> dict[str, Any]:
    """What the model is, before anything is added to it."""
    return {"parameters": sum(p.numel() for p in model.parameters()), "class": type(model).__name__}


def _recorded(model: Any, job: Mapping[str, Any], tell: Callable[[Recorder], None]) -> Traced:
    """The model's run under the recorder."""
    from tonnage.tracing.tuning import tuned

    # peft asks for autocast by the type of the device, and there is none for meta tensors.
    shown = any(job.get(key) is not None for key in ("lora", "liger", "mixers"))
    shown = shown or job.get("optimizer") in optimizers.MOVED or model.config.model_type in COPIES
    backend = job["backend"] or ("cuda" if job["autocast"] else "auto" if shown else "meta")
    # Before anything believes in a device: peft looks for one as it is imported.
    if job["task"] == "train":
        optimizers.ready(job["optimizer"])
        if job["liger"] is not None:
            liger.ready(job["liger"]["release"])
        if job["mixers"] is not None:
            mixers.ready(job["mixers"]["package"])
    model = tuned(model, job)
    place = Place(backend, tuple(job["capability"]), tuple(job["kernels"]))
    try:
        training = job["task"] == "train"
        model.train(training)
        _settings(model, job)
        if place.device == "cuda":
            with place.fake:
                models.on_device(model, "cuda")
        read = job.get("liger") is not None or job.get("pictures") or model.config.model_type in ASSERTING
        r = Recorder(place.counts, job["workspace"], 1.0 if read else None)
        r.inplace = place.inplace
        if job.get("liger") is not None:
            liger.install(place.patches, _base(model), job["liger"] | {"capability": job["capability"]}, r.modules)
        if job.get("pictures"):
            from tonnage.tracing import pictures

            pictures.patches(place.patches)
            r.seen = job["pictures"].get("tokens")
        if job.get("mixers") is not None:
            mixers.install(place.patches, _base(model), **job["mixers"])
        else:
            mixers.in_torch(place.patches, _base(model))
        if job.get("texts"):
            texts.install(place.patches, job["texts"], texts.flattened(job)["batch"])
        tell(r)
        make = optimizers.in_backward if job.get("in_backward") else optimizers.optimizer
        made = make(job["optimizer"], model) if training else None
        if made is not None:
            optimizers.patches(place.patches, made)
            bnb_optimizers.patches(place.patches, r)
        with uncollected(), hooked(model, r), loss_named(model, r), place.fake, r:
            resident(model, r)
            if made is not None:
                _states(made, r)
                loops.train(model, job, r, place.device, made)
            else:
                loops.serve(model, job, r, place.device)
        told = _told(model, r, place, job["task"]) | {"caveat": made.caveat if made is not None else None}
        return Traced(list(r.born), list(r.order), list(r.marks), told)
    finally:
        place.restore()


def _states(made: optimizers.Made, r: Recorder) -> None:
    """Tell of the optimizer's state that is there, and hold none of it."""
    for t, name in optimizers.states(made, r.parameters):
        if t.device.type in r.devices:
            r.there(t, STATE, name)


def _shapes(head: Any, name: str) -> dict[str, list[list[int]]]:
    """Shapes of what the head learns: where it is tied, its gradient waits for the embedding's."""
    return {} if head is None else {name: [list(p.shape) for p in head.parameters(recurse=False)]}


def _settings(model: Any, job: Mapping[str, Any]) -> None:
    """Checkpointing and caches as the Trainer sets them."""
    if job["task"] != "train":
        return
    model.config.use_cache = False
    if job["modules"]:
        from tonnage.tracing.again import checkpoint_modules

        checkpoint_modules(model, tuple(job["modules"]))
    if job["recompute"]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": job["reentrant"]})
        if job["lora"] is not None:
            model.enable_input_require_grads()


def _base(model: Any) -> Any:
    """The model that adapters were put into."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _told(model: Any, r: Recorder, place: Place, task: str) -> dict[str, Any]:
    found = models.layers_of(model)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    names = {id(m): name for name, m in model.named_modules()}
    import transformers

    return {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "device": place.device,
        "fallback": place.fallback,
        "head": names.get(id(head), ""),
        "root": names.get(id(_base(model)), ""),
        "grown": _shapes(head, names.get(id(head), "")),
        "task": task,
        "layers": len(found),
        "trainable_by_layer": [sum(p.numel() for p in layer.parameters() if p.requires_grad) for _, layer in found],
        "kernels": {**place.attention.ran, **flash_attention.ran, **flex.ran},
        "attention": getattr(model.config, "_attn_implementation", None),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "dispatched": r.dispatched,
        "corrected": r.inplace.corrected,
        "resized": sorted(r.resized),
        "host": r.host,
    }


def resident(model: Any, r: Recorder) -> None:
    """What lies on the device before the first step: parameters, what packed ones carry, buffers."""
    r.enter("load")
    for name, p in model.named_parameters():
        r.there(p, PARAMETER, name)
    for name, t in model.named_buffers():
        r.there(t, BUFFER, name)
    from tonnage.tracing.models import tensors_beside

    packed = {name for name, m in model.named_modules() if type(m).__name__ in ("Linear4bit", "Linear8bitLt")}
    for name, t in tensors_beside(model):
        if t.device.type in r.devices:
            r.there(t, PARAMETER if name.rpartition(".")[0] in packed else BUFFER, name)


@contextlib.contextmanager
def hooked(model: Any, r: Recorder) -> Iterator[None]:
    """Modules and layers of ``model`` told to the recorder as they run."""
    names = {id(m): name for name, m in model.named_modules()}
    found = models.layers_of(model)
    numbers = {name: i for i, (name, _) in enumerate(found)}
    r.parameters = {id(p): name for name, p in model.named_parameters()}
    known: dict[str, int] = {}

    def layer_of(name: str) -> int:
        if name not in known:
            above, _, _ = name.rpartition(".")
            known[name] = numbers[name] if name in numbers else layer_of(above) if above else OUTSIDE
        return known[name]

    r.layer_of = layer_of
    last = len(found) - 1

    def before(module: Any, args: Any) -> None:
        # A module that the model does not own is the code's that calls it.
        name = names.get(id(module), r.modules[-1] if r.modules else "")
        name = LOSS if "Loss" in type(module).__name__ else name
        r.modules.append(name)
        if id(module) in names and name in numbers:
            r.at(numbers[name])
        elif torch._C._current_graph_task_id() != -1 and layer_of(name) != OUTSIDE:
            # A checkpoint runs a layer again without a call of it.
            r.at(layer_of(name))

    def after(module: Any, args: Any, out: Any) -> None:
        name = r.modules.pop() if r.modules else ""
        if id(module) in names and numbers.get(name) == last and torch._C._current_graph_task_id() == -1:
            r.leave()

    hooks = (
        torch.nn.modules.module.register_module_forward_pre_hook(before),
        torch.nn.modules.module.register_module_forward_hook(after, always_call=True),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def loss_named(model: Any, r: Recorder) -> Iterator[None]:
    """The model's loss function told to the recorder as if it were a module."""
    base = _base(model)
    function = getattr(base, "loss_function", None)
    if not callable(function):
        yield
        return

    def named(*args: Any, **kwargs: Any) -> Any:
        r.modules.append(LOSS)
        try:
            return function(*args, **kwargs)
        finally:
            r.modules.pop()

    base.loss_function = named
    try:
        yield
    finally:
        base.loss_function = function


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is collected: storages die when their last name goes."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Warnings of libraries are about data that a trace does not have."""
    loggers = [logging.getLogger(name) for name in LOUD]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
