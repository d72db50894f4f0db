"""Cosmos 3 Edge: plain feed-forward blocks in Llama's layers behind SigLIP 2's tower."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.arch.untraced import Untraced
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, normed_before, plain
from tonnage.families._composite import read_inner
from tonnage.families._language import headed
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import tower
from tonnage.families.towers import seen
from tonnage.keys import Keys

TEXT: Final[dict[str, Any]] = {
    "vocab_size": 131072,
    "hidden_size": 2048,
    "intermediate_size": 9216,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
}
PATH: Final = "model.language_model"


def read(k: Keys) -> Model:
    """Build ``Cosmos3EdgeForConditionalGeneration``, whose head is never tied."""
    model = read_inner(k, "text_config", TEXT, _text, less=("model_type", "tie_word_embeddings"))
    images = k.inner("vision_config")
    merge = 2 if images is None else images.size("spatial_merge_size", 2)
    width, tensors = seen(k, "model.visual", "cosmos3_edge_vision", fixed=True)
    inner = k.size("projector_hidden_size", 11520)
    tensors += tower(
        "vision",
        "model.projector",
        layer_norm("norm", width),
        matrix("linear_fc1", ("X", width * merge**2), ("F", inner), "vision"),
        matrix("linear_fc2", ("F", inner), ("D", model.width), "vision"),
    )
    k.skip("tie_word_embeddings")
    return headed(model, False, extra=tensors).but(model_type="cosmos3_edge")


def _text(k: Keys) -> Model:
    D = k.need("hidden_size")
    token, bias = attention(k, D, K=8, H=128), k.want("mlp_bias", False)
    mlp = plain(k, D, "relu2", up="fc1", down="fc2", bias=bias)
    layer = normed_before(Untraced(block=token, what="attention with positions in three dimensions"), mlp, D)
    layers = (layer,) * k.need("num_hidden_layers")
    return decoder(k, D, layers, width=token.H, positions=131072, path=PATH).but(head=None)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/cosmos3_edge/"
    "modeling_cosmos3_edge.py",
)
