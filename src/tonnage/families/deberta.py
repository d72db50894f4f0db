"""DeBERTa and its second version: attention to contents and to relative positions apart (arXiv:2006.03654)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.disentangled import Disentangled, Distances
from tonnage.arch.ends import Head, Stem
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.arch.parts import Part
from tonnage.errors import UnsupportedError
from tonnage.families import Family
from tonnage.families._encoder import encoder, feed_forward, predictions, stem, unrun
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import convolution
from tonnage.keys import Keys
from tonnage.tensors import Axes, Axis, Tensor


def read(k: Keys) -> Model:
    """Build the model that ``DebertaForMaskedLM`` or ``DebertaV2ForMaskedLM`` builds."""
    second = k.config["model_type"] == "deberta-v2"
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 512)
    V, E = k.need("vocab_size"), k.optional("embedding_size") or D
    if not k.want("legacy", True):
        raise UnsupportedError("legacy = false is not modelled yet", key="legacy", value=False, file=k.file)
    k.refuse("talking_head")
    k.skip("pooler_dropout", "pooler_hidden_act", "pooler_hidden_size", "conv_act", "classifier_dropout", "cls_dropout")
    biased, types = k.want("position_biased_input", True), k.want("type_vocab_size", 0)
    act, tied = k.want("hidden_act", "gelu"), k.want("tie_word_embeddings", True)
    given = stem(
        k,
        "deberta",
        D,
        P=P,
        types=types or None,
        width=E,
        widen="deberta.embeddings.embed_proj" if E != D else None,
        type_ids=False,
    )
    # The matrix that widens has no bias, and stands before the norm.
    given = given.but(
        tables=given.tables if biased else tuple(t for t in given.tables if "position" not in t.name),
        norm=layer_norm("deberta.embeddings.LayerNorm", D),
        widen=None,
        project="deberta.embeddings.embed_proj" if E != D else None,
    )
    if second and k.config.get("relative_attention") and not (k.config.get("conv_kernel_size") or 0) > 0:
        layer, given = _disentangled(k, D, N, given)
    else:
        layer = unrun(k, D, "DeBERTa's attention", *(_second(k, D, N) if second else _first(k, D, N)))
    model = encoder(
        k,
        "deberta",
        given,
        (layer,) * k.need("num_hidden_layers"),
        predictions("deberta", D, V, act, tied=tied, E=E),
        positions=P if biased else None,
        table=biased,
        classifier=Head(
            name="classifier",
            D=D,
            V=1,
            bias=True,
            dense=matrix("pooler.dense", ("D", D), ("D", D), "pooler"),
            act=str(k.config.get("pooler_hidden_act") or "gelu"),
            pooled="first",
            drops_first=_rate(k, "pooler_dropout", 0.0),
            drops=_rate(k, "cls_dropout", given.dropout),
        ),
        eager_only=True,
        extra=_relative(k, D, P, second=second),
    )
    return model.but(stacks=(model.decoder.but(keeps=True),))


def _rate(k: Keys, key: str, default: float) -> float:
    """A dropout of the classifier's, which counts nowhere else."""
    own = k.config.get(key)
    return float(own) if isinstance(own, (int, float)) else default


def _kinds(k: Keys) -> tuple[bool, bool]:
    """Whether contents attend to positions and positions to contents."""
    kinds = k.config.get("pos_att_type")
    k.skip("pos_att_type")
    found = kinds.split("|") if isinstance(kinds, str) else kinds or []
    relative = k.want("relative_attention", False)
    return relative and "c2p" in found, relative and "p2c" in found


def _first(k: Keys, D: int, N: int) -> list[Part | Tensor]:
    """One matrix for queries, keys and values; two of them have a bias of their own."""
    H, name = k.divides("hidden_size", "num_attention_heads", D, N), "attention.self"
    sides: Axis = ("D", D)
    heads: Axes = (("N", N), ("H", H))
    k.skip("attention_probs_dropout_prob")
    parts: list[Part | Tensor] = [
        matrix(f"{name}.in_proj", sides, ("X", 3 * D), "attention", bias=False),
        Tensor(f"{name}.q_bias", heads, "attention", (2,)),
        Tensor(f"{name}.v_bias", heads, "attention", (2,)),
        matrix("attention.output.dense", sides, sides, "attention"),
    ]
    contents, positions = _kinds(k)
    if contents:
        parts.append(matrix(f"{name}.pos_proj", sides, sides, "attention", bias=False))
    if positions:
        parts.append(matrix(f"{name}.pos_q_proj", sides, sides, "attention"))
    return parts


def _second(k: Keys, D: int, N: int) -> list[Part | Tensor]:
    """Three matrices; those of positions may be the same."""
    H = k.optional("attention_head_size") or k.divides("hidden_size", "num_attention_heads", D, N)
    name, wide = "attention.self", ("N", N * H)
    k.skip("attention_probs_dropout_prob")
    parts: list[Part | Tensor] = [
        matrix(f"{name}.{part}_proj", ("D", D), wide, "attention") for part in ("query", "key", "value")
    ]
    parts.append(matrix("attention.output.dense", ("D", D), ("D", D), "attention"))
    contents, positions = _kinds(k)
    if not k.want("share_att_key", False):
        for used, part in ((contents, "pos_key"), (positions, "pos_query")):
            if used:
                parts.append(matrix(f"{name}.{part}_proj", ("D", D), wide, "attention"))
    return parts


def _disentangled(k: Keys, D: int, N: int, given: Stem) -> tuple[Layer, Stem]:
    """The second version's layer, and the stem with what it is handed."""
    H = k.optional("attention_head_size") or k.divides("hidden_size", "num_attention_heads", D, N)
    contents, positions = _kinds(k)
    dropout = k.want("hidden_dropout_prob", 0.1)
    table, *others = _relative(k, D, k.size("max_position_embeddings", 512), second=True)[::-1]
    normed = any("encoder.LayerNorm" in t.name for t in others)
    token = Disentangled(
        name="attention",
        D=D,
        N=N,
        H=H,
        span=table.axes[0][1],
        contents=contents,
        positions=positions,
        shared=k.want("share_att_key", False),
        dropout=k.want("attention_probs_dropout_prob", 0.1),
        pos_dropout=dropout,
    )
    norm = layer_norm("attention.output.LayerNorm", D)
    mlp = Sublayer(block=feed_forward(k, D), of_sum=layer_norm("output.LayerNorm", D), dropout=dropout, named=True)
    layer = Layer(sublayers=(Sublayer(block=token, of_sum=norm, dropout=dropout, named=True), mlp))
    path = "deberta.encoder"
    handed = Distances(
        name=f"{path}.rel_embeddings",
        rows=table.axes[0][1],
        D=D,
        norm=layer_norm(f"{path}.LayerNorm", D) if normed else None,
    )
    # Token types are made for every sequence.
    tables = tuple(t.but(own=True, buffered=True) if "token_type" in t.name else t for t in given.tables)
    return layer, given.but(relative=handed, by_mask=True, apart=True, tables=tables)


def _relative(k: Keys, D: int, P: int, *, second: bool) -> tuple[Tensor, ...]:
    """The table of relative positions; in the second version its norm and a convolution behind the first layer."""
    found: tuple[Tensor, ...] = ()
    # Below one is what the configs write for none.
    reach = k.want("max_relative_positions", -1, least=-1)
    rows = reach if reach >= 1 else P
    if second:
        buckets = k.want("position_buckets", -1, least=-1)
        rows = buckets if buckets > 0 else rows
        if "layer_norm" in [part.strip() for part in k.want("norm_rel_ebd", "none").lower().split("|")]:
            found += tuple(layer_norm("deberta.encoder.LayerNorm", D).weights())
        kernel, groups = k.want("conv_kernel_size", 0), k.size("conv_groups", 1)
        if kernel > 0:
            ins = k.divides("hidden_size", "conv_groups", D, groups)
            found += convolution("deberta.encoder.conv.conv", ins, D, kernel)
            found += tuple(layer_norm("deberta.encoder.conv.LayerNorm", D).weights())
    if k.want("relative_attention", False):
        found += (Tensor("deberta.encoder.rel_embeddings.weight", (("P", 2 * rows), ("D", D)), "position"),)
    return found


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/deberta_v2/"
    "modeling_deberta_v2.py",
)
