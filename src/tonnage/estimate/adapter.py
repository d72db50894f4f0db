"""One way of fine-tuning beside a frozen model, as a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from tonnage.memory import adapter_targets as targets
from tonnage.record import Record
from tonnage.tensors import Tensor

if TYPE_CHECKING:
    from tonnage.arch.model import Model
    from tonnage.arch.tuning.bottleneck import Bottleneck
    from tonnage.arch.tuning.prefix import Prefix
    from tonnage.arch.tuning.prompted import Prompted
    from tonnage.arch.tuning.tuners import Method
    from tonnage.arch.tuning.virtual import Virtual
    from tonnage.quant._stored import Matrix
    from tonnage.workload.training import Train

ADAPTERS: Final = "fp32"
"""peft casts adapters that it makes over 16-bit weights (``autocast_adapter_dtype``)."""

Option = int | float | bool | str
"""What a setting of a method may be."""


class Asked(Record):
    """What a method is made for.

    Args:
        modules: names of the adapted matrices below the layer.
        dtype: format of what is trained.
        rank: of it; 0 where it has none.
        dropout: of what it is given.
        loaded: format that the frozen matrices were loaded in.
        inputs: modules whose input is scaled.
        options: settings by the names of peft's config.
    """

    modules: frozenset[str]
    dtype: str
    rank: int = 0
    dropout: float = 0.0
    loaded: str = ""
    inputs: frozenset[str] = frozenset()
    options: Mapping[str, Any] = {}


Make = Callable[[Asked], "Method"]


class Adapter(Record):
    """A way of fine-tuning beside a frozen model.

    Args:
        name: as users say it.
        method: what is trained beside matrices; None for nothing.
        rank: when none is said; None where it has to be said; 0 where there is none.
        ranked: one may be said though there is none by default.
        drops: takes a dropout of its input.
        defaults: target modules by type of model.
        inputs: of these, modules whose input it changes.
        options: settings with what they are when nothing is said, by the names of peft's config.
        choices: what a setting may be, where that is a name.
        refuses: why a matrix of these outputs and inputs cannot have it; empty where it can.
        shared: tensors that stand once for all targets; those that are no buffers are trained.
        packs: it may stand beside packed matrices.
        transposed: why it may not stand beside matrices that are stored input first; empty where it may.
        virtual: trained tokens before a sequence, or what stands for them; None for none.
        norms: it trains copies of norms.
        rows: it trains rows of the embedding and nothing else.
        bottleneck: what stands between blocks and residual stream; None for nothing.
        prompted: what attention sees apart; None for nothing.
        told: what has to be said of it.
    """

    name: str
    method: Make | None = None
    rank: int | None = None
    ranked: bool = False
    drops: bool = True
    defaults: Mapping[str, tuple[str, ...]] = targets.LORA
    inputs: Mapping[str, tuple[str, ...]] = {}
    options: Mapping[str, Option] = {}
    choices: Mapping[str, tuple[str, ...]] = {}
    refuses: Callable[[Asked, int, int], str] | None = None
    shared: Callable[[Asked, Sequence[Matrix]], tuple[Tensor, ...]] | None = None
    packs: bool = False
    transposed: str = ""
    virtual: Callable[[Train, Model], Virtual | Prefix] | None = None
    norms: bool = False
    rows: bool = False
    bottleneck: Callable[[Mapping[str, Option], Model, str], Bottleneck] | None = None
    prompted: Callable[[Mapping[str, Option], Model], Prompted] | None = None
    told: str = ""

    @property
    def whole(self) -> bool:
        """Whether it is no choice of modules that it adapts."""
        return self.virtual is not None or self.rows or self.prompted is not None or self.bottleneck is not None
