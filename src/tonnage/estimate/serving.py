"""Memory to run a model with transformers: weights, state, the forward pass's working set, logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tonnage.arch.forward import AttentionKernel, Forward
from tonnage.arch.masks import make_masks
from tonnage.arch.model import Layer, Model
from tonnage.arch.ops import cast, copy
from tonnage.arch.tape import Tape, Value
from tonnage.errors import UnsupportedError
from tonnage.estimate.moments import Ledger, Moment
from tonnage.formats import FORMATS
from tonnage.memory.accounts import Account
from tonnage.memory.cache import has_cache, layer_state, state_bytes, states, stored_tokens
from tonnage.memory.entering import position_ids, windows
from tonnage.memory.passes import Span, blocks, level
from tonnage.memory.weights import Share, bytes_of, is_buffer, is_parameter, total
from tonnage.record import Record
from tonnage.tensors import Axes
from tonnage.timeline import Level

if TYPE_CHECKING:
    from tonnage.arch.tuning.adapters import Tuning


class Session(Record):
    """A serving workload with nothing left open.

    Args:
        dtype: format of weights and computation.
        kernel: what computes attention.
        sequences: held at once.
        context: tokens of each when it is full.
        prompt: of those, read in one pass.
        logits: "last" or "all" positions of the prompt.
        latent: whether a latent cache is kept as the latent.
        workspace: of matrix products. [byte]
        shares: the weights by part and format, where they are quantized; empty where all are in ``dtype``.
        tuning: the matrices that are packed, where a pass unpacks them.
        again: of the weights, what loading them counted twice. [byte]
        casts: autocast's copies of the weights of each layer, and of the head. [byte]
    """

    dtype: str
    kernel: AttentionKernel
    sequences: int
    context: int
    prompt: int
    logits: str
    latent: bool
    workspace: int
    shares: tuple[Share, ...] = ()
    tuning: Tuning | None = None
    again: int = 0
    casts: tuple[tuple[int, ...], ...] = ()


class Reading:
    """One forward pass without autograd over ``tokens`` new tokens after ``cached`` ones.

    ``layers`` holds, for each different layer, the account of its pass, of which ``cached`` is what its cache holds
    then and ``found`` what it held before; ``kept`` is the first in bytes, where the code hands it on in tuples.
    """

    def __init__(self, model: Model, s: Session, tokens: int, cached: int) -> None:
        self.tape = tape = Tape(grad=False, weights=s.dtype)
        tape.wide = model.fp32_for_fp16 if s.dtype == "fp16" else ()
        self.session = s
        stack = model.decoder
        f = Forward(tape, s.kernel, cached=cached, tuning=s.tuning)
        B, T = ("B", s.sequences), ("T", tokens)
        tape.category = "inputs"
        ids = tape.new("token ids", (B, T), "int64")
        # generate() keeps the ids of the whole sequence beside those of the step.
        before = [tape.new("token ids before", (B, ("S", cached)), "int64")] if cached else []
        self.inputs = [v.storage for v in (ids, *before)]
        tape.category = "activations"
        first, start = len(tape.born), len(tape.events)
        x = stack.stem.forward(f, ids)
        self.embedding = Span(tape, start, len(tape.events), first)
        make_masks(f, windows(stack, cached + tokens), s.sequences, tokens, cached + tokens, x.dtype)
        self.hidden = x.storage
        self.dtype = x.dtype
        places = position_ids(tape, stack.stem, B, T, cached)
        framed = [v for v in f.frame if v.storage is not x.storage]
        self.shared = [v.storage for v in (*f.shared(), *places, *framed)]
        # From here on layers run.
        self.begun = len(tape.events)
        # The model's code names the embedding to its end: the first layer's input outlives that layer.
        self.names_first = len(framed) < len(f.frame)
        del x
        axes = stack.stem.stream(B, T)
        self.order, self.tupled, self.kept = stack.layers, stack.tupled, dict[int, Level]()
        self.layers = {id(layer): self._layer(f, layer, axes) for layer, _ in stack.distinct()}
        self.kernels = f.ran
        self.head = self._head(model, f, axes, 1 if s.logits == "last" else tokens)

    def _layer(self, f: Forward, layer: Layer, axes: Axes) -> Account:
        tape = self.tape
        first = len(tape.born)
        held: list[Value] = []

        def store(new: tuple[Value, ...], window: int | None) -> tuple[Value, ...]:
            # Each part is joined with what is cached, and takes its place.
            for part in new:
                if self.tupled and not f.cached:
                    held.append(part.view(part.axes))
                    continue
                tape.category = "kv_cache"
                grown = tape.new("cache", _grown(part.axes, seen(f.cached, window)), part.dtype)
                tape.category = "activations"
                if old and not self.tupled:
                    old.pop(0)
                held.append(grown)
            return tuple(v.view(v.axes) for v in held)

        def seen(cached: int, window: int | None) -> int:
            return cached if window is None else min(cached, window - 1)

        x = tape.new("layer input", axes, self.dtype)
        account = Account()
        account.entered = account.input = x.storage
        tape.category = "kv_cache"
        old = self._cached(f, layer)
        tape.category = "activations"
        account.found = [v.storage for v in old]
        start = len(tape.events)
        # An encoder keeps nothing of what it has read.
        f.store = store if any(t.role == "cache" for t, _ in states(layer, 1, 1)) else None
        y = layer.forward(f, x)
        account.left = account.output = y.storage
        account.carried = list(f.carried)
        account.forward = Span(tape, start, len(tape.events), first)
        f.store = None
        account.cached = list(dict.fromkeys(v.storage for v in held))
        self.kept[id(layer)] = level(account.cached)
        del x, y
        held.clear()
        return account

    def _cached(self, f: Forward, layer: Layer) -> list[Value]:
        """What this layer has cached before, one value for each part."""
        if not f.cached:
            return []
        parts = []
        for t, window in states(layer, self.session.sequences, f.cached, latent=self.session.latent):
            if t.role == "cache":
                axes = tuple((a, stored_tokens(n, window)) if a == "S" else (a, n) for a, n in t.axes)
                parts.append(self.tape.new("cache", axes, self.dtype))
        return parts

    def _head(self, model: Model, f: Forward, axes: Axes, positions: int) -> Account:
        tape, account = self.tape, Account()
        first = len(tape.born)
        x = tape.new("layer input", axes, self.dtype)
        account.entered = account.input = x.storage
        start = len(tape.events)
        if model.decoder.norm is not None:
            x = model.decoder.norm.forward(f, x)
        if model.head is not None:
            # Only the positions that are asked for go through the head; they are a view.
            kept = x.view((axes[0], ("T", positions), axes[2]))
            logits = model.head.forward(f, kept)
            if model.causal:
                # generate() copies the last position in fp32.
                last = logits.view((axes[0], ("X", 1), logits.axes[2]))
                copy(last) if last.dtype == "fp32" else cast(last, "fp32")
        account.forward = Span(tape, start, len(tape.events), first)
        return account


def _grown(axes: Axes, cached: int) -> Axes:
    """Axes of the cache after it has taken a part in: heads before tokens, as ``torch.cat`` lays it out."""
    longer = [("S", n + cached) if a == "T" else (a, n) for a, n in axes]
    if len(longer) == 4 and longer[1][0] == "S":
        longer[1], longer[2] = longer[2], longer[1]
    return tuple(longer)


class Run(Ledger):
    """The instants of serving: load, prefill, decode."""

    def __init__(self, model: Model, session: Session) -> None:
        super().__init__()
        self.model = model
        self.session = session
        self.form = form = FORMATS[session.dtype]
        groups = list(model.groups())
        if session.shares:
            self.weights, self.tensors = total(session.shares), sum(s.tensors for s in session.shares)
        else:
            self.weights, self.tensors = bytes_of(groups, form, is_parameter)
        self.buffers, _ = bytes_of(groups, self.form, is_buffer)
        self.state = state_bytes(model, session.sequences, session.context, form, role="state")
        self.missing: list[str] = []
        self.prefill = self._reading(session.prompt, 0)
        grows = session.prompt < session.context and has_cache(model)
        self.decode = self._reading(1, session.context - 1) if grows else None

    def _reading(self, tokens: int, cached: int) -> Reading | None:
        try:
            return Reading(self.model, self.session, tokens, cached)
        except UnsupportedError as e:
            if e.message not in self.missing:
                self.missing.append(e.message)
            return None

    def static(self) -> Level:
        """Begin with what is resident between requests."""
        self.clear()
        for share in self.session.shares:
            self.take(f"weights: {share.what}", "weights", share.what, share.level)
        if not self.session.shares:
            self.take("weights", "weights", "parameters", self.weights)
        self.take("buffers", "other:buffers", "buffers", self.buffers)
        return self.now

    def moments(self) -> Iterator[Moment]:
        """Every instant in order."""
        yield Moment("load", self.static())
        s = self.session
        self.take("workspace", "workspace", "matrix products", Level(0, blocks(s.workspace)))
        self.take("state", "recurrent_state", "state", self.state)
        # A windowed layer keeps the length of its window as a tensor.
        windowed = sum(any(w is not None for _, w in states(layer, 1, 1)) for layer in self.model.decoder.layers)
        self.take("windows", "other:buffers", "buffers", Level(8, blocks(8)).times(windowed))
        if self.prefill is not None:
            yield from self._pass("prefill", self.prefill, 0, s.prompt)
        if self.decode is not None:
            yield from self._pass("decode", self.decode, s.context - 1, s.context)
        if self.prefill is None and self.decode is None:
            # The blocks' working set is not modelled: what is resident while decoding is a lower bound.
            self.take(
                "cache",
                "kv_cache",
                "cache",
                state_bytes(self.model, s.sequences, s.context, self.form, latent=s.latent),
            )
            yield Moment("decode", self.now)

    def _pass(self, name: str, reading: Reading, cached: int, after: int) -> Iterator[Moment]:
        """The instants of one pass: the cache of the layers that are through has grown, that of the others not yet."""
        layers, tupled = self.model.decoder.layers, reading.tupled
        old = {id(layer): self._state(layer, cached, whole=False) for layer in layers}
        new = {id(layer): self._state(layer, after, whole=not cached) for layer in layers}
        if tupled:
            new = reading.kept
            old = self.prefill.kept if self.prefill is not None and cached == self.session.prompt else old
        H = level([reading.hidden])
        there = Level()
        for layer in layers:
            there = there + old[id(layer)]
        self.take("inputs", "inputs", "token ids", level(reading.inputs), reading.inputs)
        self.take("cache", "kv_cache", "cache", there)
        yield Moment(f"{name}: embedding", self.now + reading.embedding.peak, reading.embedding)
        self.take("shared", "activations", "shared by the layers", level(reading.shared), reading.shared)
        for i, layer in enumerate(layers):
            # A layer's own cache is part of its pass: it is there twice while it grows.
            own, account = old[id(layer)], reading.layers[id(layer)]
            self.drop_all("cache")
            self.take("cache", "kv_cache", "cache", there - own)
            self._cast(i)
            yield Moment(f"{name}: layer {i}", self.now + own + H + account.forward.peak, account.forward)
            there = there + new[id(layer)] if tupled else there - own + new[id(layer)]
            if not i and reading.names_first:
                self.take("first", "activations", "named by the model's code", H, [reading.hidden])
            elif i and self.model.decoder.keeps:
                self.take("passed", "activations", "outputs of earlier layers", H, [reading.hidden])
            self.drop_all("carried")
            carried = account.carried
            self.take("carried", "activations", "attention weights of the layer before", level(carried), carried)
        for key in ("shared", "first", "passed", "carried", "cache"):
            self.drop_all(key)
        self.take("cache", "kv_cache", "cache", there)
        self._cast(len(layers))
        head = reading.head.forward
        yield Moment(f"{name}: logits", self.now + H + head.peak, head)
        for key in ("cache", "inputs", *(f"casts {i}" for i in range(len(layers) + 1))):
            self.drop_all(key)

    def _cast(self, index: int) -> None:
        """Autocast has copied a layer's weights, or the head's, which stay until the pass is over."""
        for sizes in self.session.casts[index : index + 1]:
            unit = Level(sum(sizes), sum(map(blocks, sizes)))
            self.take(f"casts {index}", "activations", "autocast's copies of weights", unit)

    def _state(self, layer: Layer, tokens: int, *, whole: bool) -> Level:
        s = self.session
        if not tokens:
            return Level()
        return layer_state(layer, s.sequences, tokens, self.form, latent=s.latent, whole=whole)
