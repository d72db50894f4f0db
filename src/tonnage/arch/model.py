"""A model: stacks of layers with what stands before and after them.

Identical layers are one object that stands several times in a stack, so that what is derived from a layer is derived
once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tonnage.arch import ops
from tonnage.arch.ends import Head, Stem
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Norm
from tonnage.arch.parameters import Parameters
from tonnage.arch.tape import Value
from tonnage.record import Record
from tonnage.tensors import Inventory, Tensor

if TYPE_CHECKING:
    from tonnage.arch.pair import Pair
    from tonnage.arch.sight.pictures import Eye
    from tonnage.checkpoint import Header


class Block(Protocol):
    """A kind of block: it owns its weights and its forward pass; one with a state owns that as well."""

    def weights(self) -> Iterator[Tensor]:
        """The tensors, named below the layer."""
        ...

    def forward(self, f: Forward, x: Value) -> Value:
        """The block's output."""
        ...


class Gate(Protocol):
    """What a block's output goes through before it is added to the residual."""

    def weights(self) -> Iterator[Tensor]:
        """The tensors, named below the layer."""
        ...

    def forward(self, f: Forward, x: Value) -> Value:
        """What is added."""
        ...


class Sublayer(Record):
    """A block with its norms and its residual connection.

    Args:
        block: what computes.
        before: norm of its input (pre-norm).
        after: norm of its output, before the residual is added (sandwich and OLMo 2 norms).
        gate: what the output goes through last (Llama 3.2 Vision).
        of_sum: norm of the sum (post-norm, BERT).
        dropout: of the block's output.
        scaled: the output is multiplied by a number (Granite).
        inline: the block is written out in the layer, so that no name is left for what it was given (OPT).
        holds: the layer keeps a name of its own for the block's output (GPT-2).
        holds_dropped: it keeps one for what dropout made of that (CTRL).
        holds_input: the layer keeps a name of its own for the normed input (StableLM).
        named: the output keeps its name until the sum is normed (BERT).
        rebinds: the block's output, before dropout, keeps its name until the sum has it (GTE).
        bounded: a sum in fp16 is held within its bounds (T5).
    """

    block: Block
    before: Norm | None = None
    after: Norm | None = None
    gate: Gate | None = None
    of_sum: Norm | None = None
    dropout: float = 0.0
    scaled: bool = False
    inline: bool = False
    holds: bool = False
    holds_dropped: bool = False
    holds_input: bool = False
    named: bool = False
    rebinds: bool = False
    bounded: bool = False

    def weights(self) -> Iterator[Tensor]:
        """The block's tensors and its norms'."""
        for part in (self.before, self.block, self.after, self.gate, self.of_sum):
            if part is not None:
                yield from part.weights()

    def output(self, f: Forward, x: Value) -> Value:
        """What is added to the residual."""
        if "layernorm" in f.again and self.before is not None:
            # Imported late: most passes compute no module again.
            from tonnage.arch.discarding import normed

            x = normed(f, self.before, x, self._runs(f), f.held if self.holds_input else [])
        elif self.inline and self.before is not None:
            x = self._runs(f)(f, self.before.forward(f, x))
        else:
            if self.before is not None:
                x = self.before.forward(f, x)
            if self.holds_input:
                f.held.append(x)
            x = self._runs(f)(f, x)
        if self.holds or self.rebinds:
            (f.held if self.holds else f.local).append(x)
        if self.after is not None:
            x = self.after.forward(f, x)
        if self.gate is not None:
            x = self.gate.forward(f, x)
        x = ops.dropout(x, self.dropout, f.training)
        if self.holds_dropped:
            f.held.append(x)
        if self.named:
            f.local.append(x)
        return x

    def _runs(self, f: Forward) -> Callable[[Forward, Value], Value]:
        """What runs the block, which alone holds what it is given."""
        if f.again and getattr(self.block, "module", "") in f.again:
            # Imported late: most passes compute no module again.
            from tonnage.arch.again import module

            return partial(module, self.block)
        return self.block.forward


class Layer(Record):
    """One layer of a stack.

    Args:
        sublayers: one after the other; all from the same input where ``parallel``.
        norm: shared by parallel sublayers.
        parallel: the sublayers' outputs are added to one residual (GPT-J, Falcon, Cohere).
        residual_first: parallel outputs are added to the residual one by one; else they are added up before.
        in_place: parallel outputs are added up in the last one's own storage, and ``dropout`` follows (Falcon).
        dropout: of the sum of parallel outputs.
        carries: eager attention's weights are handed back, and live until the next layer has returned (GPT-J, BLOOM).
        norms_first: every parallel sublayer's norm runs before the first sublayer (Falcon-40B).
        wide: the residual stream is fp32 whatever the weights' format (Mamba); the first layer widens it.
        bounds: what is done to an output in fp16: it is "clamped" to what the format holds (mBART, Whisper), or
            "checked", and clamped only where something is not finite (BART); empty for nothing.
        untold: it is not handed the rotary table (OLMo Hybrid's delta nets).
        scalar: a buffer of one number that the output is multiplied by, in place (Gemma 4).
        kind: what the layer is called in a breakdown.
    """

    sublayers: tuple[Sublayer, ...]
    norm: Norm | None = None
    parallel: bool = False
    residual_first: bool = False
    in_place: bool = False
    dropout: float = 0.0
    norms_first: bool = False
    carries: bool = False
    wide: bool = False
    bounds: Literal["", "clamped", "checked"] = ""
    untold: bool = False
    scalar: Tensor | None = None
    kind: str = "layer"

    def passed_by(self, f: Forward) -> bool:
        """Whether the pass goes by the layer."""
        return False

    def weights(self) -> Inventory:
        """The layer's tensors, named below the layer."""
        shared = tuple(self.norm.weights()) if self.norm is not None else ()
        own = () if self.scalar is None else (self.scalar,)
        return shared + tuple(t for s in self.sublayers for t in s.weights()) + own

    def forward(self, f: Forward, x: Value) -> Value:
        """The layer's output."""
        if f.inputs is not None:
            # Imported late: Gemma alone.
            from tonnage.arch.layer_embeddings import row

            f.row = row(f)
        run = self._wide if self.wide else self._parallel if self.parallel else self._sequential
        x = run(f, x)
        if self.scalar is not None:
            # Imported late: Gemma 4 alone.
            from tonnage.arch.inplace import multiplied

            x = multiplied(x)
        if self.bounds and x.dtype == "fp16":
            from tonnage.arch.bounds import checked, clamped

            x = clamped(x) if self.bounds == "clamped" else checked(x)
        f.end_layer(carries=self.carries)
        return x

    def _sequential(self, f: Forward, x: Value) -> Value:
        for sub in self.sublayers:
            residual = x
            x = sub.output(f, x)
            bottleneck = None if f.tuning is None else f.tuning.bottleneck
            if bottleneck is not None and (place := bottleneck.place(sub.block)):
                x = bottleneck.forward(f, place, x, residual, sub.of_sum)
                continue
            crosses = getattr(sub.block, "cross", False)
            if crosses and not sub.rebinds:
                # The name of the weights passes over.
                del f.weights[:-1]
            x = ops.add(residual, ops.scaled(x, "scaled output") if sub.scaled else x, "residual stream")
            if sub.rebinds:
                f.local.clear()
            if crosses:
                del f.weights[:-1]
            if sub.bounded and x.dtype == "fp16":
                from tonnage.arch.bounds import within_bounds  # Imported late: T5 alone.

                del residual
                x = within_bounds(f, x)
            if sub.of_sum is not None:
                x = sub.of_sum.forward(f, x)
            f.local.clear()
        return x

    def _wide(self, f: Forward, x: Value) -> Value:
        for sub in self.sublayers:
            residual = x
            x = ops.cast(x, f.tape.weights)
            if sub.before is not None:
                x = sub.before.forward(f, x)
            residual = ops.cast(residual, "fp32")
            x = sub.block.forward(f, x)
            x = ops.add(residual, x, "residual stream")
        return x

    def _parallel(self, f: Forward, x: Value) -> Value:
        residual = x
        if self.norm is not None:
            x = self.norm.forward(f, x)
        # Every branch keeps its name until the layer returns.
        inputs = [sub.before.forward(f, x) for sub in self.sublayers if sub.before is not None and self.norms_first]
        if inputs:
            outputs = [s.but(before=None).output(f, y) for s, y in zip(self.sublayers, inputs, strict=True)]
        else:
            outputs = [sub.output(f, x) for sub in self.sublayers]
        if self.residual_first:
            total = residual
            for output in outputs:
                total = ops.add(total, output, "residual stream")
            return total
        total = outputs[-1]
        for output in outputs[:-1]:
            total = ops.add(total, output, "sum of branches", in_place=self.in_place)
        total = ops.dropout(total, self.dropout, f.training)
        return ops.add(total, residual, "residual stream")


class Stack(Record):
    """Layers one after the other, with what feeds them and the norm behind them.

    Args:
        name: what the stack is: "decoder" or "encoder".
        path: path of the list of layers in the model.
        stem: embedding and what belongs to it.
        layers: identical layers are one object.
        norm: after the last layer.
        masks: windows for which the pass makes a mask whether or not a layer has them.
        placed: layers are handed masks by position, which nested checkpoints save and do not name (GPT-2, XGLM).
        keeps: the model's code keeps every layer's output until all are through (DeBERTa).
        tupled: it hands keys and values on in tuples, so that those of the last pass stand until one is through, and
            those of the first are what the layers made them views of (Qwen).
        caches: keys and values are cached though nothing is written: the config of a model inside of another is out of
            the Trainer's reach. Checkpoints turn it off.
        dropout: behind the norm (T5).
        lists: the model has a list of each part instead of a list of layers (XLM): ``#`` in the names of a layer's
            tensors stands for its number.
        ones: the model's code makes a mask of ones where it is handed none (Switch Transformers).
    """

    name: str
    path: str
    stem: Stem
    layers: tuple[Layer, ...]
    norm: Norm | None = None
    masks: tuple[int | None, ...] = ()
    placed: bool = False
    lists: bool = False
    keeps: bool = False
    tupled: bool = False
    caches: bool = False
    dropout: float = 0.0
    ones: bool = False

    def weights(self) -> Iterator[Tensor]:
        """Every tensor under its full name."""
        yield from self.stem.weights()
        inventories: dict[int, Inventory] = {}
        for index, layer in enumerate(self.layers):
            inventory = inventories.get(id(layer))
            if inventory is None:
                inventory = inventories[id(layer)] = layer.weights()
            prefix = f"{self.path}." if self.lists else f"{self.path}.{index}."
            for t in inventory:
                yield (t.renamed(t.name.replace("#", str(index))) if self.lists else t).placed(prefix, index)
        if self.norm is not None:
            yield from self.norm.weights()

    def distinct(self) -> list[tuple[Layer, int]]:
        """Different layers with how often each stands, in the order of their first appearance."""
        counts: dict[int, int] = {}
        first: dict[int, Layer] = {}
        for layer in self.layers:
            counts[id(layer)] = counts.get(id(layer), 0) + 1
            first.setdefault(id(layer), layer)
        return [(layer, counts[key]) for key, layer in first.items()]


class Model(Record):
    """A whole model.

    Args:
        model_type: as its config names it.
        name: what the user called it.
        stacks: the last one feeds the head.
        head: None for a bare model.
        positions: the trained length; None where there is none.
        table: positions are a learned or fixed table that cannot be exceeded.
        reach: tokens that scaled angles of positions reach; None where that is ``positions``.
        eager_only: transformers runs its attention by no other kernel.
        causal: the loss is over the next token; over masked tokens where not.
        dtype: format of the checkpoint, if its config tells.
        quantized: the method of the checkpoint's weights, where they are quantized.
        quantization: its settings, as the config has them.
        classes: labels of a classifier's head; None where the head is over the vocabulary.
        pooler: what the bare class and the classifier build beside the layers (BERT).
        classifier: the classifier's head but for the number of labels, where it is not the usual one; it then has no
            pooler.
        extra: tensors outside stacks and head.
        apart: stored with the model but not built by transformers (multi-token prediction).
        unstored: parameters that transformers builds and no checkpoint stores (LongCat's rows of empty experts).
        fp32: parts of the names of tensors that transformers loads in fp32 although 16 bit are asked for
            (``_keep_in_fp32_modules_strict``).
        fp32_for_fp16: the same where fp16 is asked for (``_keep_in_fp32_modules``).
        plain: parts of the names of matrices that the model's class makes without any scheme, whatever its config
            lists (Kimi K3's projections into the latent of its experts).
        subclassed: parts of the names of linear modules of a class of their own, which schemes that ask for
            ``nn.Linear`` itself leave as they are (Falcon).
        defaulted: config keys that were absent.
        ignored: config keys that were not understood.
        class_name: the class that is counted.
        whole_type: model_type of the whole config, where ``model_type`` may be that of its language model.
        sight: num_hidden_layers and hidden_size of the config's vision_config, as stated; None where it has none.
        beside: models that run next to it, by the key of the workload that names them (``draft``).
        eye: what it sees by, where that is modelled.
        pair: how a training step goes through encoder and decoder; None where that is not modelled.
        files: headers of files that are loaded next to it, by the same (``mmproj``).
        config: as it was read; empty where there was none.
    """

    model_type: str
    stacks: tuple[Stack, ...]
    head: Head | None
    positions: int | None
    table: bool = False
    reach: int | None = None
    eager_only: bool = False
    causal: bool = True
    dtype: str | None = None
    quantized: str | None = None
    quantization: Mapping[str, Any] | None = None
    classes: int | None = None
    pooler: tuple[Tensor, ...] = ()
    classifier: Head | None = None
    extra: tuple[Tensor, ...] = ()
    apart: tuple[Tensor, ...] = ()
    unstored: int = 0
    fp32: tuple[str, ...] = ()
    fp32_for_fp16: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    subclassed: tuple[str, ...] = ()
    name: str = ""
    class_name: str = ""
    whole_type: str = ""
    sight: tuple[int | None, int | None] | None = None
    source: str = ""
    defaulted: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    beside: Mapping[str, Model] = {}
    eye: Eye | None = None
    pair: Pair | None = None
    files: Mapping[str, Header] = {}
    config: Mapping[str, Any] = {}

    @property
    def decoder(self) -> Stack:
        """The stack that feeds the head."""
        return self.stacks[-1]

    @property
    def vocabulary(self) -> int:
        """Rows of the output: tokens."""
        return self.decoder.stem.V

    @property
    def width(self) -> int:
        """Residual width of the stack that feeds the head."""
        return self.decoder.stem.D

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor, buffers included, under the names that transformers gives them."""
        # A bare class has its modules at the top, one with a head has them below its base model.
        tops = {stack.path.partition(".")[0] for stack in self.stacks}
        base = tops.pop() + "." if self.head is None and len(tops) == 1 else ""
        for stack in self.stacks:
            for t in stack.weights():
                yield t.below(base) if base else t
        for t in self.extra:
            yield t.below(base) if base else t
        if self.head is not None:
            yield from self.head.weights()

    def weights(self) -> Iterator[Tensor]:
        """Parameters: what training changes. Tied tensors are there as aliases."""
        return (t for t in self.tensors() if t.role != "buffer")

    def buffers(self) -> Iterator[Tensor]:
        """What is resident with the weights and is no parameter."""
        return (t for t in self.tensors() if t.role == "buffer")

    def groups(self) -> Iterator[tuple[int, Inventory]]:
        """The tensors once for each different layer, with how often they stand: fast sums."""
        for times, inventory in self._groups():
            yield times, tuple(map(self.kept, inventory)) if self.fp32 else inventory

    def kept(self, t: Tensor) -> Tensor:
        """A tensor in the format that it is loaded in whatever is asked for."""
        if t.dtype is not None or not any(part in t.name for part in self.fp32):
            return t
        return Tensor(t.name, t.axes, t.role, t.dims, t.layer, t.alias_of, "fp32")

    def _groups(self) -> Iterator[tuple[int, Inventory]]:
        for stack in self.stacks:
            yield 1, tuple(stack.stem.weights())
            for layer, times in stack.distinct():
                yield times, layer.weights()
            yield 1, tuple(stack.norm.weights()) if stack.norm is not None else ()
        yield 1, self.extra + (tuple(self.head.weights()) if self.head is not None else ())

    @property
    def parameters(self) -> Parameters:
        """How many, by what."""
        return Parameters(self)
