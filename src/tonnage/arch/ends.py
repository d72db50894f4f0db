"""What stands before the first layer and behind the last: embeddings and heads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from tonnage.arch import ops
from tonnage.arch.activation import activate
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Alibi, Linear, Norm, Rotary
from tonnage.arch.tape import Parameter, Value
from tonnage.record import Record
from tonnage.tensors import Axes, Axis, Tensor

if TYPE_CHECKING:
    from tonnage.arch.disentangled import Distances
    from tonnage.arch.layer_embeddings import LayerEmbeddings
    from tonnage.arch.relative import RelativeBias


class Table(Record):
    """A learned table that is added to the embedding: positions or token types.

    Args:
        name: path of the module.
        rows: positions or types.
        width: of a row.
        batched: every sequence has indices of its own (OPT).
        buffered: the indices are part of a buffer (BERT's positions).
        named: though they are, the model's code names what was found to its end (GPT).
        offset: indices are counted on, in a tensor of their own (BioGPT, XGLM).
        fixed: a buffer without gradient, whose whole name ``name`` is (CTRL, XGLM).
        own: the indices are gathered for every sequence from its own tokens (RoBERTa).
        counted: the code that looks them up counts them: "each" for every sequence (BART's encoder), "all" once and
            on from a table's offset (its decoder), "once" and "named" the same without an offset (Blenderbot), "masked"
            too where of these and the mask of ones the mask alone keeps its name (Marian), "rows" once for every
            sequence (Whisper's decoder).
        frozen: a parameter that is not trained (Pegasus, Whisper's encoder).
        handed: every layer is handed the indices (GPT-2).
    """

    name: str
    rows: int
    width: int
    batched: bool = False
    buffered: bool = False
    named: bool = False
    offset: bool = False
    fixed: bool = False
    own: bool = False
    counted: Literal["", "each", "all", "once", "named", "masked", "rows"] = ""
    frozen: bool = False
    handed: bool = False

    def weights(self) -> Iterator[Tensor]:
        """One tensor."""
        if self.fixed:
            yield Tensor(self.name, (("P", self.rows), ("D", self.width)), "buffer")
            return
        yield Tensor(f"{self.name}.weight", (("P", self.rows), ("D", self.width)), "position")

    def looked_up(self, f: Forward, ids: Axes) -> Value:
        """Rows of the table for tokens with axes ``B T``."""
        if self.fixed:
            return self._fixed(f, ids)
        if self.counted:
            return self._counted(f, ids)
        if self.batched or self.offset:
            # Counted from a mask of ones over everything that is cached, which the model's code names to its end.
            f.frame.append(f.tape.new("mask of ones", (ids[0], ("S", f.cached + ids[1][1])), "fp32"))
        rows = ids if self.batched or self.own else ids[1:]
        indices = f.tape.new("positions", rows, "int64") if f.given is None else f.given
        weight = f.tape.parameter(f"{self.name}.weight", (("P", self.rows), ("D", self.width)))
        if self.handed and f.tape.grad:
            f.positions = indices.detached()
        found = ops.embedding(indices, weight, (("D", self.width),), kept=self.own or not self.buffered)
        if not self.buffered or self.named:
            f.frame += [found] if self.batched or self.offset or self.buffered else [indices, found]
        return found

    def _counted(self, f: Forward, ids: Axes) -> Value:
        tape, way = f.tape, self.counted
        indices = tape.new("positions", ids[1:], "int64")
        if way in ("all", "named", "masked", "rows"):
            # Counted on from the end of the cache.
            indices = tape.new("positions, counted on", ids[1:], "int64")
            if way != "rows":
                ones = tape.new("mask of ones", ids, "fp32")
                tape.new("mask of ones", ids, "bool")
                # The model's code names them to its end.
                f.frame += [indices, ones] if way == "named" else [ones] if way == "masked" else [indices]
                del ones
        if way in ("each", "rows"):
            indices = tape.new("positions of every sequence", ids, "int64")
        elif way == "all":
            indices = tape.new("rows of the table", (("X", 1), ids[1]), "int64")
        if way == "rows":
            f.frame.append(indices)
        weight = tape.parameter(f"{self.name}.weight", (("P", self.rows), ("D", self.width)))
        weight.trained = weight.trained and not self.frozen
        found = ops.embedding(indices, weight, (("D", self.width),))
        f.frame.append(found)
        return found

    def _fixed(self, f: Forward, ids: Axes) -> Value:
        f.frame.append(f.tape.new("positions", ids[1:], "int64"))
        moved = f.tape.new("positions, counted on", ids[1:], "int64") if self.offset else None
        found = f.tape.new("fixed positions", (ids[1], ("D", self.width)), f.tape.buffers)
        del moved
        if not self.offset:
            f.frame.append(found)
        return found


class Stem(Record):
    """The embedding and what happens before the first layer.

    Args:
        name: path of the word embedding; empty where a stack is fed by something else.
        V: rows of the vocabulary.
        D: residual width.
        tables: learned tables that are added.
        rotary: tables of rotation angles.
        rows: of the table, where it has more than the vocabulary (CPM-Ant's prompts).
        norm: of the sum (BERT, BLOOM).
        dropout: of the sum.
        scaled: the embedding is multiplied by a number (Gemma, Granite).
        scaled_in_place: it is multiplied in place (CTRL).
        scaled_within: it is multiplied by its module, which has no buffer for the number (BioGPT, XGLM).
        scale_cast: that number is a buffer of integers, cast first and kept (MiniCPM3).
        width: of the word embedding where it differs from ``D`` and is projected (OPT-350m).
        project: path of that projection.
        widen: matrix from ``width`` to ``D`` behind norm and dropout (ELECTRA).
        alias_of: the table whose storage this one shares (T5's stacks).
        alibi: bias of the scores.
        relative: the same, learned.
        by_mask: the sum is multiplied by the mask, which the model's code makes and names to its end (DeBERTa).
        position_ids: what every layer is handed: one row of them, a row for each sequence (OPT), or a row where there
            are rotary tables; "named" where none is, and the model's code keeps a name for them (Qwen2-VL); "none"
            where there are none at all.
        apart: all this is made in a module of its own, of which the model's code names the output alone (ModernBERT).
        adds_zero: a number stands for token types and is added (CTRL, GPT).
        masked: attention is handed a mask even where its kernel could do without (Falcon).
        around: code around the model and its head looks the tokens up, names what it found, and makes the loss
            (Llama 4).
        sought: kinds of placeholders, of pictures or sound, that the model's code looks for: a mask of each and one of
            all keep their names to its end, and so does the copy of the ids without them that is looked up (Gemma 4).
        inner: embeddings of every layer.
        streams: residual streams, each of which begins as the embedding; None for the usual one (DeepSeek-V4).
    """

    name: str
    V: int
    D: int
    rows: int | None = None
    tables: tuple[Table, ...] = ()
    rotary: tuple[Rotary, ...] = ()
    norm: Norm | None = None
    dropout: float = 0.0
    scaled: bool = False
    scaled_in_place: bool = False
    scaled_within: bool = False
    scale_cast: bool = False
    width: int | None = None
    project: str | None = None
    widen: Linear | None = None
    alias_of: str | None = None
    buffers: tuple[Tensor, ...] = ()
    position_ids: Literal["rotary", "row", "batch", "named", "none"] = "rotary"
    apart: bool = False
    alibi: Alibi | None = None
    relative: RelativeBias | Distances | None = None
    by_mask: bool = False
    adds_zero: bool = False
    masked: bool = False
    around: bool = False
    sought: int = 0
    inner: LayerEmbeddings | None = None
    streams: int | None = None

    def stream(self, B: Axis, T: Axis) -> Axes:
        """The axes of what the layers are given."""
        return (B, T, *([] if self.streams is None else [("X", self.streams)]), ("D", self.D))

    def weights(self) -> Iterator[Tensor]:
        """The table, what is added to it, and the rotary buffers."""
        width = self.width or self.D
        if self.name:
            rows = ("V", self.rows or self.V)
            yield Tensor(f"{self.name}.weight", (rows, ("D", width)), "embedding", alias_of=self.alias_of)
        if self.project is not None:
            yield from Linear(self.project, (("D", width),), (("D", self.D),), "embedding").weights()
        for table in self.tables:
            yield from table.weights()
        for part in (self.norm, self.widen):
            if part is not None:
                yield from part.weights()
        for rotary in self.rotary:
            yield from rotary.weights()
        yield from self.buffers

    def forward(self, f: Forward, ids: Value) -> Value:
        """Token ids (axes ``B T``) to the first layer's input."""
        virtual = None if f.tuning is None else f.tuning.virtual
        if virtual is not None:
            virtual.begun(f, ids)
        if self.sought:
            ids = self._without_placeholders(f, ids)
        width: Axes = (("D", self.width or self.D),)
        words = f.tape.parameter(self.alias_of or f"{self.name}.weight", (("V", self.V), *width))
        if f.tuning is not None and f.tuning.rows is not None:
            x = f.tuning.rows.embedded(ids, words, width)
        else:
            x = ops.embedding(ids, words, width)
        # A module that multiplies for itself (Gemma's) is hooked behind that.
        within = self.scaled_within or (self.scaled and any(t.name.endswith("embed_scale") for t in self.buffers))
        if f.input_grads and not within and (virtual is None or virtual.hooked(f)):
            f.tape.start(x, held=True)
        if self.scaled and self.scale_cast:
            x = ops.mul(x, f.tape.new("scale of embedding", (), x.dtype), "scaled embedding")
        elif self.scaled and (within or virtual is None or virtual.scaled(f)):
            x = ops.scaled(x, "scaled embedding", in_place=self.scaled_in_place)
        if f.input_grads and within:
            f.tape.start(x, held=True)
        if virtual is not None:
            x = virtual.joined(f, x)
        if f.eye is not None:
            x = f.eye(f, ids, x)
        x = self._met(f, ids, x)
        rows = x.axes[:2]
        # BERT makes all this in a module of its own, of which the model's code names the output alone.
        apart = self.apart or any(table.buffered and not table.named for table in self.tables)
        named = list(f.frame)
        if not apart:
            # The model's code names this ``inputs_embeds`` to its end.
            (f.around if self.around and f.tape.grad else f.frame).append(x)
        f.embedded = x.dtype
        if self.inner is not None:
            f.inputs = self.inner.forward(f, ids, x, named=self.sought > 0, rows=f.held.pop() if f.held else None)
        if self.project is not None:
            x = Linear(self.project, width, (("D", self.D),), "embedding").forward(f, x)
        for table in self.tables:
            x = ops.add(x, table.looked_up(f, rows), "embedding and positions")
        if self.adds_zero:
            x = ops.shifted(x, "embedding and a number")
        if self.norm is not None:
            x = self.norm.forward(f, x)
        if self.by_mask:
            mask = f.tape.new("mask", rows, "fp32")
            x = ops.mul(x, ops.cast(mask, x.dtype), "masked embedding")
            named.append(mask)
            if not any(table.own for table in self.tables):
                # Token types are made though no table takes them.
                named.append(f.tape.new("token types", rows, "int64"))
            del mask
        x = ops.dropout(x, self.dropout, f.training)
        if self.widen is not None:
            x = self.widen.forward(f, x)
        if apart:
            f.embedded = x.dtype
            f.frame[:] = [*named, x]
        if self.position_ids == "named" and f.eye is None:
            f.frame.append(f.tape.new("position ids", rows[1:], "int64"))
        x = self._streamed(f, x)
        for rotary in self.rotary:
            rotary.forward(f, x.view((*rows, ("D", self.D))))
        for bias in (self.alibi, self.relative):
            if bias is not None:
                bias.forward(f, x)
        if self.masked and f.kernel not in ("eager", "flash_attention_2") and None not in f.masks:
            keys = ("S", f.cached + rows[1][1])
            # One for all sequences: it is only seen as one for each.
            f.masks[None] = f.tape.new("attention mask", (("B", 1), ("X", 1), rows[1], keys), "bool")
        return x

    def _met(self, f: Forward, ids: Value, x: Value) -> Value:
        """The embedding as code around the model hands it on."""
        return x

    def _streamed(self, f: Forward, x: Value) -> Value:
        """What the layers are given, of which tables have the format."""
        return x if self.streams is None else ops.copy(x, self.stream(*x.axes[:2]), "streams")

    def _without_placeholders(self, f: Forward, ids: Value) -> Value:
        tape, axes = f.tape, ids.axes
        masks = [tape.new("mask of placeholders", axes, "bool") for _ in range(self.sought)]
        either = masks[0]
        for _ in masks[1:]:
            either = tape.new("mask of all placeholders", axes, "bool")
        copied = tape.new("copied ids", axes, "int64")
        padding = tape.new("id of padding", (), "int64")
        ids = tape.new("ids without placeholders", axes, "int64")
        f.frame += [*masks, either, ids]
        del copied, padding
        return ids


class Head(Record):
    """The matrix from the last hidden state to the vocabulary.

    Args:
        name: path of the module.
        D: residual width.
        V: rows of the vocabulary.
        bias: whether there is one.
        alias_of: the tensor whose storage it shares: a tied head.
        bias_alias_of: the tensor whose storage the bias shares (BERT).
        dense: path of a square matrix before it, with activation and norm (BERT).
        second: a further matrix, between that activation and another one (UltraBERT).
        project: matrix from the last hidden state to the head's width (OPT-350m).
        capped: logits go through a tanh (Gemma 2).
        scaled: logits are multiplied by a number (Cohere, Granite).
        divided: the hidden states are divided by a number (MiniCPM3).
        offset: a buffer of one number a word is added to the logits (BART).
        wide: the hidden states are cast from the stream's format to the weights' and the logits to fp32 (Mamba).
        raised: the loss of masked tokens casts the logits to fp32, which BERT's own does not (ModernBERT).
        sliced: the loss of the next token is of the logits but the last token's, not of labels moved by one: as they
            are (``plain``: Qwen), or in fp32, which the model's code casts (``model``) or its loss (``loss``).
        unnamed: the tensor that is shared is all there is of the matrix, under no name of its own (Perceiver).
        pooled: which token of a sequence a classifier looks at: the first, before its matrices, or the last that is no
            padding, whose logits are taken from those of all (Llama); empty where that is not modelled.
        drops_first: dropout of what its first matrix is given.
        drops: dropout of what its last matrix is given.
        chunk: tokens that are multiplied at a time; 0 for all of them (Reformer).
    """

    name: str
    D: int
    V: int
    bias: bool = False
    alias_of: str | None = None
    bias_alias_of: str | None = None
    dense: Linear | None = None
    second: Linear | None = None
    project: Linear | None = None
    act: str = "gelu"
    norm: Norm | None = None
    capped: bool = False
    scaled: bool = False
    divided: bool = False
    offset: bool = False
    wide: bool = False
    raised: bool = False
    sliced: Literal["", "plain", "model", "loss"] = ""
    unnamed: bool = False
    pooled: Literal["", "first", "last"] = ""
    drops_first: float = 0.0
    drops: float = 0.0
    chunk: int = 0
    extra: tuple[Tensor, ...] = ()

    def weights(self) -> Iterator[Tensor]:
        """The matrix, an alias where it is tied; and what stands before it."""
        for matrix in (self.project, self.dense, self.second):
            if matrix is not None:
                yield from matrix.weights()
        if self.norm is not None:
            yield from self.norm.weights()
        axes: Axes = (("V", self.V), ("D", self.D))
        if not self.unnamed:
            yield Tensor(f"{self.name}.weight", axes, "head", alias_of=self.alias_of)
        if self.bias:
            yield Tensor(f"{self.name}.bias", (("V", self.V),), "head", alias_of=self.bias_alias_of)
        yield from self.extra

    def before(self) -> tuple[str, ...]:
        """Modules of the matrices that stand before it."""
        return tuple(m.name for m in (self.project, self.dense, self.second) if m is not None)

    def forward(self, f: Forward, x: Value) -> Value:
        """Hidden states to logits, axes ``B T V``."""
        if self.pooled == "first":
            x = ops.narrow(x, (x.axes[0], x.axes[2]))
        if self.divided:
            x = ops.scaled(x, "divided hidden states")
        x = ops.dropout(x, self.drops_first, f.training)
        if self.project is not None:
            x = self.project.forward(f, x)
        if self.dense is not None:
            x = activate(self.dense.forward(f, x), self.act)
        if self.second is not None:
            x = activate(self.second.forward(f, x), self.act)
        if self.norm is not None:
            x = self.norm.forward(f, x)
        D: Axes = (("D", self.D),)
        V: Axes = (("V", self.V),)
        weight = f.tape.parameter(self.alias_of or f"{self.name}.weight", V + D)
        bias = f.tape.parameter(self.bias_alias_of or f"{self.name}.bias", V) if self.bias else None
        x = ops.dropout(x, self.drops, f.training)
        f.tape.category = "logits"
        if self.wide:
            x = ops.cast(x, f.tape.weights)
        if f.narrow is not None and f.narrow.heads and f.narrow.takes(self.name, D, V):
            x = f.narrow.forward(x, weight, bias, D, V)
        elif f.tuning is not None and f.tuning.adapts(self.name):
            x = f.tuning.forward(f, Linear(self.name, D, V, "head", self.bias), x)
        elif f.tuning is not None and f.tuning.rows is not None and self.alias_of is not None:
            x = f.tuning.rows.multiplied(x, weight, V)
        else:
            x = ops.linear(x, weight, bias, 1, V) if not self.chunk else self._in_pieces(x, weight, bias)
        if self.wide:
            x = ops.cast(x, "fp32")
        if self.scaled:
            x = ops.scaled(x, "scaled logits")
        if self.offset:
            x = _offset(x)
        if self.capped:
            x = ops.scaled(x, "logits before tanh")
            x = ops.unary(x, "tanh", saves="output")
            x = ops.scaled(x, "capped logits")
        if self.sliced == "model":
            x = ops.cast(x, "fp32")
        return _of_last(x) if self.pooled == "last" else x

    def _in_pieces(self, x: Value, weight: Parameter, bias: Parameter | None) -> Value:
        """Some tokens at a time. A product takes tokens as rows, for which a piece of several sequences is copied."""
        # Imported late: most heads take all tokens at once.
        from tonnage.arch.pieces import in_pieces

        def run(x: Value) -> Value:
            return ops.linear(ops.copy(x) if x.axes[0][1] > 1 else x, weight, bias, 1, (("V", self.V),))

        return in_pieces(run, x, self.chunk)


def _offset(x: Value) -> Value:
    """Logits and a buffer in the format of buffers."""
    tape, axes, before = x.tape, x.axes, x.dtype
    form = ops.promoted(before, tape.buffers)
    out = tape.new("logits with their offset", axes, form)
    same = form == before
    tape.record((out,), (x,), lambda g: (g if same else tape.new("cast gradient of logits", axes, before),), ())
    return out


def _of_last(x: Value) -> Value:
    """``logits[torch.arange(batch), last_token]``: a row of every sequence, and both indices."""
    tape, (B, T, V), whole, dtype = x.tape, x.axes, x.axes, x.dtype
    words = tape.new("tokens that are no padding", (B, T), "int32")
    numbers = tape.new("numbers of tokens", (T,), "int32")
    product = tape.new("numbers of words", (B, T), "int32")
    last = tape.new("last token that is no padding", (B,), "int64")
    del product
    rows = tape.new("sequences", (B,), "int64")
    out = tape.new("logits of last tokens", (B, V), dtype)
    del words, numbers
    tape.record((out,), (x,), lambda g: (tape.new("gradient of logits", whole, dtype),), (rows, last))
    return out
