"""BLIP: BERT's layers over a text, which attend to an image too (arXiv:2201.12086)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._encoder import attention, encoder, feed_forward, predictions, stem
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.families.towers import seen
from tonnage.keys import Keys

TEXT: Final[dict[str, Any]] = {
    "vocab_size": 30524,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 512,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "is_decoder": True,
}


def read(k: Keys) -> Model:
    """Build ``BlipForConditionalGeneration``."""
    width, tensors = seen(k, "vision_model", "blip_vision_model", fixed=True)
    tied = k.want("tie_word_embeddings", True)
    k.skip("projection_dim", "logit_scale_init_value", "image_text_hidden_size", "label_smoothing")
    overruled = ("encoder_hidden_size", "model_type")
    model = read_inner(k, "text_config", TEXT, lambda inner: _text(inner, width, tied), less=overruled)
    return model.but(model_type="blip", extra=tensors)


def _text(k: Keys, sees: int, tied: bool) -> Model:
    D, N, V = k.need("hidden_size"), k.need("num_attention_heads"), k.need("vocab_size")
    P, base = k.need("max_position_embeddings"), "text_decoder.bert"
    # Either config ties the head.
    tied = k.want("tie_word_embeddings", True) or tied
    k.skip("projection_dim", "label_smoothing")
    what, side, name = "a model that reads images", ("D", D), "crossattention"
    own = Sublayer(
        block=counted(what, attention(k, D, N, causal=True)), of_sum=layer_norm("attention.output.LayerNorm", D)
    )
    over = Sublayer(
        block=counted(
            what,
            matrix(f"{name}.self.query", side, side, "attention"),
            matrix(f"{name}.self.key", ("X", sees), side, "attention"),
            matrix(f"{name}.self.value", ("X", sees), side, "attention"),
            matrix(f"{name}.output.dense", side, side, "attention"),
        ),
        of_sum=layer_norm(f"{name}.output.LayerNorm", D),
    )
    last = Sublayer(block=feed_forward(k, D), of_sum=layer_norm("output.LayerNorm", D))
    layer = Layer(sublayers=(own, over, last) if k.want("is_decoder", True) else (own, last))
    head = predictions(base, D, V, k.want("hidden_act", "gelu"), tied=tied)
    path = "text_decoder."
    return encoder(
        k,
        base,
        stem(k, base, D, P=P, types=None, type_ids=False),
        (layer,) * k.need("num_hidden_layers"),
        head.but(
            name=path + head.name,
            bias_alias_of=path + head.bias_alias_of if head.bias_alias_of else None,
            dense=None if head.dense is None else head.dense.but(name=path + head.dense.name),
            norm=None if head.norm is None else head.norm.but(name=path + head.norm.name),
            extra=tuple(t.placed(path) for t in head.extra),
        ),
        positions=P,
        causal=True,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/blip/modeling_blip_text.py",
)
