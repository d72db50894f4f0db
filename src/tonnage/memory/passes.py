"""A pass over a model: what stands before the layers, each different layer once, what stands behind them.

A model's layers repeat. Each different one is run once on a tape; what it leaves saved, how high it reaches above the
level at which it started, and what its backward pass takes are then placed wherever that layer stands.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING, cast

from tonnage.arch.forward import AttentionKernel, Forward, Mixers
from tonnage.arch.loss import Loss, cross_entropy, handed_out, of_model
from tonnage.arch.masks import make_masks
from tonnage.arch.model import Model
from tonnage.arch.tape import Storage, Value
from tonnage.memory import entering
from tonnage.memory.accounts import (
    Account,
    Span,
    ahead,
    back,
    blocks,
    layer_account,
    level,
    noted,
    only_cached,
)
from tonnage.memory.entering import begun_by, caching, deepened, frozen, position_ids, tape_of, windows
from tonnage.memory.handing import Handing
from tonnage.memory.summed import Summed, Watched, highest
from tonnage.tensors import Axes
from tonnage.timeline import Level

if TYPE_CHECKING:
    from tonnage.arch.ends import Head
    from tonnage.arch.float8 import Narrow
    from tonnage.arch.fused import Fused
    from tonnage.arch.sight.pictures import Pictures
    from tonnage.arch.stepping import Stepping
    from tonnage.arch.texts import Texts
    from tonnage.arch.tuning.adapters import Tuning
    from tonnage.memory.compiled import Compiled
    from tonnage.memory.recompute import Recompute

__all__ = ["Account", "Pass", "Span", "blocks", "level"]


class Pass:
    """The accounts of a model's forward and backward pass: stem, each different layer, tail.

    Args:
        model: a model with one stack.
        batch: sequences.
        tokens: tokens a sequence.
        kernel: what computes attention.
        weights: format of the weights.
        loaded: format that buffers keep; None where it is that of the weights.
        autocast: format that autocast casts to, or None.
        recompute: which layers are checkpointed, and what of them is kept; None for none.
        accumulated: gradients of an earlier pass are there, so that new ones are added into them.
        keep_logits: the caller holds the model's output through the backward pass.
        makes_mask: attention is handed a mask even where its kernel could do without.
        tuning: matrices that are packed or have adapters, and what of the model itself is trained beside them.
        input_grads: the embedding's output needs a gradient although nothing before it is trained.
        mixer: what computes recurrent mixers.
        fused: kernels that stand for several operations of the model's code.
        narrow: matrices of the layers that are multiplied in fp8.
        loss: what computes head and loss together; None for transformers' own loss of all logits.
        stepping: what steps a parameter as soon as its gradient is there; None where gradients wait for the step.
        drops: dropout is on.
        hosts: what is saved goes to the host, and comes back for the step that asks for it.
        compiled: how layers and loss are compiled; None where the model's own code runs.
        texts: of rows that hold several, with their positions; None where a row is one.
        pictures: what a batch holds of them; None where it is text alone.
    """

    def __init__(
        self,
        model: Model,
        *,
        batch: int,
        tokens: int,
        kernel: AttentionKernel,
        weights: str,
        autocast: str | None,
        recompute: Recompute | None,
        loaded: str | None = None,
        accumulated: bool = False,
        keep_logits: bool = False,
        makes_mask: bool = False,
        tuning: Tuning | None = None,
        input_grads: bool = False,
        mixer: Mixers | None = None,
        fused: Fused | None = None,
        narrow: Narrow | None = None,
        loss: Loss | None = None,
        stepping: Stepping | None = None,
        drops: bool = True,
        hosts: bool = False,
        compiled: Compiled | None = None,
        texts: Texts | None = None,
        pictures: Pictures | None = None,
    ) -> None:
        stack = model.decoder
        self.stack = stack
        self.loss_kind = loss
        self.compiled = compiled
        self.tape = tape = tape_of(hosts, compiled)(
            grad=True, weights=weights, autocast=autocast, trained=None if tuning is None else frozen
        )
        tape.accumulated, tape.stepping, tape.buffers = accumulated, stepping, loaded or weights
        tape.wide = model.fp32
        tape.early = () if tuning is None else tuning.early
        own = None if tuning is None else tuning.own
        self.head = entering.tie(tape, model, tuning)
        f = Forward(
            tape, kernel, training=drops, tuning=tuning, mixer=mixer, fused=fused,
            input_grads=input_grads, texts=texts,
        )  # fmt: skip
        f.again = frozenset() if recompute is None else recompute.modules
        B, T = ("B", batch), ("T", tokens)
        tape.category = "inputs"
        ids = tape.new("token ids", (B, T), "int64")
        given = [ids, *(loss.inputs(tape, ids.axes) if loss is not None else ())]
        if texts is not None:
            given += texts.enter(f, ids.axes, windows(stack, tokens))
        embeds: Callable[[Value], Value] = partial(stack.stem.forward, f)
        if pictures is not None and model.eye is not None:
            # Imported late: most batches are of text.
            from tonnage.memory.seeing import shown

            more, embeds = shown(f, model.eye, pictures, ids, embeds)
            given += more
            f.checkpoints, makes_mask = recompute is not None, makes_mask or model.eye.masks
            f.nests = recompute is not None and recompute.reentrant
        self.inputs = [v.storage for v in given]
        tape.category = "activations"
        self.stem = Account()
        first = len(tape.born)
        if loss is not None:
            f.around += loss.named(tape, ids.axes)
            loss.enter(f)
        root = ahead(tape, embeds, ids, self.stem)
        # The stem's pass is the last one.
        tape.leaves.clear()
        self.stem.holds(tape)
        tape.attributes.clear()
        self.stem.casts = only_cached(tape)
        tape.casts.clear()
        if f.labels is not None:
            # Sequences have grown.
            ids, T = f.labels, f.labels.axes[1]
            tokens = T[1]
        # The embedding keeps the ids that were joined for the pass, not those of the batch.
        joined = [f.around.pop(0)] if loss is not None and loss.joins and ids.storage.owners > 1 else []
        self.stem.saved += [v.storage for v in joined]
        self.around = [v.storage for v in f.around]
        # What the model's output holds as well.
        self.told = [v.storage for v in f.around] if f.eye is not None else []
        f.eye, f.checkpoints = None, False
        # Keys and values that layers find in their cache.
        prefix, seen = f.prefixes[0] if f.prefixes else None, f.deep
        prefixes = entering.waiting(f)
        self.prefixes = [] if prefixes is None else prefixes.storages
        deepening, f.deep = deepened(seen, stack), None
        keys = f.cached + tokens
        dtype = self.stem.output.dtype
        make_masks(f, windows(stack, keys), batch, tokens, keys, f.embedded or dtype, always=makes_mask)
        framed = {v.storage for v in f.frame if v.storage.owners == 1}
        apart = {*framed, *(v.storage for v in f.shared()), *self.around, *(s for pair in self.prefixes for s in pair)}
        self.stem.saved = [s for s in self.stem.saved if s not in apart]
        told = texts is not None or (pictures is not None and model.eye is not None and model.eye.places)
        handed = [] if told else position_ids(tape, stack.stem, B, T, f.cached)
        named = []
        if f.positions is not None and any(v.storage is f.positions.storage for n in tape.nodes for v in n.saved):
            # A table that is trained keeps the indices that layers are handed; some checkpoints name them longer.
            named.append(f.positions)
        elif f.positions is not None:
            handed.append(f.positions)
            self.stem.saved = [s for s in self.stem.saved if s is not f.positions.storage]
        f.positions = None
        self.shared = [s for v in (*f.shared(), *handed) if (s := v.storage) not in self.inputs]
        if seen is not None and seen.mask.storage not in self.stem.saved:
            # The layers' graph alone keeps it.
            self.shared.append(seen.mask.storage)
        # What the model's own code names until its layers are through, and the graph does not keep.
        saved = {*self.stem.saved, *self.shared}
        self.frame = [v.storage for v in f.frame if v.storage not in {*saved, *self.around}]
        if compiled is not None and compiled.within:
            self.frame = []
        # Of these, what is let go of before the last norm: that counts them as its own.
        rebound = {v.storage for v in f.rebound}
        self.rebound = [s for s in self.frame if s in rebound]
        self.frame = [s for s in self.frame if s not in rebound]
        f.rebound = [v for v in f.rebound if v.storage in self.rebound]
        always = {v.storage for v in handed} | f.called_with()
        # What of it a checkpoint does not hold to the end though it runs a backward pass of its own.
        self.placed = frozenset({v.storage for v in f.masks.values()} if stack.placed else ())
        # A single table is handed to layers that turn nothing as well, unless the model's code picks them.
        handed_on = len(f.rotary) == 1 and not any(r.picked for r in stack.stem.rotary)
        tables = {v.storage for pair in f.rotary.values() for v in pair} if handed_on else set()
        axes = stack.stem.stream(B, T)
        # The residual stream may change its format in the first layer, so an account is for a layer and a format.
        accounts: dict[Hashable, Account] = {}
        self.layers: list[Account] = []
        flowing = [v for v in (f.bias, f.inputs, f.encoder) if v is not None and v.node is not None]
        bias = Summed(flowing) if flowing else None
        del flowing
        self.begins = highest(stack, f)
        # What is added up over the layers until the stem takes it, as the top layer's tape and the stem's name it.
        self.summed: list[Storage] = []
        self.given: list[Storage] = []
        # Which parameters a gradient arrives at: by layer, under their names below it; of the rest, under None.
        self.reached: dict[int | None, set[str]] = {}
        reached = self.reached
        flows = root is not None
        self.stem.flows = flows or prefix is not None or bias is not None
        self.stem.flows |= deepening is not None and deepening.flows
        begun, cached = begun_by(stack, tuning), caching(stack, recompute, held=keep_logits)
        handing = Handing(f)
        again = [recompute is not None and recompute.again(i) for i in range(len(stack.layers))]
        lent = entering.lending(stack, f, recompute, compiled, held=any(again))
        # The lowest checkpoint, with which what all of them hold is gone.
        self.lowest = again.index(True) if any(again) else len(again)
        # Whether the lowest layer is given what autograd accumulates into.
        collected = tape.accumulates is self.stem.output
        for index, layer in enumerate(stack.layers):
            tape.begun = begun[index]
            trained = None if own is None else own.layers[index]
            if trained is not None:
                tape.trained = trained.__contains__
            way = recompute if recompute is not None and recompute.again(index) and not layer.passed_by(f) else None
            # The gradient of what layers share begins in the top one; those of the others are added into it.
            begins = bias is None or index >= self.begins
            # What a fused norm behind the layers hands down is a view, into which nothing is added in place.
            viewed = index == len(stack.layers) - 1 and (
                (fused is not None and fused.norms is not None) or getattr(stack.norm, "hands_view", False)
            )
            before = None if deepening is None else deepening.ahead(index, way)
            way = way if before is None else None
            f.narrow = narrow if index or narrow is None else narrow.of_first(layer)
            f.prompted = None if tuning is None else tuning.prompts(index)
            key = (
                id(layer), dtype, flows, trained, way is None, begins, viewed, f.narrow, f.prompted, tape.begun,
                handing.key, 0 if lent is None else lent.key(index), collected and not index, before,
            )  # fmt: skip
            account = accounts.get(key)
            if account is None:
                f.taken.clear()
                if bias is not None and not begins:
                    bias.wait(tape)
                cache = cached(layer) if prefixes is None or prefix is None else prefixes.over(layer.forward, prefix)
                loan = None if lent is None else lent.part(index, layer)
                there = self.shared if lent is None else [*self.shared, *lent.there()]
                ran = cache or layer.forward
                watched = Watched(ran if deepening is None else deepening.within(ran, before), f, there)
                run = handing.within(watched)
                tape.lingering.clear()
                if compiled is None:
                    account = layer_account(
                        tape, run if loan is None else loan.within(run), axes, dtype, recompute=way, flows=flows,
                        viewed=viewed, cache=cache, loan=loan, leaf=collected and not index,
                    )  # fmt: skip
                else:
                    account = compiled.layer(tape, watched, axes, dtype, recompute=way, flows=flows)
                # A checkpoint holds all that the layer was called with; the graph, only what it saved.
                called = always if layer.untold else always | tables
                account.shares = frozenset(f.taken | called) if way is not None else frozenset(watched.kept)
                if "attention" in f.again:
                    account.shares |= always
                if deepening is not None:
                    account.awaited += deepening.awaited()
                account.carried = [s for s in f.carried if s not in account.left_behind()]
                handing.settle(account, again=way is not None)
                accounts[key] = account
                # It holds what layers hand on.
                del run
                if bias is not None:
                    self.summed = bias.taken() or self.summed
                reached.setdefault(id(layer), set()).update(tape.reached)
                tape.reached.clear()
                account.lingering = list(dict.fromkeys(tape.lingering))
            else:
                handing.pass_on(account, again=way is not None)
            self.layers.append(account)
            dtype, flows = account.output.dtype, flows or account.flows
            if account.loan is not None and account.loan.shared:
                bottom = self.layers[self.lowest]
                bottom.shares |= account.loan.shared
        if own is not None:
            tape.trained = own.ends.__contains__
        tape.begun, tape.accumulates = frozenset(), None
        self.dtype, self.flows = dtype, flows
        # The last norm runs while the model's code still has its names.
        self.closing: Span | None = None
        self.tied: Value | None = None
        self.waiting: list[Storage] = []
        tape.lingering.clear()
        if compiled is not None:
            compiled.begin(tape)
        self.tail = self._tail(model, f, ids, axes, keep_logits)
        if compiled is not None and compiled.within:
            self.closing = None
        self.tail.lingering = list(dict.fromkeys(tape.lingering))
        tape.lingering.clear()
        # What the layers shared is gone by the time the embedding's backward pass runs.
        handed.clear()
        if recompute is None or not recompute.reentrant:
            named.clear()
        self.kernels = f.ran
        f.frame.clear()
        f.rotary.clear()
        f.masks.clear()
        f.blocks.clear()
        f.bias = f.inputs = f.labels = f.chosen = f.encoder = f.hidden = None
        del handing
        if lent is not None:
            lent.clear()
        f.around.clear()
        f.prefixes.clear()
        prefix = seen = None
        if deepening is not None:
            deepening.let_go()
        if self.stem.flows:
            if self.tied is not None and tape.tied is not None:
                tape.gradients[tape.tied] = self.tied
                self.tied = None
            seed = [tape.new("gradient of embedding output", axes, self.stem.output.dtype)] if root is not None else []
            if bias is not None:
                self.given = bias.wait(tape)
            if prefixes is not None:
                self.given += prefixes.wait(tape, [a.awaited for a in self.layers])
            if deepening is not None:
                self.given += deepening.places.wait(tape, [a.awaited for a in self.layers])
            back(tape, root, seed, 0, first, self.stem)
        joined.clear()
        reached[None] = tape.reached

    @property
    def graph(self) -> list[Storage]:
        """What the output's graph holds when the backward pass is over: a leaf that is no parameter, its gradient, and
        attributes of steps."""
        found = [] if self.tape.collects is None else [self.tape.collects, self.tape.collects]
        for a in (self.stem, *self.layers, self.tail):
            found += [*a.held, *([a.entered] if a.holds_input else [])]
        return found

    @property
    def copied(self) -> int:
        """What the products are handed that hold their inputs, where most of it is there at once. [byte]"""
        found = [a.copied for a in (self.stem, *self.layers, self.tail)]
        return sum(kept for kept, _ in found) + max(passing for _, passing in found)

    @property
    def lingering(self) -> Level:
        """What functions of the last pass hold as long as its loss is there."""
        return sum((level(a.lingering) for a in (*self.layers, self.tail)), Level())

    @property
    def leaving(self) -> tuple[Span, ...]:
        """The tail's forward pass: up to where autocast's copies are let go of, and from there on."""
        return self._left or (self.tail.forward,)

    def _tail(self, model: Model, f: Forward, ids: Value, axes: Axes, keep_logits: bool) -> Account:
        tape, account, held, loss = self.tape, Account(), list[Value](), list[Value]()
        classes = []
        if model.classes is not None and self.loss_kind is None:
            tape.category = "inputs"
            classes.append(tape.new("labels", axes[:1], "int64"))
            self.inputs.append(classes[0].storage)

        def run(x: Value) -> Value:
            if self.stack.norm is not None:
                x = self.stack.norm.forward(f, x)
                self.closing = Span(tape, start, len(tape.events), first)
            if self.loss_kind is not None:
                # It lets go of the hidden states where the modelled code does.
                handed = [x]
                del x
                loss.append(self.loss_kind.forward(f, cast("Head", self.head), handed.pop(), ids))
                held.extend(f.logits)
                f.logits.clear()
                return loss[0]
            assert self.head is not None
            held.append(self.head.forward(f, x))
            # Where the loss is made by code around it, the model has returned.
            named = [] if self.stack.stem.around else [x]
            del x
            if model.classes is not None:
                loss.append(cross_entropy(held[0], classes[0], causal=False, wide=False))
                return loss[0]
            loss.append(of_model(self.head, held[0], ids, causal=model.causal))
            # What the head's model names beside its logits.
            f.local.clear()
            named.clear()
            handed_out(self.head, held[0])
            return loss[0]

        first = len(tape.born)
        make = tape.leaf if self.flows else tape.new
        hand = [make("layer input", axes, self.dtype)]
        leaf = hand[0].node
        source, floor, start = hand[0].storage, len(tape.nodes), len(tape.events)
        tape.category = "activations"
        # The model lets go of the last layer's output when the norm has taken it.
        y = run(hand.pop())
        account.forward = Span(tape, start, len(tape.events), first)
        self._left: tuple[Span, ...] = ()
        if tape.outside is not None:
            within = Span(tape, start, tape.outside, first)
            self._left = within, Span(tape, tape.outside, len(tape.events), first, within.end)
        # What of the pass is there where other models run.
        self.paused = [[s for s in alive if s.serial >= first] for _, alive in tape.pauses]
        root = noted(tape, account, first, y, source, 0)
        del y
        tape.casts.clear()
        self.outputs = [v.storage for v in held] if keep_logits else []
        if not keep_logits:
            held.clear()
            account.saved = [s for s in account.saved if s.owners]
        tape.category = "loss"
        # The loop holds the loss, and backward() the gradient that it starts from, until the pass is over.
        seed = tape.new("gradient of loss", account.output.axes, account.output.dtype)
        account.saved += [account.output, seed.storage]
        # What its graph holds for as long as the loss is there.
        self.context = [v.storage for v in tape.context]
        self.loss = [account.output, seed.storage, *self.context]
        tape.category = "activations"
        assert root is not None
        back(tape, root, [seed.view(seed.axes)], floor, first, account)
        account.holds(tape)
        tape.attributes.clear()
        if leaf is not None:
            account.handed = leaf.pending[0].storage if leaf.pending and leaf.pending[0] is not None else None
        waiting = None if self.compiled is None else self.compiled.tail(tape, account)
        tape.context.clear()
        # The gradient of a tied weight waits for the embedding's.
        self.tied = tape.gradients.get(tape.tied) if tape.tied is not None else None
        self.waiting = ([] if self.tied is None else [self.tied.storage]) if waiting is None else waiting
        account.gradients = [s for s in account.gradients if s not in self.waiting]
        tape.gradients.clear()
        return account
