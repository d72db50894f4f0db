"""Canary and Cohere's recogniser of speech: Parakeet's encoder, and a decoder that reads it."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.ends import Head, Stem, Table
from tonnage.arch.feedforward import Plain
from tonnage.arch.model import Model, Stack
from tonnage.families import Family
from tonnage.families._blocks import attention
from tonnage.families._composite import filled
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._speech import PATH, reader
from tonnage.families.towers import seen
from tonnage.keys import Keys
from tonnage.tensors import Tensor

DECODER: Final[dict[str, Any]] = {
    "vocab_size": 16384,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
"""Defaults of ``CanaryDecoderConfig``."""
CANARY: Final[dict[str, Any]] = {"num_hidden_layers": 32, "num_mel_bins": 128}
COHERE: Final[dict[str, Any]] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 48,
    "num_attention_heads": 8,
    "num_mel_bins": 128,
}
"""What the two fill into the encoder's config, Cohere's also where there is one."""


def read(k: Keys) -> Model:
    """Build the model that ``CanaryForConditionalGeneration`` or ``CohereAsrForConditionalGeneration`` builds."""
    cohere = k.config["model_type"] == "cohere_asr"
    wide, tensors = seen(
        k,
        "model.encoder",
        "parakeet_encoder",
        key="encoder_config",
        given=COHERE if cohere else CANARY,
        always=COHERE if cohere else None,
    )
    if cohere:
        decoder, P = _decoder(k, learned=True)
        D = decoder.stem.D
        tensors += tuple(matrix(f"{PATH}.proj", ("X", wide), ("D", D), "attention").weights())
    else:
        k.skip("vocab_size")
        decoder, P = filled(k, "decoder_config", DECODER, lambda inner: _decoder(inner, learned=False))
    D, V = decoder.stem.D, decoder.stem.V
    alias = f"{decoder.stem.name}.weight" if k.want("tie_word_embeddings", not cohere) else None
    # The encoder's layers stand among the tensors beside the stacks.
    encoder = Stack(name="encoder", path="model.encoder.layers", stem=Stem(name="", V=V, D=wide), layers=())
    return Model(
        model_type=str(k.config["model_type"]),
        stacks=(encoder, decoder),
        head=Head(name="proj_out", D=D, V=V, bias=True, alias_of=alias),
        positions=P,
        table=True,
        causal=False,
        extra=tensors,
    )


def _decoder(k: Keys, *, learned: bool) -> tuple[Stack, int]:
    """The decoder, with positions that are learned or fixed. It expects states of its own width."""
    D, V, P = k.need("hidden_size"), k.need("vocab_size"), k.size("max_position_embeddings", 1024)
    own = attention(k, D, biased=True, rotary=None)
    mlp = Plain(name="mlp", D=D, F=k.need("intermediate_size"), act=k.want("hidden_act", "relu"))
    fixed = Tensor(f"{PATH}.pos_emb.positional_embedding", (("P", P), ("D", D)), "buffer", dtype="fp32")
    stem = Stem(
        name=f"{PATH}.embed_tokens",
        V=V,
        D=D,
        tables=(Table(name=f"{PATH}.pos_emb", rows=P, width=D),) if learned else (),
        buffers=() if learned else (fixed,),
        norm=layer_norm(f"{PATH}.embedding_layernorm", D),
    )
    return reader(k, own, mlp, k.need("num_hidden_layers"), bias=True, stem=stem), P


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/canary/modeling_canary.py",
)
