"""Funnel Transformer: blocks of layers with pooled tokens between them, then layers over all (arXiv:2006.03236)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.ends import Head, Stem
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.arch.parts import Part
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.keys import Keys
from tonnage.tensors import Tensor

BASE: Final = "funnel"


def read(k: Keys) -> Model:
    """Build the model that ``FunnelForMaskedLM`` builds."""
    if k.config.get("architectures") == ["FunnelBaseModel"]:
        return pooled(k)
    above = tuple(_layer(k, f"decoder.layers.{index}") for index in range(k.want("num_decoder_layers", 2)))
    alias = f"{BASE}.embeddings.word_embeddings.weight" if k.want("tie_word_embeddings", True) else None
    model = _model(k, _blocks(k) + above)
    return model.but(head=Head(name="lm_head", D=model.width, V=model.vocabulary, bias=True, alias_of=alias))


def pooled(k: Keys) -> Model:
    """Build ``FunnelBaseModel``, which ends with the pooled tokens and stands before the classifier."""
    k.skip("num_decoder_layers", "tie_word_embeddings")
    model = _model(k, _blocks(k))
    D: Any = ("D", model.width)
    dense = matrix("classifier.linear_hidden", D, D, "head")
    return model.but(classifier=Head(name="classifier.linear_out", D=model.width, V=1, bias=True, dense=dense))


def _model(k: Keys, layers: tuple[Layer, ...]) -> Model:
    """The embedding and the layers, each of which has a name of its own."""
    D, path = k.need("hidden_size"), f"{BASE}.embeddings"
    k.skip("initializer_std", "pooling_type", "attention_type", "separate_cls", "truncate_seq", "pool_q_only")
    stem = Stem(
        name=f"{path}.word_embeddings",
        V=k.need("vocab_size"),
        D=D,
        norm=layer_norm(f"{path}.layer_norm", D),
        dropout=k.want("hidden_dropout", 0.1),
    )
    return Model(
        model_type=BASE,
        stacks=(Stack(name="encoder", path=BASE, stem=stem, layers=layers, lists=True),),
        head=None,
        positions=None,
        eager_only=True,
        causal=False,
    )


def _blocks(k: Keys) -> tuple[Layer, ...]:
    """The layers of all blocks. A layer that is run several times stands once."""
    sizes = k.need("block_sizes", list)
    repeats = k.optional("block_repeats", list)
    for key, found in (("block_sizes", sizes), ("block_repeats", repeats or [])):
        if not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n < 1000 for n in found):
            raise ConfigError(f"{key} = {found} are not numbers of layers", key=key, value=found, file=k.file)
    if repeats is not None and len(repeats) != len(sizes):
        raise ConfigError(
            f"block_repeats has {len(repeats)} entries for {len(sizes)} blocks", key="block_repeats", file=k.file
        )
    return tuple(
        _layer(k, f"encoder.blocks.{block}.{index}") for block, size in enumerate(sizes) for index in range(size)
    )


def _layer(k: Keys, path: str) -> Layer:
    """Attention to positions and segments relative to the token, and a feed-forward block."""
    D, N, F = k.need("hidden_size"), k.need("num_attention_heads"), k.need("d_inner")
    heads, width = ("N", N), ("H", k.size("d_head", 64))
    k.skip("attention_dropout", "activation_dropout", "hidden_act")
    name, inner = f"{path}.attention", ("N", N * width[1])
    attends: tuple[Part | Tensor, ...] = (
        *(matrix(f"{name}.{part}", ("D", D), inner, "attention", bias=part != "q_head") for part in _PROJECTIONS),
        matrix(f"{name}.post_proj", inner, ("D", D), "attention"),
        *(Tensor(f"{name}.{part}", (heads, width), "attention") for part in ("r_w_bias", "r_r_bias", "r_s_bias")),
        Tensor(f"{name}.r_kernel", (("D", D), heads, width), "attention"),
        Tensor(f"{name}.seg_embed", (("X", 2), heads, width), "attention"),
    )
    mlp = (
        matrix(f"{path}.ffn.linear_1", ("D", D), ("F", F), "feed_forward"),
        matrix(f"{path}.ffn.linear_2", ("F", F), ("D", D), "feed_forward"),
    )
    what = "a funnel"
    return Layer(
        sublayers=(
            Sublayer(block=counted(what, *attends), of_sum=layer_norm(f"{name}.layer_norm", D)),
            Sublayer(block=counted(what, *mlp), of_sum=layer_norm(f"{path}.ffn.layer_norm", D)),
        )
    )


_PROJECTIONS: Final = ("q_head", "k_head", "v_head")

FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/funnel/modeling_funnel.py",
    attributes={"hidden_size": "d_model", "num_attention_heads": "n_head"},
    classes={"classify": pooled},
)
