"""What computes recurrent mixers, settled: operations of torch, or the kernels of a package that is installed.

transformers decides as it is imported: a function of the package where it can be imported, else its own in operations
of torch; nothing is fetched from the Hub unless the model is loaded with ``use_kernels``.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/integrations/hub_kernels.py
(``use_kernel_func_from_hub_with_fallback``); what peft refuses, https://github.com/huggingface/peft/blob/v0.21.2/src/
peft/tuners/tuners_utils.py (``_check_lora_target_modules_mamba``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Literal

from tonnage.arch.forward import Mixers
from tonnage.arch.mixers.recurrent import Mamba2
from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.errors import InputError, UnsupportedError
from tonnage.record import Record
from tonnage.workload.training import Train

if TYPE_CHECKING:
    from tonnage.memory.accounts import Account

Package = Literal["mamba-ssm", "fla"]
PACKAGES: Final[tuple[Package, ...]] = ("mamba-ssm", "fla")
RELEASES: Final = {
    "mamba-ssm": "mamba-ssm 2.3.2 and causal-conv1d 1.6.1",
    "fla": "flash-linear-attention 0.6.0 and causal-conv1d 1.6.1",
}
HOPPER: Final = "sm_90"
STOPS: Final = (
    "flash-linear-attention 0.6.0 stops in the backward pass of a gated delta net on Hopper where Triton is 3.4.0 to "
    "3.7.0 (fla/ops/common/chunk_o.py, chunk_bwd_dqkwg): Triton 3.7.1, or tilelang, whose kernels are not modelled"
)
LONGEST: Final = 100_000
"""Events of the layers' forward passes: about a second of the allocator's."""
REFUSED: Final = frozenset(["falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"])
"""Types in which peft adapts no ``out_proj``: their kernels take its weight past the module."""


class Mixing(Record):
    """What was settled.

    Args:
        mixers: what computes them.
        kernels: the rest of what was asked for.
        told: what has to be said.
    """

    mixers: Mixers
    kernels: str | None
    told: tuple[str, ...] = ()

    def long(self, layers: Iterable[Account]) -> bool:
        """Whether a step has so many events, as a loop over tokens makes, that it is played on demand alone."""
        return sum(a.forward.stop - a.forward.start for a in layers) > LONGEST


def run_by(model: Model) -> tuple[str, ...]:
    """The packages whose kernels run mixers of a model, in the order of ``PACKAGES``."""
    return tuple(name for name in PACKAGES if next(_run(model, name), None) is not None)


def _run(model: Model, package: str) -> Iterator[Any]:
    """The blocks that a package runs."""
    for stack in model.stacks:
        for layer, _ in stack.distinct():
            for sub in layer.sublayers:
                for block in (sub.block, *getattr(sub.block, "parts", ())):
                    if package in getattr(block, "packages", ()):
                        yield block


def settled(model: Model, w: Train, device: Device | None) -> Mixing:
    """Split ``kernels`` into those of mixers and the rest.

    Raises:
        InputError: the model has no mixer that the package runs, or peft does not adapt what is asked.
        UnsupportedError: packed weights, which the kernels do not take.
    """
    asked = [name.strip() for name in (w.kernels or "none").split(",")]
    named = [name for name in PACKAGES if name in asked]
    rest = ",".join(name for name in asked if name not in PACKAGES) or None
    there = run_by(model)
    for name in named:
        if name not in there:
            raise InputError(
                f"kernels = {name}: it runs no block of {model.model_type}", key="kernels", value=name,
                hint="leave it out",
            )  # fmt: skip
    if not there:
        return Mixing(Mixers(), rest)
    _trainable(model, w, named)
    if named:
        # Imported late: what Liger replaces matters to few of these models.
        from tonnage.estimate.liger import multiprocessors

        told = [f"recurrent mixers run by the kernels of {RELEASES[named[0]]}"]
        if device is not None and device.architecture == HOPPER and any(b.stops_on_hopper for b in _run(model, "fla")):
            told.append(STOPS)
        passed = any(isinstance(b, Mamba2) for b in _run(model, "mamba-ssm"))
        if passed and {"out_proj", "all-linear"} & set(w.lora_targets):
            told.append(
                "adapters of out_proj are there and get no gradient: the kernels take its weight past the module"
            )
        return Mixing(
            Mixers(package=named[0], processors=multiprocessors(device), tiling=_tiling(device)), rest, tuple(told)
        )
    stated = all(b.kernels_stated for b in _run(model, there[0]))
    said = (
        f"recurrent mixers run in operations of torch, as transformers runs them where {there[0]} is not installed: "
        + (f"--kernels {there[0]} for its kernels, which" if stated else "its kernels, which are not modelled,")
        + " keep far less"
    )
    return Mixing(Mixers(), rest, (said,))


def _tiling(device: Device | None) -> int:
    """Columns that fla's kernels take at once, for heads in 16 bit: by what a multiprocessor's blocks can share.

    Reference: fla v0.6.0 fla/ops/common/chunk_o.py, fla/utils/hardware.py (``Backend``).
    """
    architecture = "" if device is None else device.architecture
    return 64 if architecture in ("sm_86", "sm_89", "sm_120") else 32 if architecture in ("sm_70", "sm_75") else 128


def _trainable(model: Model, w: Train, named: list[Package]) -> None:
    if w.quant not in (None, "none") and "mamba-ssm" in run_by(model):
        raise UnsupportedError(
            f"quant = {w.quant} is not modelled beside recurrent mixers, whose code takes weights past their modules",
            key="quant", value=w.quant, hint="leave it out",
        )  # fmt: skip
    if w.compile:
        raise UnsupportedError(
            "compile is not modelled beside recurrent mixers", key="compile", value="true", hint="leave it out"
        )
    if model.config.get("z_loss_coefficient"):
        raise UnsupportedError(
            f"the further term of {model.model_type}'s loss is not modelled", key="z_loss_coefficient",
            value=model.config["z_loss_coefficient"], hint="0 in the config leaves it out",
        )  # fmt: skip
    if w.kbit_prepared and "fla" in named:
        raise UnsupportedError(
            f"kbit_prepared is not modelled for {model.model_type} by the kernels of fla", key="kbit_prepared",
            value="true", hint="leave it out",
        )  # fmt: skip
    taken = [name for name in w.lora_targets if name in ("out_proj", "conv1d", "all-linear")]
    if taken and model.model_type in REFUSED:
        raise InputError(
            f"lora_targets = {taken[0]}: peft adapts no out_proj and no conv1d of {model.model_type}",
            key="lora_targets", value=taken[0], hint="--lora-targets in_proj,x_proj",
        )  # fmt: skip
