"""T5Gemma: an encoder and a decoder of Gemma 2's layers, each with its own sizes (arXiv:2504.06225)."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Block, Layer, Model, Stack, Sublayer
from tonnage.errors import UnsupportedError
from tonnage.families import Family
from tonnage.families._composite import filled
from tonnage.families._decoder import heads, window_of, windows
from tonnage.keys import Keys

SIZES: Final[dict[str, Any]] = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "vocab_size": 256000,
}
"""Defaults of ``T5GemmaModuleConfig``."""


def read(k: Keys) -> Model:
    """Build the model that ``T5GemmaForConditionalGeneration`` builds."""
    if k.config.get("is_encoder_decoder") is False:
        raise UnsupportedError(
            "an encoder alone is not modelled in this family", key="is_encoder_decoder", value=False, file=k.file
        )
    k.skip("vocab_size", "classifier_dropout_rate")
    dropouts = k.want("dropout_rate", 0.0), k.want("attention_dropout", 0.0)
    encoder = filled(k, "encoder", SIZES, lambda inner: _stack(inner, "encoder", dropouts, None)[0])
    D = encoder.stem.D
    decoder, capped, P = filled(k, "decoder", SIZES, lambda inner: _stack(inner, "decoder", dropouts, D))
    alias = f"{decoder.stem.name}.weight" if k.want("tie_word_embeddings", True) else None
    D, V = decoder.stem.D, decoder.stem.V
    return Model(
        model_type="t5gemma",
        stacks=(encoder, decoder),
        head=Head(name="lm_head.out_proj", D=D, V=V, alias_of=alias, capped=capped),
        positions=P,
        eager_only=True,
        causal=False,
        classifier=Head(name="score.out_proj", D=D, V=1, bias=True),
    )


def _stack(k: Keys, name: str, dropouts: tuple[float, float], seen: int | None) -> tuple[Stack, bool, int]:
    """One of the two, whether its logits are capped, its positions; ``seen``: the encoder's width, for a decoder."""
    D, path, dropout = k.need("hidden_size"), f"model.{name}", dropouts[0]
    k.skip("dropout_rate", "attention_dropout", "query_pre_attn_scalar", "tie_word_embeddings", "hidden_act")
    window, H = window_of(k, 4096), k.size("head_dim", 256)
    mlp = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=k.want("hidden_activation", "gelu_pytorch_tanh"))
    mlp = mlp.but(inner_dropout=dropout)
    own = _attention(k, D, H, dropouts[1])

    def sub(block: Block, what: str) -> Sublayer:
        before, after = (Norm(f"{side}_{what}_layernorm", (("D", D),), "rms-gemma") for side in ("pre", "post"))
        return Sublayer(block=block, before=before, after=after, dropout=dropout)

    @cache
    def layer(tokens: int | None) -> Layer:
        subs = [sub(own.but(window=tokens, causal=seen is not None), "self_attn")]
        if seen is not None:
            subs.append(sub(own.but(name="cross_attn", cross=True, causal=False, rotary=None, seen=seen), "cross_attn"))
        return Layer(
            sublayers=(*subs, sub(mlp, "feedforward")), kind="full layer" if tokens is None else "sliding layer"
        )

    stem = Stem(
        name=f"{path}.embed_tokens",
        V=k.need("vocab_size"),
        D=D,
        rotary=(Rotary(f"{path}.rotary_emb", H),),
        scaled=True,
        dropout=dropout,
    )
    layers = tuple(map(layer, windows(k, k.need("num_hidden_layers"), window, lambda i: i % 2 == 0)))
    norm = Norm(f"{path}.norm", (("D", D),), "rms-gemma")
    capped = k.optional("final_logit_softcapping", float, 30.0) is not None
    stack = Stack(name=name, path=f"{path}.layers", stem=stem, layers=layers, norm=norm)
    return stack, capped, k.size("max_position_embeddings", 8192)


def _attention(k: Keys, D: int, H: int, dropout: float) -> GroupedQuery:
    """Gemma 2's attention."""
    N, K = heads(k, 4)
    bias = k.want("attention_bias", False)
    softcap = k.optional("attn_logit_softcapping", float, 50.0) is not None
    return GroupedQuery(name="self_attn", D=D, N=N, K=K, H=H, bias=bias, o_bias=bias, softcap=softcap, dropout=dropout)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/t5gemma/modeling_t5gemma.py",
)
