"""MobileBERT: BERT with a narrow body between bottlenecks, and more feed-forward blocks (arXiv:2004.02984)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head, Stem, Table
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.arch.parts import Part
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._encoder import encoder, predictions
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.keys import Keys
from tonnage.tensors import Role, Tensor

BASE: Final = "mobilebert"


def read(k: Keys) -> Model:
    """Build the model that ``MobileBertForMaskedLM`` builds."""
    D, E, P = k.need("hidden_size"), k.size("embedding_size", 128), k.size("max_position_embeddings", 512)
    if E > D:
        raise ConfigError(
            f"embedding_size = {E} is above hidden_size = {D}", key="embedding_size", value=E, file=k.file
        )
    k.skip("attention_probs_dropout_prob", "normalization_type", "true_hidden_size")
    pooled = matrix(f"{BASE}.pooler.dense", ("D", D), ("D", D), "pooler")
    return encoder(
        k,
        BASE,
        _stem(k, D, E, P),
        (_layer(k, D),) * k.need("num_hidden_layers"),
        _head(k, D, E),
        positions=P,
        pooler=tuple(pooled.weights()) if k.want("classifier_activation", True) else (),
        causal=False,
    )


def _stem(k: Keys, D: int, E: int, P: int) -> Stem:
    """A narrow embedding, of which three neighbours make one token, beside positions and types of the full width."""
    path = f"{BASE}.embeddings"
    V, seen = k.need("vocab_size"), 3 if k.want("trigram_input", True) else 1
    joined = matrix(f"{path}.embedding_transformation", ("X", E * seen), ("D", D), "embedding")
    return Stem(
        name=f"{path}.word_embeddings",
        V=V,
        D=D,
        width=E,
        widen=joined,
        tables=(
            Table(name=f"{path}.position_embeddings", rows=P, width=D, buffered=True),
            Table(name=f"{path}.token_type_embeddings", rows=k.size("type_vocab_size", 2), width=D),
        ),
        norm=layer_norm(f"{path}.LayerNorm", D),
        dropout=k.want("hidden_dropout_prob", 0.0),
        buffers=(Tensor(f"{path}.position_ids", (("X", 1), ("P", P)), "buffer", dtype="int64"),),
    )


def _layer(k: Keys, D: int) -> Layer:
    """Attention and feed-forward blocks of the body's width, which is the model's where there are no bottlenecks."""
    F, narrow = k.need("intermediate_size"), k.want("use_bottleneck", True)
    inner = k.size("intra_bottleneck_size", 128)
    I = inner if narrow else D  # noqa: E741
    k.divides("true_hidden_size", "num_attention_heads", I, k.need("num_attention_heads"))
    values = I if k.want("use_bottleneck_attention", False) else D
    shared = k.want("key_query_shared_bottleneck", True)
    path = "attention.self"
    attends: list[Part] = [
        matrix(f"{path}.query", ("I", I), ("N", I), "attention"),
        matrix(f"{path}.key", ("I", I), ("N", I), "attention"),
        matrix(f"{path}.value", ("D", values), ("N", I), "attention"),
        *_normed("attention.output", I, I, "attention"),
    ]
    mlps: list[Part] = []
    for place in (*(f"ffn.{index}." for index in range(k.size("num_feedforward_networks", 4) - 1)), ""):
        mlps += [
            matrix(f"{place}intermediate.dense", ("I", I), ("F", F), "feed_forward"),
            *_normed(f"{place}output", F, I, "feed_forward"),
        ]
    if narrow:
        mlps += [*_normed("output.bottleneck", I, D, "feed_forward"), *_normed("bottleneck.input", D, I, "attention")]
        mlps += _normed("bottleneck.attention", D, I, "attention") if shared else ()
    what = "MobileBERT"
    return Layer(sublayers=(Sublayer(block=counted(what, *attends)), Sublayer(block=counted(what, *mlps))))


def _normed(path: str, ins: int, outs: int, role: Role) -> tuple[Linear, Norm]:
    """A matrix and the norm behind it, or the scale and shift that stand for one: they hold the same."""
    return matrix(f"{path}.dense", ("D", ins), ("D", outs), role), layer_norm(f"{path}.LayerNorm", outs)


def _head(k: Keys, D: int, E: int) -> Head:
    """BERT's head, with a table of its own for what the embedding is too narrow for."""
    V, path = k.need("vocab_size"), "cls.predictions"
    head = predictions(BASE, D, V, k.want("hidden_act", "relu"), tied=k.want("tie_word_embeddings", True))
    rest = (Tensor(f"{path}.dense.weight", (("D", D - E), ("V", V)), "head"),) if D > E else ()
    return head.but(D=E, extra=head.extra + rest)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/mobilebert/"
    "modeling_mobilebert.py",
)
