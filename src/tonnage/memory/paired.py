"""A pass over an encoder and a decoder, on one tape from the embedding to the embedding's gradient.

What the encoder makes is named and taken by every layer of the decoder, which hands gradients back to it, and T5's
first layers make a bias for the others.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/ (t5/modeling_t5.py,
bart/modeling_bart.py: the classes for conditional generation)

Leaves out: layers that are dropped at random (``encoder_layerdrop``), counted as if they ran; masks of padded texts.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tonnage.arch import ops
from tonnage.arch.again import several
from tonnage.arch.eager import by_heads
from tonnage.arch.forward import AttentionKernel, Forward
from tonnage.arch.loss import cross_entropy
from tonnage.arch.masks import make_masks, of_ones
from tonnage.arch.model import Layer, Model, Stack
from tonnage.arch.sound import Sound
from tonnage.arch.tape import Tape, Value
from tonnage.memory.entering import frozen, windows
from tonnage.memory.one_tape import OneTape

if TYPE_CHECKING:
    from tonnage.arch.stepping import Stepping
    from tonnage.arch.tuning.adapters import Tuning
    from tonnage.memory.recompute import Recompute


SHARED: Final = ("encoder", "bias", "zeros")
"""What layers are handed beside masks, as ``Forward`` names it."""


class Paired(OneTape):
    """The pass.

    Args:
        model: with an encoder and a decoder.
        batch: pairs of texts.
        tokens: of a text that is read.
        targets: of one that is written.
        kernel: what computes attention.
        weights: format of the weights.
        loaded: format that buffers keep; None where it is that of the weights.
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
        loaded: str | None = None,
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
        self.recompute, self.always = recompute, makes_mask
        tape = Tape(grad=True, weights=weights, autocast=autocast, trained=None if tuning is None else frozen)
        tape.accumulated, tape.stepping, tape.buffers = accumulated, stepping, loaded or weights
        tape.wide = model.fp32
        # One table for both stacks, or for the head as well: its gradients wait for each other.
        tape.tied = model.head.alias_of or decoder.stem.alias_of
        tape.category = "inputs"
        B = ("B", batch)
        if isinstance(encoder.stem, Sound):
            ids = encoder.stem.features(tape, batch)
        else:
            ids = tape.new("token ids", (B, ("T", tokens)), "int64")
        labels = tape.new("labels", (B, ("T", targets)), "int64")
        self.begin(model, tape, [ids.storage, labels.storage])
        make = partial(Forward, tape, kernel, training=drops, tuning=tuning, input_grads=input_grads)
        loss, logits = self._forward(make(), make(), encoder, decoder, ids, labels)
        self.run_back(loss, logits, keep_logits=keep_logits)

    def _forward(
        self, f: Forward, g: Forward, encoder: Stack, decoder: Stack, ids: Value, labels: Value
    ) -> tuple[Value, list[Value]]:
        assert self.model.head is not None
        assert self.model.pair is not None
        self.part("forward encoder embedding")
        moved = _moved(labels) if self.model.pair.shifts_first else None
        g.encoder = self._through(encoder, f, ids)
        self.part("forward decoder embedding")
        moved = moved or _moved(labels)
        kept: list[Value] = []
        if self.model.pair.caches and self.recompute is None:

            def store(new: tuple[Value, ...], _: int | None) -> tuple[Value, ...]:
                made = tuple(ops.copy(v, by_heads(v), "cached") for v in new)
                kept.extend(made)
                return made

            g.store = store
        states = self._through(decoder, g, moved)
        g.store = None
        self.kernels = f.ran | g.ran
        self.part("loss")
        head = self.model.head
        # The model's code names what the head is given as long as its own output.
        given = ops.scaled(states, "scaled hidden states") if head.divided else states
        logits = [head.but(divided=False).forward(g, given)]
        loss = cross_entropy(logits[0], labels, causal=False, wide=False)
        self.tape.category = "activations"
        # The output that the caller is handed names the encoder's states too, and what was cached.
        logits += [g.encoder, *kept]
        g.encoder = None
        # What runs again holds the circumstances, not what the code around the model named.
        f.around.clear()
        return loss, logits

    def _through(self, stack: Stack, f: Forward, ids: Value) -> Value:
        """Embedding, layers and norm."""
        x = self._embedded(stack, f, ids)
        f.checkpoints = self.recompute is not None
        for index, layer in enumerate(stack.layers):
            self.part(f"forward {stack.name} layer {index}")
            called = _Call(f, layer, f"{stack.path}.{index}.")
            x = called.again(x) if self.recompute is not None and self.recompute.again(index) else called(x)
        self.part(f"last norm of the {stack.name}")
        if stack.norm is not None:
            x = stack.norm.forward(f, x)
        x = ops.dropout(x, stack.dropout, f.training)
        for names in (f.frame, f.masks, f.rotary):
            names.clear()
        f.bias = f.zeros = None
        return x

    def _embedded(self, stack: Stack, f: Forward, ids: Value) -> Value:
        if stack.ones:
            x = stack.stem.but(dropout=0.0).forward(f, ids)
            of_ones(f, x.axes[:2], x.dtype, causal=stack is self.model.decoder)
            return ops.dropout(x, stack.stem.dropout, f.training)
        x = stack.stem.forward(f, ids)
        tokens = x.axes[1][1]
        make_masks(f, windows(stack, tokens), ids.axes[0][1], tokens, tokens, x.dtype, always=self.always)
        return x


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
