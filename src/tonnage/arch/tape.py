"""A forward and backward pass written on tensors without data.

A kind of block states its forward pass once, in the operations of ``arch/ops.py``, as the modelled library's own code
does. Run on a ``Tape``, that gives every birth and death of a storage: what autograd saves, what lives for a moment
only, and what the backward pass takes. Nothing is computed but sizes.

Lifetimes are Python's own, as in torch: a storage dies when the last ``Value`` that shares it is dropped. A kind must
therefore bind and rebind its local variables as the modelled code does.

Leaves out: memory that kernels take internally, but where an operation names it as scratch; the rounding and caching
of the allocator.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/ torch/csrc/autograd/engine.cpp (order of nodes, release of
saved tensors), torch/csrc/autograd/input_buffer.cpp (in-place accumulation).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from tonnage.arch.storage import WIDTH as WIDTH
from tonnage.arch.storage import Parameter as Parameter
from tonnage.arch.storage import Storage as Storage
from tonnage.arch.storage import Value as Value
from tonnage.tensors import Axes

if TYPE_CHECKING:
    from tonnage.arch.again import Keeper
    from tonnage.arch.stepping import Stepping

HALF: Final = ("bf16", "fp16")
FLAT: Final = 2
"""Axes of what takes tokens as rows."""

BATCHED: Final = 3
"""Axes of a batch of matrices."""

Later = Callable[[], "Value"]
"""A gradient that the engine still has to fit to its tensor, when the node has made all of them."""

Grads = tuple["Value | Later | None", ...]
Back = Callable[..., Grads]

Source = Value | Parameter | None


class Node:
    """One step of the backward pass."""

    __slots__ = (
        "asks", "back", "before", "called", "category", "frees", "inputs", "pending", "rank", "saved", "takes",
        "weights_first",
    )  # fmt: skip

    def __init__(
        self, inputs: tuple[Source, ...], back: Back, saved: tuple[Value, ...], outputs: int, category: str = ""
    ) -> None:
        self.category = category
        # Only where gradients go is kept of the inputs: holding the values would keep their storages alive.
        self.inputs: tuple[tuple[Node, int] | Parameter | None, ...] = tuple(
            i if isinstance(i, Parameter) else (i.node, i.index) if i is not None and i.node is not None else None
            for i in inputs
        )
        self.back = back
        self.saved = saved
        # What runs when all of its gradient is there, before the step itself.
        self.before: Callable[[], None] | None = None
        self.pending: list[Value | None] = [None] * outputs
        self.weights_first = False
        # Whether its step is handed the list of gradients, which it empties.
        self.takes = False
        # Whether its step lets go of what it saved one by one (``rebound``), as compiled code does.
        self.frees = False
        self.asks = bool(saved)
        self.rank = 0
        # What a checkpoint was called with, if this is the last of its steps that asks for something.
        self.called: tuple[Value, ...] = ()


class Tape:
    """One pass over a model, or over one of its layers.

    Args:
        grad: whether autograd records.
        weights: format of the weights.
        autocast: format that autocast casts to, or None.
        trained: which parameters are trained, by name; all when None.
    """

    joins_nothing, fuses_loss = True, False  # A join with empty tensors copies; cast and loss are one compiled graph.
    tracing = False
    """Whether what runs is a stretch that is compiled, of which a graph is made."""

    def __init__(
        self,
        *,
        grad: bool,
        weights: str,
        autocast: str | None = None,
        trained: Callable[[str], bool] | None = None,
    ) -> None:
        self.grad = grad
        self.weights = weights
        # Format of buffers, which stay as they were loaded where weights are cast.
        self.buffers = weights
        self.autocast = autocast
        self.trained = trained
        # Parts of the names of weights that are in fp32 whatever the others are in.
        self.wide: tuple[str, ...] = ()
        self.category = "activations"
        self.recording = grad
        # Path of the layer at hand, where all of a model's are on one tape.
        self.prefix = ""
        self.born: list[Storage] = []
        self.products: set[int] = set()
        self.events: list[int] = []
        self.nodes: list[Node] = []
        self.gradients: dict[str, Value] = {}
        self.reached: set[str] = set()
        self.casts: dict[str, Value] = {}
        # What functions hold on to after their backward pass, as long as the loss is there.
        self.lingering: list[Storage] = []
        # Formats of what matrices of 8 bit were given, by name: their biases are cast to them for good.
        self.given: dict[str, set[str]] = {}
        # Where autocast is left, what it has cached is gone: an event, once that is told.
        self.outside: int | None = None
        self.cut = 0
        self.rerun = False
        # What the step at hand took out of a checkpoint, which has let go of it: its own names alone hold it.
        self.unpacked: list[Value] = []
        # Where the backward pass of a checkpoint first asked for what was saved: there the layer runs again.
        self.asked: int | None = None
        self.keeper: Keeper | None = None
        self.accumulated = False
        # Gradients that are added into older ones, of which there are none in the first pass of several: of what.
        self.added: dict[int, str] = {}
        self.stepping: Stepping | None = None
        # Ends of the names of parameters whose gradient is there before the pass: a term of the loss made it.
        self.early: tuple[str, ...] = ()
        # What autograd accumulates into that is no parameter: the graph holds it with its gradient to the end.
        self.leaves: list[Node] = []
        # Attributes of steps, which no step of the backward pass lets go of: they are there as long as the graph is.
        self.attributes: list[Value] = []
        # What a tower's checkpoints with a backward pass of their own were called with, to the end of the pass.
        self.called: list[Value] = []
        # Whether what is recorded later runs under ``no_grad`` at first, and no step is made that could hold anything.
        self.stepless = False
        # What a layer hands back beside its output, where its checkpoint takes a gradient for each.
        self.returned: list[Value] | None = None
        # Weights that several steps take, and what a custom step's context holds as long as its output is there.
        self.often: dict[str, Value] = {}
        self.context: list[Value] = []
        # What attributes of steps hold that a checkpoint's second run makes, until that is over.
        self.second: list[Value] = []
        self.tied: str | None = None
        self.begun: frozenset[str] = frozenset()  # Parameters to which a layer above has handed its gradient already.
        # Where other models run before the pass goes on: events, and what is alive there.
        self.pauses: list[tuple[int, list[Storage]]] = []
        # What autograd accumulates into although it is no parameter: the graph holds it, and its gradient.
        self.collects: Storage | None = None
        # The tensor at hand that is such a leaf: the embedding's output, or what a nested checkpoint hands its layer.
        self.accumulates: Storage | None = None

    def pause(self) -> None:
        """Other models run here."""
        self.pauses.append((len(self.events), [s for s in self.born if s.owners]))

    def new(self, label: str, axes: Axes, dtype: str) -> Value:
        """A fresh tensor."""
        return Value(Storage(self, label, axes, dtype, self.category), axes, dtype)

    def product(self, label: str, axes: Axes, dtype: str) -> Value:
        """What a product of matrices makes: the first of each thread takes a workspace from the allocator."""
        self.products.add(len(self.born))
        return self.new(label, axes, dtype)

    def factor(self, label: str, axes: Axes, dtype: str) -> Value:
        """A factor's gradient: the product is of one batch of matrices, of which more axes are a view."""
        value = self.product(label, axes, dtype)
        value.storage.viewed = len(axes) > BATCHED
        return value

    def leaf(self, label: str, axes: Axes, dtype: str) -> Value:
        """A fresh tensor whose gradient the backward pass shall deliver."""
        value = self.new(label, axes, dtype)
        if self.grad:
            self.start(value)
        return value

    def start(self, value: Value, *, held: bool = False) -> None:
        """Let gradients flow down to this value, and no further.

        A leaf that autograd itself accumulates into is ``held`` as long as the graph is there.
        """
        if value.node is None:
            # What a checkpoint makes a second time only stands for the first.
            value.node = Node((), lambda _: (), (value.detached(),) if held and not self.rerun else (), 1)
            self.leaves += [value.node] if held else []
            self.collects = value.storage if held else self.collects
            self.accumulates = value.storage if held else self.accumulates

    def hold(self, value: Value) -> None:
        """Something stays as long as the graph is there: an attribute of a step, which the backward pass does not
        let go of. The graph of a second run is gone with that."""
        if not self.stepless:
            (self.second if self.rerun else self.attributes).append(value.detached())

    def parameter(self, name: str, axes: Axes, dtype: str | None = None) -> Parameter:
        """The weight of that name, in a format of its own where it has one."""
        trained = self.grad and (self.trained is None or self.trained(name))
        return Parameter(self, name, axes, dtype or self.form_of(name), trained)

    def form_of(self, name: str) -> str:
        """The format of the weight of that name."""
        return "fp32" if self.wide and any(part in name for part in self.wide) else self.weights

    def rebound(self, storage: Storage) -> None:
        """The step at hand binds the name of something that it saved anew."""
        self.unpacked = [v for v in self.unpacked if v.storage is not storage]

    def several(self, parameter: Parameter) -> None:
        """Several steps will take this weight: what they hand back is added up before it is the weight's gradient."""
        if parameter.trained and self.recording:
            node = Node((parameter,), lambda g: (g,), (), 1)
            self.nodes.append(node)
            self.often[parameter.name] = Value(
                Storage(self, "uses", (("X", 0),), parameter.dtype, ""), parameter.axes, parameter.dtype, node
            )

    def scratch(self, label: str, *sizes: int) -> None:
        """Memory that a kernel takes from the allocator for its own run, all of it at the same time. [byte]"""
        taken = [Storage(self, label, (("X", n),), "uint8", "workspace") for n in sizes if n]
        self.events.extend(~storage.serial for storage in reversed(taken))

    def results(self, op: str, make: Callable[[], tuple[Value, ...]]) -> tuple[Value, ...]:
        """What an operation makes whose results a selective checkpoint may keep."""
        return make() if self.keeper is None else self.keeper.results(op, make, again=self.recording)

    def record(
        self, outputs: tuple[Value, ...], inputs: tuple[Source, ...], back: Back, saved: tuple[Value, ...], *,
        custom: bool = False, weights_first: bool = False, flat: bool = False, keeps_weight: bool = False,
    ) -> None:  # fmt: skip
        """Put a node on the tape if any input needs a gradient.

        What is ``flat`` takes tokens as rows, whatever its output is viewed as. ``keeps_weight`` tells that a weight
        is saved as well, which takes nothing, but which a checkpoint's second run goes as far as.

        An ``autograd.Function`` (``custom``) saves when it has run; operations of torch save before they make anything.
        """
        if not self.recording or not any(needs_grad(i) for i in inputs):
            return
        if saved or keeps_weight:
            # What it makes is not there yet where the pass stops, but where it saves some of that; an older storage is
            # written over, or was kept.
            at = outputs[0].storage.position
            late = custom or any(v.storage.position >= at for v in saved)
            self.cut = at if at >= self.cut and not late else len(self.events)
        if self.often:
            inputs = tuple(self.often.get(i.name, i) if isinstance(i, Parameter) else i for i in inputs)
        node = Node(inputs, back, tuple(v.detached() for v in saved), len(outputs), self.category)
        node.weights_first = weights_first
        node.asks = node.asks or keeps_weight
        node.rank = FLAT if flat else len(outputs[0].axes)
        for index, out in enumerate(outputs):
            out.node = node
            out.index = index
        self.nodes.append(node)

    def forget(self, since: int, until: int | None = None) -> None:
        """These steps go, and what they saved: nobody holds what they made."""
        del self.nodes[since:until]

    def backward(self, root: tuple[Node, int], grad: Value, floor: int = 0) -> None:
        """Run the backward pass: newest node first, as the engine orders them.

        Args:
            root: node and output where it starts.
            grad: the gradient there, handed over.
            floor: nodes below this one are left on the tape.
        """
        root[0].pending[root[1]] = grad
        del root, grad
        self.unwind(floor)

    def unwind(self, floor: int) -> None:
        """Go on with a backward pass that was begun, down to the ``floor`` of the nodes."""
        while len(self.nodes) > floor:
            node = self.nodes.pop()
            pending = node.pending
            if any(g is not None for g in pending):
                node.pending = []
                targets, weights_first, takes = node.inputs, node.weights_first, node.takes
                if node.asks and self.asked is None:
                    self.asked = len(self.events)
                back = node.back
                node.back = _spent
                # What a step of the backward pass takes counts as what the forward step made.
                self.category = node.category
                if node.before is not None:
                    node.before()
                    node.before = None
                by_heads = self._laid_out(pending, node.rank)
                since = len(self.born)
                # They are handed over: the list that they lay in lets go of them.
                given = pending.copy()
                pending.clear()
                outer = self.unpacked
                if self.rerun or node.frees:
                    # Of what only a checkpoint's second run held the node has no more than a key.
                    self.unpacked, node.saved = list(node.saved), ()
                made = list(back(given) if takes else back(*given))
                # What the node saved outlives the fitting, as the incoming gradients do.
                self.unpacked = outer
                del outer
                if by_heads:
                    self._by_heads(since)
                grads = _fitted(made)
                given.clear()
                node.saved = node.called = ()
                del node, back, made
                if by_heads:
                    self._by_heads(since)
                self._deliver(targets, grads, weights_first=weights_first)
            else:
                del node
            del pending

    def _by_heads(self, since: int) -> None:
        for s in self.born[since:]:
            s.by_heads = True

    def _laid_out(self, pending: list[Value | None], rank: int) -> bool:
        """Whether heads lie before tokens in a gradient, and with that in all that is made of it element by element.

        A view that makes one axis of several, to get to the node's ``rank``, copies it first.
        """
        found = False
        for index, g in enumerate(pending):
            if g is not None and g.storage.by_heads:
                if len(g.axes) > rank:
                    pending[index] = self.new("gradient by tokens", g.axes, g.dtype)
                else:
                    found = True
        return found

    def _deliver(
        self,
        targets: tuple[tuple[Node, int] | Parameter | None, ...],
        grads: list[Value | None],
        *,
        weights_first: bool,
    ) -> None:
        # Of a product with a bias, gradients of bias and weight arrive, and are added to what is there, before the
        # input's is: its weight was transposed after the input was flattened, and without a bias before.
        for index in range(len(targets) - 1, -1, -1) if weights_first else ():
            parameter, given = targets[index], [grads[index]]
            if isinstance(parameter, Parameter) and parameter.trained and given[0] is not None:
                grads[index] = None
                self.keep(parameter, given)
            del given
        grads.reverse()
        for target in targets:
            grad = grads.pop()
            if grad is None or target is None:
                continue
            if isinstance(target, Parameter):
                if target.trained:
                    given = [grad]
                    del grad
                    self.keep(target, given)
                continue
            node, index = target
            node.pending[index] = _sum(node.pending[index], grad)

    def keep(self, parameter: Parameter, given: list[Value | None]) -> None:
        """AccumulateGrad: the first gradient is kept as it is; in later passes it is added into what is there.

        It is handed over: what steps the parameter at once may let go of it.

        The gradients of a tied weight wait for each other. What a matrix product left of the first is a transposed
        view, into which nothing is added in place: the sum is a third tensor.
        """
        name, grad = parameter.name, given.pop()
        assert grad is not None
        again = name in self.reached
        self.reached.add(name)
        if name in self.begun:
            return
        stepping = self.stepping
        left = stepping is not None and stepping.leaves is not None and stepping.leaves(name)
        stepping, accumulated = None if left else stepping, self.accumulated or left
        held = self.gradients.get(name)
        if held is not None and held.storage.viewed:
            total = self.new("sum of tied gradients", grad.axes, grad.dtype)
            del self.gradients[name], grad
            grad = total
        elif held is not None and stepping is not None:
            grad = self.gradients.pop(name)
        elif held is not None or (accumulated and name != self.tied) or name.endswith(self.early):
            # Of a weight that several steps take, one gradient is added to the older one.
            if accumulated and (held is not None or not again):
                self.added[(held or grad).storage.serial] = name
            return
        if accumulated and held is not None:
            self.added[grad.storage.serial] = name
        grad.storage.category = "gradients"
        grad.storage.label = f"{name}.grad"
        if stepping is not None and (held is not None or name != self.tied):
            due: list[Any] = [parameter, grad]
            del grad
            stepping.arrived(self, due)
            return
        self.gradients[name] = grad


def _spent(*_: Value) -> Grads:
    """The step of a node that has run: what it held is gone."""
    raise AssertionError("a step of the backward pass runs once")


def needs_grad(source: Source) -> bool:
    """Whether a gradient flows to this input."""
    if isinstance(source, Parameter):
        return source.trained
    return source is not None and source.node is not None


def _fitted(made: list[Value | Later | None]) -> list[Value | None]:
    """Gradients as their tensors are: one after the other, each in place of what it is made of."""
    grads: list[Value | None] = []
    made.reverse()
    while made:
        g = made.pop()
        grads.append(g() if callable(g) else g)
    return grads


def _sum(first: Value | None, second: Value) -> Value:
    if first is None:
        return second
    if first.storage.follows:
        first.storage.by_heads = second.storage.by_heads
        first.storage.viewed = second.storage.viewed and first.storage.follows == 1
        first.storage.follows = 0
    # In place where nobody else holds what is there, which a view never is.
    if first.storage.owners == 1 and not first.storage.viewed:
        return first
    return first.storage.tape.new("sum of gradients", first.axes, first.dtype)
