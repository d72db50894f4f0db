"""A pass over an encoder and a decoder, on one tape from the embedding to the embedding's gradient.

What the encoder makes is named and taken by every layer of the decoder, which hands gradients back to it, and T5's
first layers make a bias for the others: the stretches of such a model do not lie one behind the other as those of
``memory/passes.py`` do. Here every layer runs where it stands.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/ (t5/modeling_t5.py,
bart/modeling_bart.py: the classes for conditional generation)

Leaves out: layers that are dropped at random (``encoder_layerdrop``), counted as if they ran; masks of padded texts.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tonnage.arch import ops
from tonnage.arch.again import several
from tonnage.arch.forward import AttentionKernel, Forward
from tonnage.arch.loss import cross_entropy
from tonnage.arch.masks import make_masks
from tonnage.arch.model import Layer, Model, Stack
from tonnage.arch.sound import Sound
from tonnage.arch.tape import Storage, Tape, Value
from tonnage.memory.accounts import Account, Span, blocks
from tonnage.memory.passes import frozen, windows
from tonnage.timeline import Level

if TYPE_CHECKING:
    from tonnage.arch.adapters import Tuning
    from tonnage.arch.stepping import Stepping
    from tonnage.memory.recompute import Recompute


SHARED: Final = ("encoder", "bias", "zeros")
"""What layers are handed beside masks, as ``Forward`` names it."""


class Part:
    """A stretch of the tape, and the number of steps of the backward pass that were there before it."""

    __slots__ = ("floor", "name", "start", "stop")

    def __init__(self, name: str, start: int, floor: int) -> None:
        self.name = name
        self.start = start
        self.stop = start
        self.floor = floor


class Paired:
    """The pass, as ``parts`` of its tape in order.

    Args:
        model: with an encoder and a decoder.
        batch: pairs of texts.
        tokens: of a text that is read.
        targets: of one that is written.
        kernel: what computes attention.
        weights: format of the weights.
        autocast: format that autocast casts to, or None.
        recompute: layers are checkpointed: all of them, or none where it is None.
        accumulated: gradients of an earlier pass are there.
        keep_logits: the caller holds the model's output through the backward pass.
        makes_mask: attention is handed a mask even where its kernel could do without.
        stepping: as ``memory/passes.py`` has it.
        drops: dropout is on.
        tuning: as ``memory/passes.py`` has it; of the model's own weights none is trained then.
        input_grads: what the embeddings make needs a gradient although their tables are frozen.
    """

    def __init__(
        self,
        model: Model,
        *,
        batch: int,
        tokens: int,
        targets: int,
        kernel: AttentionKernel,
        weights: str,
        autocast: str | None,
        recompute: Recompute | None = None,
        accumulated: bool = False,
        keep_logits: bool = False,
        makes_mask: bool = False,
        stepping: Stepping | None = None,
        drops: bool = True,
        tuning: Tuning | None = None,
        input_grads: bool = False,
    ) -> None:
        assert model.head is not None
        encoder, decoder = model.stacks
        self.model, self.recompute, self.always = model, recompute, makes_mask
        self.tape = tape = Tape(
            grad=True, weights=weights, autocast=autocast, trained=None if tuning is None else frozen
        )
        tape.accumulated, tape.stepping = accumulated, stepping
        tape.wide = model.fp32_for_fp16 if weights == "fp16" else ()
        # One table for both stacks, or for the head as well: its gradients wait for each other.
        tape.tied = model.head.alias_of or decoder.stem.alias_of
        tape.category = "inputs"
        B = ("B", batch)
        if isinstance(encoder.stem, Sound):
            ids = encoder.stem.features(tape, batch)
        else:
            ids = tape.new("token ids", (B, ("T", tokens)), "int64")
        labels = tape.new("labels", (B, ("T", targets)), "int64")
        self.inputs = [ids.storage, labels.storage]
        self.first = len(tape.born)
        tape.category = "activations"
        self.parts: list[Part] = []
        make = partial(Forward, tape, kernel, training=drops, tuning=tuning, input_grads=input_grads)
        loss, logits = self._forward(make(), make(), encoder, decoder, ids, labels)
        self.turn = len(self.parts)
        if not keep_logits:
            logits.clear()
        self.outputs = [v.storage for v in logits]
        self.graph: list[Storage] = []
        tape.casts.clear()
        assert loss.node is not None
        self._backward(loss)
        self.grown = [v.storage for v in tape.gradients.values()]
        logits.clear()
        # What a step of one pass over one stack is asked for as well.
        self.tail = self.stem = Account()
        self.tail.output = loss.storage
        self.layers: list[Account] = []
        self.context: list[Storage] = []
        self.lingering = Level()
        self.reached = self._reached()
        self.held = loss

    def _part(self, name: str) -> None:
        """Another part begins."""
        position = len(self.tape.events)
        if self.parts:
            self.parts[-1].stop = position
        self.parts.append(Part(name, position, len(self.tape.nodes)))

    def _forward(
        self, f: Forward, g: Forward, encoder: Stack, decoder: Stack, ids: Value, labels: Value
    ) -> tuple[Value, list[Value]]:
        assert self.model.head is not None
        assert self.model.pair is not None
        self._part("forward encoder embedding")
        moved = _moved(labels) if self.model.pair.shifts_first else None
        g.encoder = self._through(encoder, f, ids)
        self._part("forward decoder embedding")
        moved = moved or _moved(labels)
        states = self._through(decoder, g, moved)
        self.kernels = f.ran | g.ran
        self._part("loss")
        head = self.model.head
        # The model's code names what the head is given as long as its own output.
        given = ops.scaled(states, "scaled hidden states") if head.divided else states
        logits = [head.but(divided=False).forward(g, given)]
        loss = cross_entropy(logits[0], labels, causal=False, wide=False)
        self.tape.category = "activations"
        # The output that the caller is handed names the encoder's states too.
        logits.append(g.encoder)
        g.encoder = None
        return loss, logits

    def _through(self, stack: Stack, f: Forward, ids: Value) -> Value:
        """Embedding, layers and norm."""
        x = stack.stem.forward(f, ids)
        tokens = x.axes[1][1]
        make_masks(f, windows(stack, tokens), ids.axes[0][1], tokens, tokens, x.dtype, always=self.always)
        f.checkpoints = self.recompute is not None
        for index, layer in enumerate(stack.layers):
            self._part(f"forward {stack.name} layer {index}")
            called = _Call(f, layer, f"{stack.path}.{index}.")
            x = called.again(x) if self.recompute is not None and self.recompute.again(index) else called(x)
        self._part(f"last norm of the {stack.name}")
        if stack.norm is not None:
            x = stack.norm.forward(f, x)
        x = ops.dropout(x, stack.dropout, f.training)
        for names in (f.frame, f.masks, f.rotary):
            names.clear()
        f.bias = f.zeros = None
        return x

    def _backward(self, loss: Value) -> None:
        tape = self.tape
        forward = list(self.parts)
        tape.category = "loss"
        self._part("loss backward")
        seed = tape.new("gradient of loss", loss.axes, loss.dtype)
        tape.category = "activations"
        assert loss.node is not None
        root = loss.node, loss.index
        # The loop holds the loss without what it saved.
        loss.node = None
        tape.backward(root, seed.view(seed.axes), forward[-1].floor)
        del root
        for part in reversed(forward[:-1]):
            self._part(part.name.replace("forward", "backward") if "forward" in part.name else f"{part.name}, backward")
            tape.unwind(part.floor)
        if tape.stepping is not None:
            tape.stepping.settle(tape)
        del seed
        if not self.outputs:
            # The loop's loss is without its graph.
            tape.leaves.clear()
        self.parts[-1].stop = len(tape.events)
        self.graph = [v.storage for leaf in tape.leaves for v in (*leaf.saved, *leaf.pending) if v is not None]
        tape.leaves.clear()

    def _reached(self) -> dict[int | None, set[str]]:
        """Names of the parameters that a gradient arrives at: by layer below it, of the rest under None."""
        found: dict[int | None, set[str]] = {None: set(self.tape.reached)}
        for stack in self.model.stacks:
            for index, layer in enumerate(stack.layers):
                prefix = f"{stack.path}.{index}."
                names = {name.removeprefix(prefix) for name in self.tape.reached if name.startswith(prefix)}
                found.setdefault(id(layer), set()).update(names)
        return found

    def spans(self, parts: Iterable[Part]) -> Iterable[tuple[str, Span]]:
        """Stretches with what is alive in them, from the pass's first storage on."""
        tape, first = self.tape, self.first
        requested = allocated = at = 0
        for part in parts:
            for event in tape.events[at : part.start]:
                s = tape.born[event if event >= 0 else ~event]
                if s.serial >= first:
                    sign = 1 if event >= 0 else -1
                    requested += sign * s.nbytes if s.category != "workspace" else 0
                    allocated += sign * blocks(s.nbytes)
            at = part.start
            yield part.name, Span(tape, part.start, part.stop, first, Level(requested, allocated))


class _Call:
    """A call of a layer, with what it is handed beside its input: masks, the encoder's states, biases of scores.

    A layer that is handed no bias makes one, for those above it as well.
    """

    def __init__(self, f: Forward, layer: Layer, prefix: str) -> None:
        self.f, self.layer, self.prefix = f, layer, prefix
        self.windows = list(f.masks)
        self.named = [name for name in SHARED if getattr(f, name) is not None]
        blocks: list[Any] = [sub.block for sub in layer.sublayers]
        biased = [b for b in blocks if getattr(b, "position_bias", None) == "relative"]
        self.makes = [n for n in dict.fromkeys("zeros" if b.cross else "bias" for b in biased) if n not in self.named]

    def __call__(self, x: Value) -> Value:
        """The layer's output."""
        self.f.tape.prefix = self.prefix
        y = self.layer.forward(self.f, x)
        self.f.tape.prefix = ""
        return y

    def again(self, x: Value) -> Value:
        """The same by way of a checkpoint, which holds on to all that it is called with."""
        f = self.f
        beside = (*f.masks.values(), *(getattr(f, name) for name in self.named))
        # A table that is frozen gives the bias no gradient.
        trained = (True, *(name == "zeros" or f.tape.trained is None for name in self.makes))
        y, *others = several(self._run, (x,), beside, trained)
        for name, value in zip(self.makes, others, strict=True):
            setattr(f, name, value)
        return y

    def _run(self, x: Value, *beside: Value) -> tuple[Value, ...]:
        f = self.f
        masks, shared = dict(f.masks), [(name, getattr(f, name)) for name in SHARED]
        f.masks.update(zip(self.windows, beside, strict=False))
        for name, value in zip(self.named, beside[len(self.windows) :], strict=True):
            setattr(f, name, value)
        y = self(x)
        made = tuple(getattr(f, name) for name in self.makes)
        f.masks.clear()
        f.masks.update(masks)
        for name, value in shared:
            setattr(f, name, value)
        return y, *made


def _moved(labels: Value) -> Value:
    """What the decoder is given: labels one token on, behind a first one."""
    tape, ((_, B), (_, T)) = labels.tape, labels.axes
    out = tape.new("decoder ids", labels.axes, "int64")
    tape.new("labels but the last", (("B", B), ("T", T - 1)), "int64")
    tape.new("labels that do not count", labels.axes, "bool")
    return out
