"""Perceiver: latents that attend to the bytes of a text, and queries that read the latents (arXiv:2107.14795)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head, Stem, Table
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.keys import Keys
from tonnage.tensors import Tensor

BASE: Final = "perceiver"
BYTES: Final = f"{BASE}.input_preprocessor"
CHANNELS: Final = 256
"""Channels of the keys that the queries for masked bytes see: eight heads of 32, whatever the config says."""


def read(k: Keys) -> Model:
    """Build the model that ``PerceiverForMaskedLM`` builds: its head is the embedding and a bias."""
    D, V, P = k.size("d_model", 768), k.size("vocab_size", 262), k.size("max_position_embeddings", 2048)
    latents = k.size("d_latents", 1280)
    reads = _reads(f"{BASE}.decoder", P, D, latents, qk=CHANNELS, v=D)
    bias = Tensor("embedding_decoder.bias", (("V", V),), "head")
    model = _model(k, D, D)
    table = f"{BYTES}.embeddings.weight"
    return model.but(
        head=Head(name="embedding_decoder", D=D, V=V, alias_of=table, unnamed=True, extra=(bias,)),
        extra=model.extra + reads,
    )


def classifies(k: Keys) -> Model:
    """Build what stands before the classifier: one query reads the latents."""
    D, latents, path = k.size("d_model", 768), k.size("d_latents", 1280), f"{BASE}.decoder.decoder"
    qk = _asked(k, latents, latents)
    reads = _reads(path, 1, latents, latents, qk=qk, v=qk)
    model = _model(k, D, D)
    return model.but(extra=model.extra + reads, classifier=Head(name=f"{path}.final_layer", D=latents, V=1, bias=True))


def bare(k: Keys) -> Model:
    """Build ``PerceiverModel``, which has no embedding and no decoder of its own."""
    model = _model(k, k.size("d_model", 768), None)
    k.skip("vocab_size", "max_position_embeddings")
    return model


def _model(k: Keys, D: int, width: int | None) -> Model:
    """The latents and the layers over them; ``width`` is that of the embedding of bytes, where there is one."""
    latents, many = k.size("d_latents", 1280), k.size("num_latents", 256)
    k.skip("image_size", "train_size", "num_frames", "audio_samples_per_frame", "samples_per_patch", "output_shape")
    k.skip("output_num_channels", "attention_probs_dropout_prob", "hidden_act", "use_query_residual")
    # A block that is run several times stands once.
    k.skip("num_blocks")
    qk = k.optional("qk_channels") or latents
    _divided(k, "num_self_attention_heads", qk, latents)
    within = _layer(
        "",
        latents,
        latents,
        qk=qk,
        v=k.optional("v_channels") or qk,
        crosses=False,
        widen=k.size("self_attention_widening_factor", 1),
    )
    path = f"{BASE}.encoder"
    return Model(
        model_type="perceiver",
        stacks=(
            Stack(
                name="encoder",
                path=f"{path}.self_attends",
                stem=_stem(k, latents, width),
                layers=(within,) * k.size("num_self_attends_per_block", 26),
            ),
        ),
        head=None,
        positions=k.size("max_position_embeddings", 2048) if width is not None else None,
        table=True,
        eager_only=True,
        causal=False,
        extra=(
            Tensor(f"{BASE}.embeddings.latents", (("P", many), ("D", latents)), "embedding"),
            *_crossing(k, f"{path}.cross_attention.", latents, D),
        ),
    )


def _stem(k: Keys, latents: int, width: int | None) -> Stem:
    """The embedding of bytes, where there is one."""
    if width is None:
        return Stem(name="", V=1, D=latents)
    rows = k.size("max_position_embeddings", 2048)
    tables = (Table(name=f"{BYTES}.position_embeddings", rows=rows, width=width),)
    return Stem(name=f"{BYTES}.embeddings", V=k.size("vocab_size", 262), D=latents, width=width, tables=tables)


def _asked(k: Keys, latents: int, seen: int) -> int:
    """Channels of the keys in cross attention, where the config does not tell: those of one of its sides."""
    side = k.want("cross_attention_shape_for_attention", "kv")
    if side not in ("q", "kv"):
        raise ConfigError(
            f"cross_attention_shape_for_attention = {side!r} is neither q nor kv",
            key="cross_attention_shape_for_attention",
            value=side,
            file=k.file,
        )
    return latents if side == "q" else seen


def _divided(k: Keys, key: str, qk: int, latents: int) -> None:
    """Hold both widths against the number of heads."""
    N = k.size(key, 8)
    k.divides("d_latents", key, latents, N)
    k.divides("qk_channels", key, qk, N)


def _crossing(k: Keys, path: str, latents: int, seen: int) -> tuple[Tensor, ...]:
    """The layer in which latents attend to the bytes."""
    qk = k.optional("qk_channels") or _asked(k, latents, seen)
    v, widen = k.optional("v_channels") or qk, k.size("cross_attention_widening_factor", 1)
    k.want("cross_attention_shape_for_attention", "kv")
    _divided(k, "num_cross_attention_heads", qk, latents)
    return _layer(path, latents, seen, qk=qk, v=v, crosses=True, widen=widen).weights()


def _reads(path: str, rows: int, D: int, latents: int, *, qk: int, v: int) -> tuple[Tensor, ...]:
    """Learned queries, and the layer in which they attend to the latents."""
    queries = Tensor(f"{path}.output_position_encodings.position_embeddings", (("P", rows), ("D", D)), "position")
    layer = _layer(f"{path}.decoding_cross_attention.", D, latents, qk=qk, v=v, crosses=True, widen=1)
    return (queries, *layer.weights())


def _layer(path: str, D: int, seen: int, *, qk: int, v: int, crosses: bool, widen: int) -> Layer:
    """Attention from ``D`` elements to ``seen``, with keys of ``qk`` and values of ``v``, and a feed-forward block."""
    own, name, what = f"{path}attention.self", f"{path}attention", "a Perceiver"
    ins, outs, inner = ("D", D), ("D", D if crosses else v), ("F", widen * D)
    token = (
        layer_norm(f"{own}.layernorm1", D),
        *((layer_norm(f"{own}.layernorm2", seen),) if crosses else ()),
        matrix(f"{own}.query", ins, ("N", qk), "attention"),
        matrix(f"{own}.key", ("D", seen), ("N", qk), "attention"),
        matrix(f"{own}.value", ("D", seen), ("N", v), "attention"),
        matrix(f"{name}.output.dense", ("N", v), outs, "attention"),
    )
    channel = (
        layer_norm(f"{path}layernorm", D),
        matrix(f"{path}mlp.dense1", ins, inner, "feed_forward"),
        matrix(f"{path}mlp.dense2", inner, ins, "feed_forward"),
    )
    return Layer(sublayers=(Sublayer(block=counted(what, *token)), Sublayer(block=counted(what, *channel))))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/perceiver/"
    "modeling_perceiver.py",
    classes={"classify": classifies, "none": bare},
)
