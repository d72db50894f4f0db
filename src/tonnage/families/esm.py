"""ESM-1b and ESM-2, language models of proteins: pre-norm layers, learned or rotary positions."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head
from tonnage.arch.layers import Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._encoder import attention, classifier, encoder, feed_forward, only_encoder, places, pooler, stem
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``EsmForMaskedLM`` builds, with its head for contacts."""
    D, N, L = k.need("hidden_size"), k.need("num_attention_heads"), k.need("num_hidden_layers")
    V, P = k.need("vocab_size"), k.size("max_position_embeddings", 1026)
    only_encoder(k)
    k.refuse("is_folding_model")
    k.skip("esmfold_config", "vocab_list", "token_dropout", "hidden_act")
    kind = k.want("position_embedding_type", "absolute")
    if kind not in ("absolute", "rotary"):
        raise ConfigError(
            f"position_embedding_type = {kind!r} is neither absolute nor rotary",
            key="position_embedding_type",
            value=kind,
        )
    H = k.divides("hidden_size", "num_attention_heads", D, N)
    rotary = (Rotary("esm.rotary_embeddings", H, buffers=("inv_freq",)),) if kind == "rotary" else ()
    layer = Layer(
        sublayers=(
            Sublayer(block=counted("ESM", attention(k, D, N)), before=layer_norm("attention.LayerNorm", D)),
            Sublayer(block=feed_forward(k, D), before=layer_norm("LayerNorm", D)),
        )
    )
    given = stem(k, "esm", D, P=P, types=None, type_ids=False, norm=False, after_padding=True)
    given = given.but(
        tables=given.tables if kind == "absolute" else (),
        rotary=rotary,
        norm=layer_norm("esm.embeddings.layer_norm", D) if k.optional("emb_layer_norm_before", bool) else None,
    )
    tied = k.want("tie_word_embeddings", True)
    head = Head(
        name="lm_head.decoder",
        D=D,
        V=V,
        alias_of="esm.embeddings.word_embeddings.weight" if tied else None,
        dense=matrix("lm_head.dense", ("D", D), ("D", D), "head"),
        norm=layer_norm("lm_head.layer_norm", D),
        extra=(Tensor("lm_head.bias", (("V", V),), "head"),),
    )
    return encoder(
        k,
        "esm",
        given,
        (layer,) * L,
        head,
        positions=places(k, P),
        table=kind == "absolute",
        norm=layer_norm("esm.encoder.emb_layer_norm_after", D),
        pooler=pooler("esm", D),
        classifier=classifier(D),
        extra=tuple(matrix("esm.contact_head.regression", ("X", L * N), ("V", 1), "head").weights()),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/esm/modeling_esm.py",
)
