"""GPT-Neo: learned positions, layers that see everything and layers that see a window, each with a mask of its own."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem, Table
from tonnage.arch.feedforward import Plain
from tonnage.arch.layers import Norm
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``GPTNeoForCausalLM`` builds.

    Whether a layer sees a window changes its mask only: every layer keeps all keys and values.
    """
    D, N = k.need("hidden_size"), k.need("num_attention_heads")
    V, L, P = k.need("vocab_size"), k.need("num_hidden_layers"), k.size("max_position_embeddings", 2048)
    _check_pattern(k, L)
    dropout = k.want("resid_dropout", 0.0)
    norm = (("D", D),)
    k.skip("window_size")
    attention = GroupedQuery(
        name="attn.attention",
        D=D,
        N=N,
        K=N,
        H=k.divides("hidden_size", "num_heads", D, N),
        o="out_proj",
        o_bias=True,
        rotary=None,
        dropout=k.want("attention_dropout", 0.0),
        o_dropout=dropout,
        eager="fp32-where",
        buffers=(Tensor("attn.attention.bias", (("X", 1), ("X", 1), ("P", P), ("P", P)), "buffer", dtype="bool"),),
    )
    mlp = Plain(
        name="mlp",
        D=D,
        F=k.optional("intermediate_size") or 4 * D,
        act=k.want("activation_function", "gelu_new"),
        up="c_fc",
        down="c_proj",
        dropout=dropout,
    )
    layer = Layer(
        sublayers=(
            Sublayer(block=attention, before=Norm("ln_1", norm, "layer", bias=True), holds=True),
            Sublayer(block=mlp, before=Norm("ln_2", norm, "layer", bias=True), holds_input=True),
        ),
        carries=True,
    )
    tied = k.want("tie_word_embeddings", True)
    return Model(
        model_type="gpt_neo",
        stacks=(
            Stack(
                name="decoder",
                path="transformer.h",
                stem=Stem(
                    name="transformer.wte",
                    V=V,
                    D=D,
                    tables=(Table(name="transformer.wpe", rows=P, width=D),),
                    dropout=k.want("embed_dropout", 0.0),
                ),
                layers=(layer,) * L,
                norm=Norm("transformer.ln_f", norm, "layer", bias=True),
            ),
        ),
        head=Head(name="lm_head", D=D, V=V, alias_of="transformer.wte.weight" if tied else None),
        positions=P,
        table=True,
        eager_only=True,
    )


def _check_pattern(k: Keys, layers: int) -> None:
    """``attention_types`` is a list of pairs, a pattern and how often it stands: ``[[["global", "local"], 12]]``."""
    pattern: list[Any] | None = k.optional("attention_types", list)
    if pattern is None:
        count, kinds = 24, {"global"}
    else:
        try:
            count = sum(len(kinds) * times for kinds, times in pattern)
            kinds = {kind for kinds, _ in pattern for kind in kinds}
        except (TypeError, ValueError) as e:
            raise ConfigError(
                "attention_types must be pairs of a list of layers and a number", key="attention_types", value=pattern
            ) from e
    # transformers expands the pattern anew and never reads the list that it saves beside it.
    k.skip("attention_layers")
    if count != layers:
        raise ConfigError(
            f"attention_types names {count} layers for num_layers = {layers}", key="attention_types", value=count
        )
    if kinds - {"global", "local"}:
        raise ConfigError(
            "attention_types knows global and local layers only", key="attention_types", value=sorted(map(str, kinds))
        )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gpt_neo/"
    "modeling_gpt_neo.py",
    attributes={"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"},
)
