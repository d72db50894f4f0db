"""What encoders of BERT's kind share: stem, layers with norms behind or before, heads that transform first."""

from __future__ import annotations

from typing import Any

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem, Table
from tonnage.arch.feedforward import Gated, Plain
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.arch.parts import Part
from tonnage.errors import ConfigError
from tonnage.families._decoder import rotary_width
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def attention(k: Keys, D: int, N: int, /, **fields: Any) -> GroupedQuery:
    """BERT's attention: three matrices below ``self``, the output's in a module behind it."""
    given: dict[str, Any] = {
        "name": "attention",
        "H": k.divides("hidden_size", "num_attention_heads", D, N),
        "q": "self.query",
        "k": "self.key",
        "v": "self.value",
        "o": "output.dense",
        "bias": True,
        "o_bias": True,
        "rotary": None,
        "causal": k.want("is_decoder", False),
        "dropout": k.want("attention_probs_dropout_prob", 0.1),
        "eager": "uncast",
        "o_apart": True,
    }
    return GroupedQuery(D=D, N=N, K=N, **{**given, **fields})


def feed_forward(k: Keys, D: int, *, act: str = "gelu") -> Plain:
    """BERT's two matrices, each in a module of its own."""
    return Plain(
        name="",
        D=D,
        F=k.need("intermediate_size"),
        act=k.want("hidden_act", act),
        up="intermediate.dense",
        down="output.dense",
        holds=True,
    )


def post_norm(k: Keys, D: int, N: int, *, act: str = "gelu", **fields: Any) -> Layer:
    """BERT's layer: each sum is normed. ``fields`` are those of the attention."""
    dropout = k.want("hidden_dropout_prob", 0.1)
    own = attention(k, D, N, **fields)

    def attends(block: GroupedQuery) -> Sublayer:
        norm = layer_norm(f"{block.name}.output.LayerNorm", D)
        return Sublayer(block=block, of_sum=norm, dropout=dropout, named=True)

    return Layer(
        sublayers=(
            attends(own),
            *(attends(own.but(name=name, cross=True, causal=False)) for name in _crosses(k, own)),
            Sublayer(
                block=feed_forward(k, D, act=act), of_sum=layer_norm("output.LayerNorm", D), dropout=dropout, named=True
            ),
        )
    )


def rotary_layer(k: Keys, D: int, mlp: Plain | Gated, *, bias: bool, dropouts: tuple[float, float]) -> Layer:
    """The same with rotary positions, in modules of other names (Nomic, GTE, Jina).

    Args:
        k: the config.
        D: residual width.
        mlp: the feed-forward block.
        bias: whether attention has biases.
        dropouts: of the attention weights and of the blocks' outputs, where the config says nothing.
    """
    N = k.need("num_attention_heads")
    own = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=N,
        H=k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N),
        bias=bias,
        o_bias=bias,
        causal=False,
        eager="uncast",
        dropout=k.want("attention_probs_dropout_prob", dropouts[0]),
    )
    dropout = k.want("hidden_dropout_prob", dropouts[1])
    return Layer(
        sublayers=(
            Sublayer(block=own, of_sum=layer_norm("post_attention_layernorm", D), dropout=dropout, holds=True),
            Sublayer(block=mlp, of_sum=layer_norm("post_mlp_layernorm", D), dropout=dropout, rebinds=True),
        )
    )


def _crosses(k: Keys, own: GroupedQuery) -> tuple[str, ...]:
    """The name of the attention to another encoder, which a decoder of a pair has."""
    if not k.want("add_cross_attention", False):
        return ()
    if not own.causal:
        raise ConfigError(
            f"{k.path}add_cross_attention: only a decoder has it, which is_decoder says",
            key=f"{k.path}add_cross_attention",
            value=True,
            file=k.file,
        )
    return ("crossattention",)


def unrun(k: Keys, D: int, what: str, *parts: Part | Tensor, act: str = "gelu", mlp: Any = None) -> Layer:
    """BERT's layer around attention that is counted only: ``what`` it is, for messages."""
    return Layer(
        sublayers=(
            Sublayer(block=counted(what, *parts), of_sum=layer_norm("attention.output.LayerNorm", D)),
            Sublayer(block=mlp or feed_forward(k, D, act=act), of_sum=layer_norm("output.LayerNorm", D)),
        )
    )


def pre_norm(k: Keys, D: int, N: int, first: str, second: str, *, drops: bool = True) -> Layer:
    """The same with norms of the inputs, whose names differ; ``drops``: with dropout behind the second block too."""
    dropout = k.want("hidden_dropout_prob", 0.1)
    last = dropout if drops else 0.0
    return Layer(
        sublayers=(
            Sublayer(block=attention(k, D, N), before=layer_norm(first, D), dropout=dropout, named=True),
            Sublayer(block=feed_forward(k, D), before=layer_norm(second, D), dropout=last, named=True),
        )
    )


def without_pass(layer: Layer, what: str) -> Layer:
    """The same layer, of which a pass is refused: ``what`` says whose."""
    first, *others = layer.sublayers
    return layer.but(sublayers=(first.but(block=counted(what, first.block)), *others))


def stem(
    k: Keys,
    base: str,
    D: int,
    *,
    P: int | None,
    types: int | None = 2,
    width: int | None = None,
    widen: str | None = None,
    norm: bool = True,
    type_ids: bool = True,
    after_padding: bool = False,
    extra: tuple[Table, ...] = (),
    dropout: float | None = None,
) -> Stem:
    """Word embedding, token types, positions, norm.

    Args:
        k: the config.
        base: path of the bare model.
        D: residual width.
        P: rows of the table of positions; None for none.
        types: rows of the table of token types where the config says nothing; None for no such table.
        width: of the tables, where the sum is widened behind its norm.
        widen: path of the matrix that does so.
        norm: whether the sum is normed.
        type_ids: whether a buffer holds token types.
        after_padding: positions are counted from the tokens that are no padding (RoBERTa).
        extra: further tables.
        dropout: of the sum; the layers' where nothing is said.
    """
    path, E = f"{base}.embeddings", width or D
    tables: tuple[Table, ...] = ()
    if types is not None:
        rows = k.size("type_vocab_size", types)
        tables += (
            Table(name=f"{path}.token_type_embeddings", rows=rows, width=E, buffered=after_padding, own=after_padding),
        )
    if P is not None:
        tables += (Table(name=f"{path}.position_embeddings", rows=P, width=E, buffered=True, own=after_padding),)
    ids = ("position_ids", *(("token_type_ids",) if type_ids else ()))
    return Stem(
        name=f"{path}.word_embeddings",
        V=k.need("vocab_size"),
        D=D,
        tables=tables + extra,
        norm=layer_norm(f"{path}.LayerNorm", E) if norm else None,
        dropout=k.want("hidden_dropout_prob", 0.1) if dropout is None else dropout,
        buffers=()
        if P is None
        else tuple(Tensor(f"{path}.{name}", (("X", 1), ("P", P)), "buffer", dtype="int64") for name in ids),
        width=None if widen is None else E,
        widen=None if widen is None else Linear(widen, (("D", E),), (("D", D),), "embedding", bias=True),
    )


def rotary_stem(k: Keys, base: str, D: int, types: int, *, P: int | None, dropout: float) -> Stem:
    """The same without positions, before layers that turn queries and keys (Nomic, GTE, Jina).

    Args:
        k: the config.
        base: path of the bare model.
        D: residual width.
        types: rows of the table of token types, which are made for every sequence.
        P: tokens for which buffers hold positions and token types; None for no such buffers.
        dropout: where the config says nothing.
    """
    path = f"{base}.embeddings"
    table = Table(name=f"{path}.token_type_embeddings", rows=types, width=D, buffered=True, own=True)
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, k.need("num_attention_heads"))
    return stem(k, base, D, P=None, types=None, dropout=k.want("hidden_dropout_prob", dropout)).but(
        tables=(table,) if types else (),
        buffers=()
        if P is None
        else tuple(
            Tensor(f"{path}.{name}", (("X", 1), ("P", P)), "buffer", dtype="int64")
            for name in ("position_ids", "token_type_ids")
        ),
        rotary=(Rotary(f"{base}.rotary_emb", rotary_width(k, H)),),
        position_ids="named",
        apart=True,
    )


def places(k: Keys, P: int, *, padding: int | None = 1) -> int:
    """Tokens for which a table of ``P`` positions has rows, where it starts behind the padding token's number.

    ``padding``: that number where the config says nothing.
    """
    padding = k.optional("pad_token_id", int, padding)
    return P if padding is None else max(P - padding - 1, 1)


def predictions(base: str, D: int, V: int, act: str, *, tied: bool, E: int | None = None) -> Head:
    """BERT's head ``cls.predictions``: matrix, activation and norm before the table. ``E``: the table's width."""
    path, width = "cls.predictions", E or D
    return Head(
        name=f"{path}.decoder",
        D=width,
        V=V,
        bias=True,
        alias_of=f"{base}.embeddings.word_embeddings.weight" if tied else None,
        bias_alias_of=f"{path}.bias" if tied else None,
        dense=matrix(f"{path}.transform.dense", ("D", D), ("D", width), "head"),
        act=act,
        norm=layer_norm(f"{path}.transform.LayerNorm", width),
        extra=(Tensor(f"{path}.bias", (("V", V),), "head"),),
    )


def lm_head(base: str, D: int, V: int, *, tied: bool) -> Head:
    """RoBERTa's head: the same under other names, always with a gelu."""
    return Head(
        name="lm_head.decoder",
        D=D,
        V=V,
        bias=True,
        alias_of=f"{base}.embeddings.word_embeddings.weight" if tied else None,
        bias_alias_of="lm_head.bias" if tied else None,
        dense=matrix("lm_head.dense", ("D", D), ("D", D), "head"),
        norm=layer_norm("lm_head.layer_norm", D),
        extra=(Tensor("lm_head.bias", (("V", V),), "head"),),
    )


def classifier(D: int, *, act: str = "tanh", drops: float | None = None) -> Head:
    """RoBERTa's classifier: a square matrix before that of the labels, whose number stands for itself.

    ``drops``: dropout before either matrix, where its pass is modelled.
    """
    return Head(
        pooled="" if drops is None else "first",
        drops_first=drops or 0.0,
        drops=drops or 0.0,
        name="classifier.out_proj",
        D=D,
        V=1,
        bias=True,
        dense=matrix("classifier.dense", ("D", D), ("D", D), "head"),
        act=act,
    )


def behind_pooler(base: str, D: int, drops: float) -> Head:
    """BERT's classifier: the pooler, which is the bare class's as well, and a matrix."""
    return Head(
        name="classifier",
        D=D,
        V=1,
        bias=True,
        dense=matrix(f"{base}.pooler.dense", ("D", D), ("D", D), "pooler"),
        act="tanh",
        pooled="first",
        drops=drops,
    )


def classifier_dropout(k: Keys) -> float:
    """Dropout in the classifier's head: its own, or that of the layers."""
    own = k.config.get("classifier_dropout")
    return own if isinstance(own, float) else k.want("hidden_dropout_prob", 0.1)


def three_matrices(head: Head, path: str, F: int) -> Head:
    """UltraBERT's head: down to ``F`` elements and up again before the table."""
    down = matrix(f"{path}.linear1", ("D", head.D), ("F", F), "head", bias=False)
    up = matrix(f"{path}.linear2", ("F", F), ("D", head.D), "head", bias=False)
    return head.but(dense=down, second=up, act="gelu_pytorch_tanh")


def pooler(base: str, D: int) -> tuple[Tensor, ...]:
    """The square matrix behind the first token."""
    return tuple(matrix(f"{base}.pooler.dense", ("D", D), ("D", D), "pooler").weights())


def encoder(
    k: Keys,
    base: str,
    stem: Stem,
    layers: tuple[Layer, ...],
    head: Head | None,
    *,
    positions: int | None,
    norm: Norm | None = None,
    path: str = "encoder.layer",
    table: bool = True,
    **fields: Any,
) -> Model:
    """The model around its layers. ``fields`` are further ones of ``Model``."""
    return Model(
        model_type=str(k.config.get("model_type", "")),
        stacks=(Stack(name="encoder", path=f"{base}.{path}", stem=stem, layers=layers, norm=norm),),
        head=head,
        positions=positions,
        table=table,
        **{"causal": k.want("is_decoder", False), **fields},
    )


def only_encoder(k: Keys) -> None:
    """A family whose cross attention, which pairs of encoder and decoder have, is not modelled."""
    k.refuse("add_cross_attention")
    k.skip("classifier_dropout_prob")
