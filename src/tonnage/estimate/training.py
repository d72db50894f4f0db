"""Memory of one optimizer step on one device: its instants in order, and what is alive at any of them."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from tonnage.arch.model import Model
from tonnage.arch.tape import WIDTH, Parameter
from tonnage.estimate.moments import Moment
from tonnage.estimate.outputs import BEFORE, CACHE, GRAPH, KEPT, TOLD, Outputs
from tonnage.estimate.recipe import COPIED, Recipe
from tonnage.estimate.trained import reached
from tonnage.estimate.weighed import Weighed
from tonnage.formats import FORMATS
from tonnage.memory.accounts import summed
from tonnage.memory.optimizers import highest
from tonnage.memory.passes import Account, Pass, blocks, level
from tonnage.memory.steps import clipped
from tonnage.memory.weights import bytes_of, is_buffer, is_parameter, total
from tonnage.tensors import Tensor
from tonnage.timeline import Level

if TYPE_CHECKING:
    from tonnage.arch.stepping import Stepping
    from tonnage.arch.tape import Storage
    from tonnage.memory.lending import Loan


AGAIN: Final = "shared keys and values, and what made them again"
LENT: Final = "keys and values that layers share"
HELD: Final = "inputs that products of 8 bit hold until the graph is gone"


class Step(Outputs, Weighed):
    """One optimizer step.

    ``moments()`` walks through it. While it stands at a moment, the ledger lists what is alive beside what the
    moment's span itself holds. A pass ``hands`` out all hidden states, named until it is over, or is ``taped`` as one.
    """

    hands = taped = False

    def __init__(self, model: Model, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.form = FORMATS[recipe.weights]
        self.groups = groups = list(model.groups())
        if recipe.shares:
            self.weights, self.tensors = total(recipe.shares), sum(s.tensors for s in recipe.shares)
        else:
            self.weights, self.tensors = bytes_of(groups, self.form, is_parameter)
        self.buffers, _ = bytes_of(groups, FORMATS[recipe.loaded or recipe.weights], is_buffer)
        self.nests = recipe.plan is not None and recipe.plan.reentrant
        self.passes = self.passed(model, accumulated=recipe.accumulate > 1 or recipe.keep_gradients or recipe.master)
        way, stream = recipe.way(), self.passes.stem.output.nbytes
        self.staged = way is not None and way.staged is not None and stream > way.staged
        self.resident = () if recipe.resident is None else recipe.resident(model, recipe.tuning, stream, way)
        # What is trained, each tensor in its own format or else the weights'.
        beside = (*recipe.adapters, *recipe.own) if recipe.tuning else None
        self.trained, self.idle = reached(model, groups, self.passes, beside)
        self.grown = summed((self.bytes_of(t), times) for t, times in self.trained)
        self.state = self._state(recipe.optimizer.resident)
        self.state += summed((n, 1) for n in self.tables())
        self.paged = self._state(recipe.optimizer.outside)

    def passed(self, model: Model, *, accumulated: bool) -> Pass:
        """The accounts of a pass; ``accumulated`` where gradients are there already."""
        recipe = self.recipe
        return Pass(
            model,
            batch=recipe.batch,
            tokens=recipe.tokens,
            kernel=recipe.kernel,
            weights=recipe.weights,
            loaded=recipe.loaded,
            autocast=recipe.autocast,
            recompute=recipe.way(),
            accumulated=accumulated,
            makes_mask=recipe.makes_mask,
            keep_logits=recipe.keep_logits,
            tuning=recipe.tuning,
            input_grads=recipe.input_grads,
            mixer=recipe.mixer,
            fused=recipe.fused,
            narrow=recipe.narrow,
            loss=recipe.loss,
            stepping=self.stepping(),
            drops=recipe.drops,
            hosts=recipe.hosts,
            compiled=recipe.compiled,
            texts=recipe.texts,
            pictures=recipe.pictures,
        )

    def stepping(self) -> Stepping | None:
        """What steps within the backward pass; None where the step waits for its end."""
        if not self.recipe.in_backward:
            return None
        # Imported late: most steps wait.
        from tonnage.arch.stepping import Stepping

        o = self.recipe.optimizer
        return Stepping(self._stepped, late=o.late, leaves=o.leaves)

    def _stepped(self, p: Parameter) -> Iterable[list[int] | tuple[int, int]]:
        """What the optimizer's step for one parameter takes for a moment. [byte]"""
        known = (t for _, inventory in self.groups for t in inventory if (t.name, t.axes) == (p.name, p.axes))
        t = next(known, Tensor(p.name, p.axes, "norm"))
        return self.recipe.optimizer.step([(t, WIDTH[p.dtype], 1)])

    def static(self) -> Level:
        """Begin with what is resident between steps."""
        r = self.recipe
        self.clear()
        for share in r.shares:
            self.take(f"weights: {share.what}", "weights", share.what, share.level)
        if not r.shares:
            self.take("weights", "weights", "parameters", self.weights)
        if r.tuning is not None:
            held = [(t, times) for t, times in r.beside if t.role == "buffer"]
            frozen = [(t, times) for t, times in r.beside if t.role != "buffer"]
            for name, component, tensors in (
                ("adapters", "weights", r.adapters), ("beside", "weights", frozen), ("held", "other:buffers", held)
            ):  # fmt: skip
                self.take(name, component, name, summed((self.bytes_of(t), times) for t, times in tensors))
        if r.master:
            copies = summed((4 * t.numel, times) for t, times in self.trained)
            self.take("master", "master_weights", "master weights", copies)
            self.take("main gradients", "gradients", "main gradients", copies)
        self.take("buffers", "other:buffers", "buffers", self.buffers)
        for what, n in self.resident:
            self.take(what, "other:buffers", what, Level(n, blocks(n)))
        if r.scales:
            self.take("scales", "other:buffers", "fp8 scales", summed(r.scales))
        for other in r.others:
            self.take(other.what, "weights", other.what, other.weights)
            self.take(f"{other.what} buffers", "other:buffers", f"{other.what} buffers", other.buffers)
        if r.averaged:
            self.take("averages", "other:averages", "averages", self.weights + self.buffers + Level(8, blocks(8)))
        if r.rollout is not None and not r.rollout.sleeps:
            self.take("engine", "other:engine", "engine", Level(r.rollout.engine, r.rollout.engine))
        if not r.first_step:
            self.take("state", "optimizer_state", r.optimizer.why, self.state)
            if r.rollout is not None:
                self.take("scores", "logits", KEPT, r.rollout.scores)
        # Each thread that multiplies matrices keeps its workspace: the program's own and the backward pass's.
        self._workspace()
        self.multiplied = not r.first_step
        if self.multiplied:
            self._workspace()
        return self.now

    def _workspace(self) -> None:
        self.take("workspace", "workspace", "matrix products", Level(0, blocks(self.recipe.workspace)))

    def moments(self) -> Iterator[Moment]:
        """Every instant in order."""
        self.static()
        r, p = self.recipe, self.passes
        if (r.accumulate > 1 or r.keep_gradients) and not r.master:
            self.take("gradients before", "gradients", "of earlier passes", self.grown)
        if r.in_backward:
            kept = summed((self.bytes_of(t), times) for t, times in self.left())
            self.take("gradients left", "gradients", "gradients that stay", kept)
        self.take("inputs", "inputs", "token ids", level(p.inputs), p.inputs)
        # A loop's variable still holds the last step's loss, but where a trainer lets go of all its names.
        loss = [p.tail.output, *p.context]
        if not r.first_step and r.critic is None:
            self.take("loss before", "loss", "of the last pass", level(loss), loss)
            self.take("lingering", "activations", "inputs that the last pass's packed products hold", p.lingering)
        # So does one that holds outputs: within a step that of the pass before, or the last step's.
        if (r.keep_step and r.accumulate > 1) or (r.keep_last and not r.first_step):
            self.hold(BEFORE)
        if r.rollout is not None:
            from tonnage.estimate.rollout import phases

            yield from phases(self, r.rollout)
        yield from self.passing()
        yield from self._stepping()

    def passing(self) -> Iterator[Moment]:
        """Forward and back."""
        stages, H = yield from self.forward()
        yield from self.backward(stages, H)

    def forward(self) -> Generator[Moment, None, tuple[list[Account], list[Level]]]:
        """The forward pass; returns the stages and their outputs, as the backward pass wants them."""
        r, p, stack = self.recipe, self.passes, self.model.decoder
        # An embedding's output that collects a gradient stays though it is copied.
        leaf = r.offloads and p.stem.keeps_output
        yield Moment("forward embedding", self.now + p.stem.forward.peak, p.stem.forward)
        self.take("stem", "activations", "kept by the embedding", p.stem.kept(), p.stem.saved)
        casts = p.stem.casts
        self.take(f"casts {_key(p.stem)}", "activations", "autocast's copies of weights", level(casts), casts)
        self.take("shared", "activations", "shared by the layers", level(p.shared), p.shared)
        stages = [p.stem, *p.layers, p.tail]
        H = [level([below.output]) for below in stages[:-1]]
        # A layer's input outlives the layer when either of its neighbours keeps it for the backward pass.
        kept = [below.keeps_output or above.keeps_input for below, above in pairwise(stages)]
        framed = [s for s in p.frame if s is not p.stem.output]
        self.take("frame", "activations", "named by the model's code", level(framed), framed)
        self.take("rebound", "activations", "named by the model's code", level(p.rebound), p.rebound)
        around = [s for s in p.around if s is not p.stem.output]
        self.take("around", "activations", "named by code around the model", level(around), around)
        for pair in p.prefixes:
            self.take("prefix", "activations", "keys and values before a layer's own", level(pair), pair)
        for i, layer in enumerate(stack.layers):
            a = stages[i + 1]
            if a.found:
                self.drop("prefix")
            stream = f"stream {stages[i].output.dtype}"
            self.take(stream, "activations", "layer inputs", H[i], [stages[i].output])
            if r.offloads and i >= COPIED:
                # Copied by now: the host alone holds what an earlier layer was given, and the model's code its first.
                self.drop(f"stream {stages[i - COPIED].output.dtype}")
                if i == COPIED and (leaf or p.stem.output in (*p.frame, *p.around)):
                    self.take("first", "activations", "named by the model's code", H[0], [p.stem.output])
            yield Moment(f"forward layer {i}", self.now + a.forward.peak, a.forward)
            if self.away(i):
                self.drop(stream)
                if not i and p.stem.output in (*p.frame, *p.around):
                    self.take("first", "activations", "named by the model's code", H[0], [p.stem.output])
            if not kept[i]:
                self.drop(stream)
                if self.hands:
                    self.take(f"handed {stages[i].output.dtype}", "activations", "hidden states handed out", H[i])
                elif not i and p.stem.output in (*p.frame, *p.around):
                    self.take("first", "activations", "named by the model's code", H[0], [p.stem.output])
                elif i and stack.keeps:
                    self.take("passed", "activations", "outputs of earlier layers", H[i], [stages[i].output])
            self.take(
                _key(a),
                "activations",
                f"saved by a{'n' * (layer.kind[0] in 'aeio')} {layer.kind}",
                level(a.left_behind()),
                a.left_behind(),
            )
            self.take(f"casts {_key(a)}", "activations", "autocast's copies of weights", level(a.casts), a.casts)
            self.drop_all("carried")
            self.take("carried", "activations", "handed on by the layer before", level(a.carried), a.carried)
            self.take(f"called {_key(a)}", "activations", "held by a layer's checkpoint", level(a.called), a.called)
            if a.loan is not None:
                self.take(f"lent {a.loan.name}", "activations", LENT, level(a.loan.lent), a.loan.lent)
            if self.hands or a.caches:
                self.take(f"handed {id(a)}", "kv_cache", "keys and values handed out", level(a.apart()), a.apart())
        self.drop("rebound")
        if p.closing is not None:
            yield Moment("last norm", self.now + H[-1] + p.closing.peak, p.closing)
        lent = [a.loan for a in p.layers if a.loan is not None]
        names = [f"lent {loan.name}" for loan in lent]
        for key in ("shared", "frame", "passed", "carried", *names, *(() if p.stem.output in p.around else ("first",))):
            self.drop_all(key)
        for s in (*p.shared, *(s for loan in lent for s in loan.lent)):
            if any(s in a.shares for a in p.layers):
                self.take(f"shared {s.serial}", "activations", "shared by the layers", level([s]), [s])
        for below in stages[:-2] if r.offloads else ():
            # The last norm saves more than are copied at once.
            self.drop_all(f"stream {below.output.dtype}")
        if leaf:
            self.take("leaf", "activations", "embedding's output, a leaf of the graph", H[0], [p.stem.output])
        cached = sum((self.held_by(f"casts {_key(a)}") for a in dict.fromkeys((p.stem, *p.layers))), Level())
        within, beyond = p.leaving[0], p.leaving[-1]
        late = beyond.peak.allocated > within.peak.allocated + cached.allocated
        if not late:
            yield Moment("loss", self.now + H[-1] + within.peak, within)
        for a in (p.stem, *p.layers):
            self.drop_all(f"casts {_key(a)}")
        if late:
            yield Moment("loss", self.now + H[-1] + beyond.peak, beyond)
        yield from self._others()
        self.drop_all("loss before")
        self.drop_all("lingering")
        for key in (
            BEFORE,
            BEFORE + CACHE,
            BEFORE + TOLD,
            BEFORE + GRAPH,
            "around",
            "first",
            *(f"handed {id(a)}" for a in p.layers if a.caches),
        ):
            self.drop_all(key)
        if kept[-1]:
            self.take(f"stream {stages[-2].output.dtype}", "activations", "layer inputs", H[-1], [stages[-2].output])
        early = [(t, n) for t, n in self.trained if r.tuning is not None and t.name.endswith(r.tuning.early)]
        if early and not (r.accumulate > 1 or r.keep_gradients):
            grown = summed((self.bytes_of(t), n) for t, n in early)
            self.take("gradients early", "gradients", "of a term of the loss", grown)
        return stages, H

    def _others(self) -> Iterator[Moment]:
        """Other models run while the pass pauses: all that it saved is there."""
        for other, there in zip([o for o in self.recipe.others if o.reading], self.passes.paused, strict=False):
            assert other.reading is not None
            self.take_each("paused", "kept by the head", there)
            yield from self.reading(other.what, other.reading)
            for key in [k for k in self.held if k.startswith("paused")]:
                self.drop_all(key)

    def away(self, index: int) -> bool:
        """Whether what a layer was given is on the host alone until its backward pass, which finds it in a buffer.

        The last layer's stays, and so does what the graph of the embedding keeps.
        """
        last = index == len(self.passes.layers) - 1
        return self.staged and not last and not (not index and self.passes.stem.keeps_output)

    def backward(self, stages: list[Account], H: list[Level]) -> Iterator[Moment]:
        """From the loss down."""
        r, p = self.recipe, self.passes
        self.hold_rest("outputs", graphless=True)
        for i in range(len(stages) - 1, -1, -1):
            a = stages[i]
            here = a.kept()
            # What this stage keeps of its input and output is part of its own account from now on.
            if i < len(H) and a.keeps_output:
                self.drop(f"attribute {i}")
                if not stages[i + 1].keeps_input:
                    self.drop(f"stream {a.output.dtype}")
                here = here + H[i]
            if i and a.keeps_input and not (i < len(stages) - 1 and self.away(i - 1)):
                if not r.offloads or i == len(stages) - 1:
                    self.drop(f"stream {stages[i - 1].output.dtype}")
                here = here + H[i - 1]
            if i == len(stages) - 1:
                waits = not self.multiplied and a.backward.before_products(blocks(r.workspace))
                if not self.multiplied and not waits:
                    self._workspace()
                self.multiplied = True
                yield Moment("loss backward", self.now + here + a.backward.peak, a.backward)
                if waits:
                    self._workspace()
                self.take("outputs", "logits", "held by the caller", level(p.outputs), p.outputs)
                self.take("tied", "gradients", "of the tied head", level(p.waiting), p.waiting)
                self.take("loss", "loss", "the loss and where its gradient starts", level(p.loss), p.loss)
                self._held(stages, i)
            elif i:
                name = f"backward layer {i - 1}"
                self.drop(_key(a))
                if a.loan is not None:
                    self.drop(f"lent gradients {a.loan.name}")
                    here = here + level(a.loan.due)
                if not a.flows and stages[0].flows:
                    # Only what lies beside the text needs a gradient below.
                    continue
                if not a.flows:
                    # Nothing below needs a gradient: what the graph held ends here.
                    for key in [
                        k for k in self.held if k.startswith(("stream", "account", "stem", "shared", "called", "lent"))
                    ]:
                        self.drop_all(key)
                    break
                best = Moment(name, self.now + here + H[i] + a.backward.peak, a.backward)
                if a.recompute is not None:
                    given = Level() if self.away(i - 1) else H[i - 1]
                    due = Level() if a.loan is None else level(a.loan.due)
                    again = self.now + level(a.left_behind()) + given + H[i] + due + a.recompute.peak
                    if again.allocated > best.level.allocated:
                        best = Moment(name, again, a.recompute)
                yield best
                self._held(stages, i)
                if not self.nests:
                    self.drop(f"called {_key(a)}")
                if p.outputs and a.caches:
                    kept = [s for s in a.cached if s in a.left_behind()]
                    self.take(f"outputs{CACHE} {id(a)}", "kv_cache", "held by the caller", level(kept), kept)
                self.take(f"awaited {id(a)}", "activations", "gradients of prefixes", level(a.awaited), a.awaited)
                if i - 1 == p.begins:
                    self.take("summed", "activations", "gradients of what the layers share", level(p.summed), p.summed)
                if a.loan is not None:
                    self._lent(a, a.loan, stages[i - 1].output)
                if i - 1 == p.lowest:
                    for key in [k for k in self.held if k.startswith("lent again")]:
                        self.drop_all(key)
                # What is shared lives until the lowest layer that keeps it is through, or as long as the loss's graph,
                # of which a nested checkpoint is a node that holds what the layer was called with.
                for s in a.shares & p.placed if self.nests else a.shares:
                    if not any(s in below.shares for below in p.layers[: i - 1]):
                        self.drop_all(f"shared {s.serial}")
            elif a.flows:
                self.drop("stem")
                self.drop("leaf")
                # The embedding's pass adds its gradient to the one that the tied head left, into a third tensor.
                self.drop("tied")
                # What the layers have summed for the stem is the stem's own from here on.
                self.drop("summed")
                for above in p.layers:
                    self.drop(f"awaited {id(above)}")
                here = here + level(p.waiting) + level(p.given) + (Level() if a.seed is None else H[0])
                yield Moment("backward embedding", self.now + here + a.backward.peak, a.backward)
            held = level(a.lingering)
            self.take(f"lingering {_key(a)}", "activations", "inputs that packed products hold", held, a.lingering)
            of = "the head" if i == len(stages) - 1 else "a layer" if i else "the embedding"
            self.take(f"gradients {_key(a)}", "gradients", f"of {of}", a.grown(), a.gradients)
        ends = [key for key in self.held if key.startswith("outputs" + CACHE)]
        ends += [key for key in self.held if key.startswith(("attribute", "called"))]
        for key in ("outputs", "outputs" + TOLD, "leaf", *ends, *(f"shared {s.serial}" for s in p.shared)):
            self.drop_all(key)
        if r.keep_step:
            self.hold()
        self.drop("loss")
        if r.compiled is not None and self.passes.tape.accumulated:
            # One graph hands out all gradients when it is through, which are then added into what is there.
            for key in [k for k in self.held if k.startswith("gradients ") and k != "gradients before"]:
                self.drop_all(key)
        loss = [p.tail.output, *p.context]
        self.take("loss itself", "loss", "the loss itself", level(loss), loss)

    def _lent(self, a: Account, loan: Loan, source: Storage) -> None:
        """What a layer that has run back leaves of keys and values that layers share."""
        self.take(f"lent gradients {loan.name}", "activations", f"gradients of {LENT}", level(loan.back), loan.back)
        stays = [*loan.stays, *([source] if loan.holds_input else [])]
        self.take(f"lent again {loan.name}", "activations", AGAIN, level(stays), stays)

    def _held(self, stages: list[Account], i: int) -> None:
        """What the graph holds of a stretch whose backward pass is through: its own, its output, its input."""
        a = stages[i]
        self.take(f"attributes {_key(a)}", "activations", HELD, level(a.held), a.held)
        above = i + 1 < len(stages) and stages[i + 1].holds_input and a.keeps_output
        for at in (i,) * above + (i - 1,) * a.holds_input:
            self.take(f"attribute {at}", "activations", HELD, level([stages[at].output]), [stages[at].output])

    def _stepping(self) -> Iterator[Moment]:
        r = self.recipe
        if r.clips:
            self.take("norms", "gradients", "their norms", highest(clipped(self.widths()))[0])
            yield Moment("gradient clipping", self.now)
            self.drop("norms")
        if r.first_step:
            self.take("state", "optimizer_state", r.optimizer.why, self.state)
        if not r.in_backward:
            transient, shrunk = highest(r.optimizer.step(self.one_by_one() if r.optimizer.shrinks else self.widths()))
            if shrunk.allocated:
                self.lessen("gradients", "gradients as the step leaves them", shrunk)
            self.take("step", "optimizer_state", "the step's own", transient)
            yield Moment("optimizer step", self.now)
            self.drop("step")
        for key in ("outputs", "outputs" + CACHE, "outputs" + TOLD, "outputs" + GRAPH):
            self.drop_all(key)
        if r.evaluates is not None:
            from tonnage.estimate.evaluation import evaluated

            yield from evaluated(self)


def _key(account: Account) -> str:
    return f"account {id(account)}"
