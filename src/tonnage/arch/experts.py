"""Mixture of experts: a router, routed experts in fused tensors, and what every token goes through beside them.

The forward pass is the grouped matrix product that transformers takes on a GPU unless told otherwise: tokens are
sorted by expert, so that every shape is fixed by the number of tokens and of experts a token uses.

References: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/integrations/moe.py,
``grouped_mm_experts_forward``; the routers are those of the families' modeling files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tonnage.arch import ops
from tonnage.arch.activation import activate
from tonnage.arch.feedforward import Gated
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.model import Model
from tonnage.arch.routing import Routing, found, routed, taken
from tonnage.arch.tape import Grads, Parameter, Value, needs_grad
from tonnage.arch.untraced import untold
from tonnage.errors import ConfigError
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor

if TYPE_CHECKING:
    from tonnage.arch.clamps import Clamp
    from tonnage.arch.discarding import Discard

SharedOrder = Literal["last", "wide", "outside", "first"]
"""When the shared expert runs, where no matrix weighs it.

``last``: behind the routed ones. ``wide``: so, and both are added in fp32 (Hunyuan). ``outside``: in the layer, when
the router's tensors are gone (Granite). ``first``: before the router (MiniMax M3).
"""


class Experts(Record):
    """Routed experts, of which a token uses a few, and shared ones that every token uses (arXiv:2401.06066).

    Args:
        name: path of the module below its layer.
        D: residual width.
        E: routed experts.
        used: routed experts that a token uses; None where the config leaves it open.
        F: inner width of one expert.
        act: activation function of the gate.
        routing: how experts are chosen.
        normalised: the chosen experts' weights are divided by their sum.
        limited: experts are chosen in groups, which masks the others.
        router: name of the router.
        bias: the router and the experts have biases.
        transposed: the experts' matrices are stored input first, gate and up interleaved (gpt-oss).
        clamp: how gate and up are clamped, as ``arch/clamps.py`` names it.
        scaled: what the routed experts make is multiplied by a number.
        correction: the router has a buffer that corrects its choice.
        shared: experts that every token uses, as one block.
        shared_gate: name of the matrix that weighs the shared expert.
        order: when the shared expert runs that no matrix weighs.
        after: norm of the output, inside the block.
        corrected: what corrects the router's choice where it is no buffer of the router's.
        zero: experts that pass a token on as it is: chosen as others are, with a row of gate and up that is stored and
            never used (LongCat).
        scored: what the router scores where that is more than the experts (Inkling's shared ones).
        jitter: tokens are multiplied by random numbers in training, in place.
        gated: an expert has a gate beside its up projection; a plain one has not (Nemotron-H).
        scales: what the router multiplies tokens and the chosen experts' weights by (Gemma 4).
    """

    name: str
    D: int
    E: int
    used: int | None
    F: int
    act: str = "silu"
    routing: Routing = "softmax"
    normalised: bool = True
    limited: bool = False
    router: str = "gate"
    bias: bool = False
    transposed: bool = False
    clamp: Clamp = ""
    scaled: bool = False
    correction: bool = False
    shared: Gated | None = None
    shared_gate: str | None = None
    order: SharedOrder = "last"
    after: Norm | None = None
    corrected: Tensor | None = None
    zero: int = 0
    scored: int | None = None
    gated: bool = True
    jitter: bool = False
    scales: tuple[Tensor, ...] = ()

    module: ClassVar[str] = "moe"

    @property
    def parts(self) -> tuple[str, ...]:
        """What of the block can be computed again by itself."""
        return ("moe_act",) if self.shared is None else ("moe_act", "shared_experts")

    @property
    def working_set_modelled(self) -> bool:
        """Whether the forward pass is modelled."""
        return self.routing != "own"

    def _path(self, name: str) -> str:
        return f"{self.name}.{name}" if self.name else name

    def _fused(self) -> tuple[tuple[str, Axes, tuple[int, ...]], ...]:
        """Name, axes and merged axes of the experts' matrices."""
        E, D, F = ("E", self.E), ("D", self.D), ("F", self.F)
        if self.transposed:
            return (
                (self._path("experts.gate_up_proj"), (E, D, F, ("X", 2)), (1, 1, 2)),
                (self._path("experts.down_proj"), (E, F, D), (1, 1, 1)),
            )
        if not self.gated:
            return (
                (self._path("experts.up_proj"), (E, F, D), (1, 1, 1)),
                (self._path("experts.down_proj"), (E, D, F), (1, 1, 1)),
            )
        return (
            (self._path("experts.gate_up_proj"), (("E", self.E + self.zero), ("X", 2), F, D), (1, 2, 1)),
            (self._path("experts.down_proj"), (E, D, F), (1, 1, 1)),
        )

    def _biases(self) -> tuple[tuple[str, Axes], ...]:
        E = ("E", self.E)
        return (
            (self._path("experts.gate_up_proj_bias"), (E, ("F", self.F), ("X", 2))),
            (self._path("experts.down_proj_bias"), (E, ("D", self.D))),
        )

    def routed(self) -> Iterator[Tensor]:
        """The routed experts' tensors."""
        for name, axes, dims in self._fused():
            yield Tensor(name, axes, "expert", dims)
        if self.bias:
            for name, axes in self._biases():
                yield Tensor(name, axes, "expert", (1, len(axes) - 1))

    def unused(self) -> int:
        """Parameters of routed experts that a token does not use."""
        used = self.used
        return 0 if used is None else sum(t.numel - t.numel // t.axes[0][1] * used for t in self.routed())

    def weights(self) -> Iterator[Tensor]:
        """Router, routed experts, shared experts and their gate."""
        yield from self.scores().weights()
        yield from self.scales
        if self.correction:
            yield Tensor(f"{self.name}.{self.router}.e_score_correction_bias", self._scored(), "buffer", dtype="fp32")
        if self.corrected is not None:
            yield self.corrected
        yield from self.routed()
        if self.shared is not None:
            yield from self.shared.weights()
        if self.shared_gate is not None:
            yield from self._gate().weights()
        if self.after is not None:
            yield from self.after.weights()

    def _scored(self) -> Axes:
        return (("Er", self.scored or self.E + self.zero),)

    def scores(self) -> Linear:
        """The router's matrix."""
        return Linear(self._path(self.router), (("D", self.D),), self._scored(), "router", self.bias)

    def _gate(self) -> Linear:
        return Linear(f"{self.name}.{self.shared_gate}", (("D", self.D),), (("X", 1),), "shared_expert")

    def forward(self, f: Forward, x: Value) -> Value:
        """Every token through the experts that the router chose for it, and through the shared ones."""
        if self.routing == "own":
            raise untold("this family's router")
        if self.used is None:
            raise ConfigError("num_experts_per_tok is missing", key="num_experts_per_tok")
        if self.jitter and f.training:
            _jittered(x)
        if self.shared is None:
            _, weights, chosen = routed(self, f, x, self.used)
            return self.mixed(f, x, chosen, weights)
        if self.shared_gate is None:
            return self._with_shared(f, x, self.shared, self.used)
        shared = self._shared(f, self.shared, x)
        _, weights, chosen = routed(self, f, x, self.used)
        out = self.mixed(f, x, chosen, weights)
        gate = ops.unary(self._gate().forward(f, x), "sigmoid", saves="output")
        shared = ops.mul(gate, shared, "weighed shared expert")
        del gate
        return ops.add(out, shared, "routed and shared")

    def _with_shared(self, f: Forward, x: Value, shared: Gated, used: int) -> Value:
        residuals = x
        if self.order == "outside":
            x = self.but(shared=None).forward(f, x)
            f.held.append(x)
            return ops.add(x, self._shared(f, shared, residuals), "routed and shared")
        ahead = self._shared(f, shared, residuals) if self.order == "first" else None
        _, weights, chosen = routed(self, f, x, used)
        x = self.mixed(f, x, chosen, weights)
        if self.scaled:
            x = ops.scaled(x, "scaled output of experts")
        if ahead is not None:
            return ops.add(x, ahead, "routed and shared")
        if self.order == "wide":
            total = ops.add(
                ops.cast(x, "fp32"), ops.cast(self._shared(f, shared, residuals), "fp32"), "routed and shared"
            )
            return ops.cast(total, residuals.dtype)
        x = ops.add(x, self._shared(f, shared, residuals), "routed and shared")
        return x if self.after is None else self.after.forward(f, x)

    @staticmethod
    def _shared(f: Forward, shared: Gated, x: Value) -> Value:
        if "shared_experts" not in f.again:
            return shared.forward(f, x)
        # Imported late: most passes compute no module again.
        from tonnage.arch.again import module

        return module(shared, f, x)

    def mixed(self, f: Forward, x: Value, chosen: Value, weights: Value) -> Value:
        """``grouped_mm_experts_forward``: tokens by expert, two products, weighed, back in order and added up."""
        tape, pairs = f.tape, chosen.axes
        stacks = [(name, axes) for name, axes, _ in self._fused()]
        parameters = [tape.parameter(name, axes) for name, axes in stacks]
        sums = {} if f.tuning is None else f.tuning.merged(f, stacks)
        if f.fused is not None and f.fused.experts:
            # Imported late: most experts run by grouped products.
            from tonnage.arch.experts_fused import mixed

            return mixed(x, parameters, chosen, weights, adapted=bool(sums))
        by_expert, order = tape.results(
            "sort", lambda: (tape.new("experts, sorted", pairs, "int64"), tape.new("order of tokens", pairs, "int64"))
        )
        tape.record((by_expert, order), (chosen,), lambda *_: (None,), ())
        rows = taken(x, found(None, order, "tokens by expert", pairs), (*pairs, ("D", self.D)))
        scale = taken(weights, order, pairs)
        narrow = found(None, by_expert, "experts, sorted, int32", pairs, "int32")
        counts = found("histc", narrow, "tokens of each expert", (("E", self.E),), "int32")
        offsets = found("cumsum", counts, "ends of groups", (("E", self.E),), "int32")
        bias = self._bias(f, by_expert, 0)
        held = [sums[name]() if name in sums else None for name, _ in stacks[:1]]
        inner: Axes = (("F", self.F), ("X", 2)) if self.gated else (("F", self.F),)
        out = _grouped(rows, held[0] or parameters[0], offsets, (*pairs, *inner), bias)
        out, discard = self._activated(f, out)
        bias = self._bias(f, by_expert, 1)
        held += [sums[name]() if name in sums else None for name, _ in stacks[1:]]
        out = _grouped(out, held[1] or parameters[1], offsets, (*pairs, ("D", self.D)), bias)
        discard(out)
        weighed = ops.mul(out, scale.view((*pairs, ("X", 1))), "weighed expert output")
        inverse = found("index_put", order, "order restored", pairs)
        tape.new("numbers in order", pairs, "int64")
        weighed = taken(weighed, inverse, weighed.axes)
        out = ops.cast(added(weighed, x.axes), x.dtype)
        del by_expert, narrow, counts, bias
        return out

    def _bias(self, f: Forward, by_expert: Value, which: int) -> Value | None:
        """The bias of every row's expert; its name stands until the experts are done."""
        if not self.bias:
            return None
        name, axes = self._biases()[which]
        return taken(f.tape.parameter(name, axes), by_expert, (*by_expert.axes, *axes[1:]))

    def _activated(self, f: Forward, both: Value) -> tuple[Value, Discard]:
        """What goes to the second product, and what lets go of it where it is made again."""
        if "moe_act" not in f.again:
            return self._gated(both), _keep
        # Imported late: most passes compute no module again.
        from tonnage.arch.discarding import without_output

        (out,), discard = without_output(lambda x: (self._gated(x),), both)
        return out, discard

    def _gated(self, both: Value) -> Value:
        if not self.gated:
            return activate(both, self.act)
        half: Axes = (*both.axes[:3], ("F", self.F))
        if self.transposed and self.clamp:
            gate, up = ops.narrow(both, half), ops.narrow(both, half)
        else:
            gate, up = ops.split(both, (half, half))
        if not self.clamp:
            return ops.mul(activate(gate, self.act), up, "gated")
        # Imported late: most experts clamp nothing.
        from tonnage.arch.bounds import clamped
        from tonnage.arch.clamps import weighed

        gate = clamped(gate, 1)
        up = clamped(up)
        return weighed(gate, up, self.clamp, self.act, [])


def _jittered(x: Value) -> None:
    """``x *= noise``: whoever holds the tensor holds the product; the noise is saved."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    noise = tape.new("noise", axes, dtype)
    tape.record((x,), (x,), lambda g: (tape.new("gradient of tokens with noise", axes, dtype),), (noise,))


def _keep(hook: Value) -> None:
    """Nothing is made again."""


def as_loaded(model: Model) -> Model:
    """The model as engines load it that build what a checkpoint stores: without rows of experts that hold nothing."""
    if not model.unstored:
        return model
    layers = {id(layer): layer for stack in model.stacks for layer in stack.layers}
    kept = {key: _without_rows(layer) for key, layer in layers.items()}
    stacks = tuple(s.but(layers=tuple(kept[id(layer)] for layer in s.layers)) for s in model.stacks)
    return model.but(stacks=stacks, unstored=0)


def _without_rows(part: Any) -> Any:
    """The same layer, block or part, its experts without those that pass a token on; the router scores these still."""
    if isinstance(part, Experts):
        return part.but(zero=0, scored=part.scored or part.E + part.zero)
    if isinstance(part, tuple):
        return tuple(map(_without_rows, part))
    if not isinstance(part, Record):
        return part
    return part.but(**{name: _without_rows(getattr(part, name)) for name in part._fields})


def _grouped(x: Value, weight: Value | Parameter, offsets: Value, axes: Axes, bias: Value | None) -> Value:
    """``grouped_mm``: rows by their group's matrix, in the weight's format, which autocast does not touch."""
    x = ops.cast(x, weight.dtype)
    tape, before, whole, dtype, trained = x.tape, x.axes, weight.axes, x.dtype, needs_grad(weight)
    out = tape.product("grouped product" if isinstance(weight, Value) else f"{weight.name} output", axes, dtype)
    flows = needs_grad(x)
    made = (weight,) if isinstance(weight, Value) and flows else ()

    def back(g: Value) -> Grads:
        gw = tape.product("weight gradient", whole, dtype) if trained else None
        return tape.product("input gradient", before, dtype) if flows else None, gw

    tape.record((out,), (x, weight), back, (x, *made, offsets) if trained else (offsets,))
    return out if bias is None else ops.add(out, bias, "with bias", in_place=True)


def added(x: Value, axes: Axes) -> Value:
    """``x.view(tokens, used, D).sum(1)``, which autocast takes in fp32: the gradient is repeated for every expert."""
    tape, before, dtype = x.tape, x.axes, x.dtype
    out = tape.new("sum over experts", axes, dtype if tape.autocast is None else "fp32")
    tape.record((out,), (x,), lambda g: (tape.new("gradient, repeated", before, dtype),), ())
    return out
