"""What encoder-decoder models of BART's kind share: two stacks, cross attention, an embedding for both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem, Table
from tonnage.arch.feedforward import Plain
from tonnage.arch.layers import Norm
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.arch.pair import Pair
from tonnage.arch.parts import Part
from tonnage.arch.sinusoids import Sinusoids
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.keys import Keys
from tonnage.record import Record
from tonnage.tensors import Tensor

Side = Literal["encoder", "decoder"]


class Style(Record):
    """What differs between the families.

    Args:
        act: the activation function where the config says nothing.
        attention_dropout: of the attention weights, where it says nothing.
        offset: rows of the table of positions before that of the first one.
        embedding_norm: the embedding is normed.
        last_norm: so is the last layer's output.
        pre_norm: norms stand before the blocks.
        bias: attention has biases; None where ``use_bias`` says.
        key_bias: keys have them too.
        table: positions are a table of parameters ("learned", "fixed"), or a buffer.
        logits_bias: the sequence-to-sequence class adds a buffer to its logits.
        ties_decoder: the causal class can share its head with the embedding.
        alone: there is a causal class.
        path: of the bare model.
        head: name of the output matrix.
        sources, targets: keys that tell how many positions the stacks have.
        encoder: builds the encoder's attention where it is not the usual one.
        extra: further norms of the encoder's layers.
        rows: positions where the config says nothing.
        modelled: a training step of both stacks is.
        counted: how positions are counted, by stack, as ``Table`` names it.
        scales: what multiplies the embedding: its "module", the stack's "code", or nothing.
        scales_queries: queries are multiplied by a number before any kernel sees them, and all heads laid out first.
    """

    act: str = "gelu"
    attention_dropout: float = 0.0
    offset: int = 0
    embedding_norm: bool = False
    last_norm: bool = False
    pre_norm: bool = False
    bias: bool | None = True
    key_bias: bool = True
    table: Literal["learned", "fixed", "buffer", "none"] = "learned"
    logits_bias: bool = True
    ties_decoder: bool = True
    alone: bool = True
    path: str = "model"
    head: str = "lm_head"
    sources: str = "max_position_embeddings"
    targets: str = "max_position_embeddings"
    encoder: Callable[[Keys, int, int], Part] | None = None
    extra: tuple[str, ...] = ()
    rows: int = 1024
    modelled: bool = False
    counted: tuple[str, str] = ("", "")
    scales: Literal["module", "code", ""] = "module"
    scales_queries: bool = False


M2M_100: Final = Style(
    act="relu",
    attention_dropout=0.1,
    offset=2,
    last_norm=True,
    pre_norm=True,
    table="buffer",
    logits_bias=False,
    alone=False,
    modelled=True,
)
"""M2M-100's, which NLLB-MoE's layers without experts share."""


class Builder:
    """Builds the stacks and classes of one config.

    ``both`` reads what the encoder needs as well: the causal class is the decoder alone.
    """

    def __init__(self, k: Keys, style: Style) -> None:
        self.k = k
        self.style = style
        self.D = k.need("d_model")
        self.V = k.need("vocab_size")
        self.act = k.want("activation_function", style.act)
        self.dropout = k.want("dropout", 0.1)
        self.attention_dropout = k.want("attention_dropout", style.attention_dropout)
        self.inner_dropout = k.want("activation_dropout", 0.0)
        self.bias = k.want("use_bias", False) if style.bias is None else style.bias
        self.tied = k.want("tie_word_embeddings", True)
        k.skip("encoder_layerdrop", "decoder_layerdrop", "scale_embedding", "d_model", "num_hidden_layers")
        k.skip("add_cross_attention")

    def heads(self, side: Side) -> int:
        """Heads of a stack's attention."""
        return self.k.need(f"{side}_attention_heads")

    def attention(self, side: Side, name: str, *, causal: bool = False, cross: bool = False) -> GroupedQuery:
        """Attention over the stack itself or over the encoder."""
        N = self.heads(side)
        return GroupedQuery(
            name=name,
            D=self.D,
            N=N,
            K=N,
            H=self.k.divides("d_model", f"{side}_attention_heads", self.D, N),
            o="out_proj",
            bias=self.bias,
            o_bias=self.bias,
            rotary=None,
            causal=causal,
            cross=cross,
            dropout=self.attention_dropout,
            scaled_queries=self.style.scales_queries,
            heads_first=self.style.scales_queries,
            eager="uncast",
            key_bias=self.style.key_bias,
        )

    def feed_forward(self, side: Side) -> Plain:
        """Two matrices, right below the layer."""
        return Plain(
            name="", D=self.D, F=self.k.need(f"{side}_ffn_dim"), act=self.act, inner_dropout=self.inner_dropout,
            nested=True,
        )  # fmt: skip

    def sub(self, block: Any, norm: str) -> Sublayer:
        """A block with its norm before or behind it."""
        made = layer_norm(norm, self.D)
        if self.style.pre_norm:
            return Sublayer(block=block, before=made, dropout=self.dropout, inline=isinstance(block, Plain))
        return Sublayer(block=block, of_sum=made, dropout=self.dropout)

    def encoder_layer(self) -> Layer:
        """Attention over all tokens, and the feed-forward block."""
        make = self.style.encoder
        block: Any = self.attention("encoder", "self_attn")
        if make is not None:
            norms = tuple(layer_norm(name, self.D) for name in self.style.extra)
            block = counted("sparse attention", make(self.k, self.D, self.heads("encoder")), *norms)
        return Layer(
            sublayers=(
                self.sub(block, "self_attn_layer_norm"),
                self.sub(self.feed_forward("encoder"), "final_layer_norm"),
            ),
            bounds="clamped" if self.style.pre_norm else "checked",
        )

    def decoder_layer(self, *, alone: bool) -> Layer:
        """The same over earlier tokens, and cross attention.

        A decoder that stands alone has it, but does not use it unless its config says that it is half of a pair.
        """
        cross: Any = self.attention("decoder", "encoder_attn", cross=True)
        if alone and not self.k.want("add_cross_attention", False):
            cross = counted("a decoder with cross attention that is not used", *cross.matrices())
        return Layer(
            sublayers=(
                self.sub(self.attention("decoder", "self_attn", causal=True), "self_attn_layer_norm"),
                self.sub(cross, "encoder_attn_layer_norm"),
                self.sub(self.feed_forward("decoder"), "final_layer_norm"),
            )
        )

    def positions(self, side: Side) -> int:
        """Tokens that a stack has positions for."""
        return self.k.size(self.style.sources if side == "encoder" else self.style.targets, self.style.rows)

    def stem(self, side: Side, name: str, *, V: int | None = None, alias_of: str | None = None, **fields: Any) -> Stem:
        """Word embedding and positions."""
        s, path = self.style, f"{self.style.path}.{side}"
        rows = self.positions(side) + s.offset
        table = f"{path}.embed_positions"
        given: dict[str, Any] = {"tables": (self._table(side, table, rows),) if s.table != "none" else ()}
        norm = layer_norm(f"{path}.layernorm_embedding", self.D) if s.embedding_norm else None
        return Stem(
            name=name,
            V=V or self.V,
            D=self.D,
            scaled=bool(s.scales),
            scaled_within=s.scales == "module",
            norm=norm,
            dropout=self.dropout,
            alias_of=alias_of,
            **{**given, **fields},
        )

    def _table(self, side: Side, name: str, rows: int) -> Table:
        if self.style.table == "buffer":
            return Sinusoids(name=f"{name}.weights", rows=rows, width=self.D)
        counted: Any = self.style.counted[side == "decoder"]
        return Table(name=name, rows=rows, width=self.D, counted=counted, frozen=self.style.table == "fixed")

    def stack(self, side: Side, stem: Stem, layers: tuple[Layer, ...]) -> Stack:
        """The stack around its layers."""
        path = f"{self.style.path}.{side}"
        return Stack(name=side, path=f"{path}.layers", stem=stem, layers=layers, norm=self.last_norm(side))

    def last_norm(self, side: Side) -> Norm | None:
        """The norm behind the last layer."""
        return layer_norm(f"{self.style.path}.{side}.layer_norm", self.D) if self.style.last_norm else None

    def model(self, stacks: tuple[Stack, ...], head: Head, **fields: Any) -> Model:
        """The model around its stacks."""
        return Model(
            model_type=str(self.k.config.get("model_type", "")),
            stacks=stacks,
            head=head,
            positions=self.positions("decoder"),
            table=self.style.table == "learned",
            causal=len(stacks) == 1,
            pair=Pair(shifts_first=True) if self.style.modelled and len(stacks) == 2 else None,
            **fields,
        )

    def classifier(self) -> Head:
        """A square matrix before that of the labels, whose number stands for itself."""
        path, D = "classification_head", self.D
        return Head(
            name=f"{path}.out_proj",
            D=D,
            V=1,
            bias=True,
            dense=matrix(f"{path}.dense", ("D", D), ("D", D), "head"),
            act="tanh",
        )

    def decoder_alone(self) -> Model:
        """The causal class."""
        k = self.k
        k.skip("encoder_layers", "encoder_ffn_dim", "encoder_attention_heads", self.style.sources)
        table = f"{self.style.path}.decoder.embed_tokens"
        layer = self.decoder_layer(alone=True)
        shared = self.tied and self.style.ties_decoder
        head = Head(name=self.style.head, D=self.D, V=self.V, alias_of=f"{table}.weight" if shared else None)
        stack = self.stack("decoder", self.stem("decoder", table), (layer,) * k.need("decoder_layers"))
        return self.model((stack,), head)

    def both(self, *, extra: tuple[Tensor, ...] = ()) -> Model:
        """The sequence-to-sequence class: one table for both stacks and the head, or three and the unused one."""
        k, path = self.k, self.style.path
        shared = f"{path}.shared.weight"
        alias = shared if self.tied else None
        bias = Tensor("final_logits_bias", (("X", 1), ("V", self.V)), "buffer")
        beside = (bias,) if self.style.logits_bias else ()
        head = Head(name=self.style.head, D=self.D, V=self.V, alias_of=alias, extra=beside, offset=bool(beside))
        table = Tensor(
            f"{path}.encoder.embed_tokens.weight", (("V", self.V), ("D", self.D)), "embedding", alias_of=alias
        )
        stacks = (
            self.stack(
                "encoder",
                self.stem("encoder", f"{path}.shared"),
                (self.encoder_layer(),) * k.need("encoder_layers"),
            ),
            self.stack(
                "decoder",
                self.stem("decoder", f"{path}.decoder.embed_tokens", alias_of=alias),
                (self.decoder_layer(alone=False),) * k.need("decoder_layers"),
            ),
        )
        return self.model(stacks, head, extra=(table, *extra), classifier=self.classifier())
