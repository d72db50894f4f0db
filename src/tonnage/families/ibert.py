"""I-BERT: RoBERTa with buffers beside every matrix for its whole numbers, made whether or not they are used.

Its weights are trained and stored as they are (arXiv:2101.01321).
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Stem
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.arch.parts import Part
from tonnage.families import Family
from tonnage.families._encoder import attention, classifier, encoder, feed_forward, lm_head, places, pooler, stem
from tonnage.families._pieces import counted, layer_norm
from tonnage.keys import Keys
from tonnage.tensors import Axes, Tensor

BASE: Final = "ibert"


def read(k: Keys) -> Model:
    """Build the model that ``IBertForMaskedLM`` builds."""
    D, P = k.need("hidden_size"), k.size("max_position_embeddings", 512)
    k.refuse("quant_mode")
    k.skip("force_dequant")
    k.refuse("hidden_act", "gelu")
    k.want("hidden_act", "gelu")
    tied = k.want("tie_word_embeddings", True)
    return encoder(
        k,
        BASE,
        _stem(k, D, P),
        (_layer(k, D),) * k.need("num_hidden_layers"),
        lm_head(BASE, D, k.need("vocab_size"), tied=tied),
        positions=places(k, P),
        pooler=pooler(BASE, D),
        classifier=classifier(D),
        causal=False,
    )


def _buffer(name: str, axes: Axes, dims: tuple[int, ...] = ()) -> Tensor:
    return Tensor(name, axes, "buffer", dims)


def _range(name: str) -> tuple[Tensor, ...]:
    """Smallest and largest activation, and the scale between them."""
    return tuple(_buffer(f"{name}.{part}", (("X", 1),)) for part in ("x_min", "x_max", "act_scaling_factor"))


def _norm(name: str) -> tuple[Tensor, ...]:
    """The shift of a norm over whole numbers, and the range of its output."""
    return (_buffer(f"{name}.shift", (("X", 1),)), *_range(f"{name}.activation"))


def _whole(part: Part) -> tuple[Tensor, ...]:
    """Every weight and bias as whole numbers, and a scale for each row."""
    found: list[Tensor] = []
    for t in part.weights():
        found.append(_buffer(f"{t.name}_integer", t.axes, t.dims))
        if t.name.endswith(".bias"):
            found.append(_buffer(t.name.removesuffix("bias") + "fc_scaling_factor", t.axes, t.dims))
    return tuple(found)


def _stem(k: Keys, D: int, P: int) -> Stem:
    """RoBERTa's; each table has its whole numbers and one scale."""
    given = stem(k, BASE, D, P=P, type_ids=False, after_padding=True)
    path = f"{BASE}.embeddings"
    buffers = [*given.buffers, *_range(f"{path}.embeddings_act1"), *_range(f"{path}.embeddings_act2")]
    for t in given.weights():
        if t.role in ("embedding", "position"):
            buffers += [
                _buffer(f"{t.name}_integer", t.axes),
                _buffer(f"{t.name}_scaling_factor", (("X", 1),)),
            ]
    return given.but(buffers=(*buffers, *_norm(f"{path}.LayerNorm"), *_range(f"{path}.output_activation")))


def _layer(k: Keys, D: int) -> Layer:
    """BERT's layer, and what would make it one of whole numbers."""
    token = attention(k, D, k.need("num_attention_heads"), causal=False)
    channel = feed_forward(k, D)
    ranges = ("query_activation", "key_activation", "value_activation", "output_activation", "softmax.act")
    first = (
        *_whole(token),
        *(t for name in ranges for t in _range(f"attention.self.{name}")),
        *_behind("attention.output"),
    )
    second = (
        *_whole(channel),
        *_range("intermediate.output_activation"),
        *_behind("output"),
        *_range("pre_intermediate_act"),
        *_range("pre_output_act"),
    )
    what = "I-BERT"
    return Layer(
        sublayers=(
            Sublayer(block=counted(what, token, *first), of_sum=layer_norm("attention.output.LayerNorm", D)),
            Sublayer(block=counted(what, channel, *second), of_sum=layer_norm("output.LayerNorm", D)),
        )
    )


def _behind(name: str) -> tuple[Tensor, ...]:
    """Around the norm of a sum."""
    return (*_range(f"{name}.ln_input_act"), *_norm(f"{name}.LayerNorm"), *_range(f"{name}.output_activation"))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/ibert/modeling_ibert.py",
)
