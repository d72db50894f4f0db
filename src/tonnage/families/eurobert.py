"""EuroBERT: Llama that sees all tokens, for masked language modelling (arXiv:2503.05500)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before
from tonnage.families._pieces import matrix
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``EuroBertForMaskedLM`` builds."""
    D = k.need("hidden_size")
    k.skip("classifier_pooling", "pad_token", "mask_token", "bos_token", "eos_token", "clf_pooling")
    bias = k.want("mlp_bias", False)
    token, mlp = attention(k, D, causal=False), gated(k, D, bias=bias)
    layer = normed_before(token, mlp, D)
    model = decoder(k, D, (layer,) * k.need("num_hidden_layers"), width=token.H, positions=8192)
    dense = matrix("dense", ("D", D), ("D", D), "head")
    assert model.head is not None
    # The switch of the feed-forward blocks turns on the head's bias too.
    return model.but(
        causal=False,
        head=model.head.but(bias=bias, raised=True),
        classifier=Head(name="classifier", D=D, V=1, bias=True, dense=dense),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/eurobert/"
    "modeling_eurobert.py",
)
