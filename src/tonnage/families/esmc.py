"""ESM Cambrian, a language model of proteins: Llama that sees all tokens, with layer norms and norms of queries."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head
from tonnage.arch.model import Model
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before
from tonnage.families._encoder import classifier
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``EsmcForMaskedLM`` builds."""
    D, V = k.need("hidden_size"), k.need("vocab_size")
    token = attention(
        k,
        D,
        causal=False,
        q_norm=layer_norm("self_attn.q_norm", D, bias=False),
        k_norm=layer_norm("self_attn.k_norm", D, bias=False),
    )
    if token.K != token.N:
        raise ConfigError(
            f"num_key_value_heads = {token.K}: every one of its {token.N} heads has a key of its own",
            key="num_key_value_heads",
            value=token.K,
            file=k.file,
        )
    mlp = gated(k, D, bias=k.want("mlp_bias", False))
    layer = normed_before(counted("ESM C", token), mlp, D, style="layer")
    k.want("tie_word_embeddings", False)
    model = decoder(
        k, D, (layer,) * k.need("num_hidden_layers"), width=token.H, positions=2048, path="esmc", style="layer"
    )
    (stack,) = model.stacks
    return model.but(
        stacks=(stack.but(norm=layer_norm("esmc.norm", D, bias=False)),),
        head=Head(
            name="lm_head.decoder",
            D=D,
            V=V,
            bias=True,
            dense=matrix("lm_head.dense", ("D", D), ("D", D), "head"),
            norm=layer_norm("lm_head.layer_norm", D),
        ),
        causal=False,
        classifier=classifier(D),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/esmc/modeling_esmc.py",
)
