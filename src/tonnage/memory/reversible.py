"""A pass over reversible layers: on one tape, since one step of the backward pass runs all of them again.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/reformer/modeling_reformer.py
(ReformerModel, ReformerEncoder)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.loss import cross_entropy, of_model
from tonnage.arch.model import Model
from tonnage.arch.reversible import Reversible, through
from tonnage.arch.tape import Tape, Value
from tonnage.memory.one_tape import OneTape, Part

if TYPE_CHECKING:
    from tonnage.arch.stepping import Stepping


class Mirrored(OneTape):
    """The pass.

    Args:
        model: a model whose layers are reversible.
        batch: sequences.
        tokens: of a sequence.
        weights: format of the weights.
        autocast: format that autocast casts to, or None; layers run again without it.
        accumulated: gradients of an earlier pass are there.
        keep_logits: the caller holds the model's output through the backward pass.
        stepping: as ``memory/passes.py`` has it.
        drops: dropout is on.
    """

    def __init__(
        self,
        model: Model,
        *,
        batch: int,
        tokens: int,
        weights: str,
        autocast: str | None,
        accumulated: bool = False,
        keep_logits: bool = False,
        stepping: Stepping | None = None,
        drops: bool = True,
    ) -> None:
        tape = Tape(grad=True, weights=weights, autocast=autocast)
        tape.accumulated, tape.stepping = accumulated, stepping
        tape.category = "inputs"
        ids = tape.new("token ids", (("B", batch), ("T", tokens)), "int64")
        labels = ids if model.classes is None else tape.new("labels", ids.axes[:1], "int64")
        self.begin(model, tape, [v.storage for v in ((ids,) if labels is ids else (ids, labels))])
        logits: list[Value] = []
        loss = self._forward(Forward(tape, "eager", training=drops), ids, labels, logits)
        self.run_back(loss, logits, keep_logits=keep_logits)

    def _forward(self, f: Forward, ids: Value, labels: Value, logits: list[Value]) -> Value:
        model, stack, tape = self.model, self.model.decoder, self.tape
        assert model.head is not None
        self.part("forward embedding")
        x = self._through(f, stack.stem.forward(f, ids))
        f.frame.clear()
        self.kernels = f.ran
        self.part("loss")
        logits.append(model.head.forward(f, x))
        tape.category = "loss"
        if model.classes is not None:
            return cross_entropy(logits[0], labels, causal=False, wide=False)
        return of_model(model.head, logits[0], labels, causal=model.causal)

    def _through(self, f: Forward, x: Value) -> Value:
        """Layers, norm and dropout of what the embedding made."""
        stack = self.model.decoder
        layers = [cast(Reversible, layer) for layer in stack.layers]
        paths = [f"{stack.path}.{index}." for index in range(len(layers))]
        B, T, (_, D) = x.axes
        x = ops.cat((x, x), (B, T, ("D", 2 * D)), "both streams")
        x = through(f, layers, paths, x, self.part)
        self.part("last norm")
        assert stack.norm is not None
        x = stack.norm.forward(f, x)
        return ops.dropout(x, stack.dropout, f.training)

    def unwind(self, forward: list[Part]) -> None:
        """Back through the norm, and the step of all layers, which marks each of them, to the embedding."""
        norm, embedding = forward[-1], forward[0]
        self.part("last norm, backward")
        self.tape.unwind(norm.floor)
        self.tape.unwind(norm.floor - 1)
        self.part("backward embedding")
        self.tape.unwind(embedding.floor)
