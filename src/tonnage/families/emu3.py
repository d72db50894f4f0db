"""Emu3: Llama over the tokens of text and of images (arXiv:2409.18869)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.layers import Norm
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.errors import UnsupportedError
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated
from tonnage.families._composite import filled
from tonnage.families._pieces import counted
from tonnage.keys import Keys

TEXT: Final[dict[str, Any]] = {
    "vocab_size": 184622,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}


def read(k: Keys) -> Model:
    """Build the model that ``Emu3ForCausalLM`` builds: the language model alone."""
    if k.config["model_type"] == "emu3_text_model":
        return _text(k)
    k.skip("vq_config", "vocabulary_map", "tie_word_embeddings")
    return filled(k, "text_config", TEXT, _text).but(model_type="emu3")


def _text(k: Keys) -> Model:
    D = k.need("hidden_size")
    bias = k.want("mlp_bias", False)
    token = attention(k, D, K=8, dropout=k.want("attention_dropout", 0.1))
    norm = (("D", D),)
    layer = Layer(
        sublayers=(
            # The layer's own dropout stands behind each block.
            Sublayer(block=counted("Emu3", token), before=Norm("input_layernorm", norm)),
            Sublayer(block=gated(k, D, bias=bias), before=Norm("post_attention_layernorm", norm)),
        )
    )
    return decoder(k, D, (layer,) * k.need("num_hidden_layers"), width=token.H, positions=9216)


def refused(k: Keys) -> Model:
    """The class with the tokenizer of images."""
    raise UnsupportedError(
        "Emu3ForConditionalGeneration's tokenizer of images is not modelled yet",
        key="architectures",
        hint="--head causal counts the language model",
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/emu3/modeling_emu3.py",
    classes={"seq2seq": refused},
)
