"""Persimmon and Fuyu: layer norms, of heads too, biases everywhere, half of every head turned; Fuyu adds patches."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.errors import UnsupportedError
from tonnage.families import Family
from tonnage.families._blocks import decoder, plain
from tonnage.families._decoder import rotary_width
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``PersimmonForCausalLM`` or ``FuyuForCausalLM`` builds.

    Fuyu's patches go through one matrix into the sequence. Its first configs have the text model's keys beside its own.
    """
    if k.config.get("model_type") != "fuyu":
        return _text(k, "model", k)
    text = k.inner("text_config")
    k.skip("image_size", "text_model_type")
    pixels = k.size("patch_size", 30) ** 2 * k.size("num_channels", 3)
    if text is None:
        model = _text(k, "model.language_model", k)
    else:
        kind = text.want("model_type", "persimmon")
        if kind != "persimmon":
            raise UnsupportedError(
                f"a text model of the type {kind!r} is not modelled", key="text_config.model_type", value=kind
            )
        model = _text(text, "model.language_model", k)
        text.skip("tie_word_embeddings")
        text.done()
        k.defaulted += text.defaulted
        k.ignored += text.ignored
    patches = Linear("model.vision_embed_tokens", (("X", pixels),), (("D", model.width),), "vision", True)
    return model.but(model_type="fuyu", extra=tuple(patches.weights()))


def _text(k: Keys, path: str, outer: Keys) -> Model:
    D, N, L = k.need("hidden_size"), k.need("num_attention_heads"), k.need("num_hidden_layers")
    H = k.divides("hidden_size", "num_attention_heads", D, N)
    turned = rotary_width(k, H, 0.5)
    head, width, normed = (("H", H),), (("D", D),), k.want("qk_layernorm", True)
    attention = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=N,
        H=H,
        fused="query_key_value",
        fused_order="select",
        o="dense",
        bias=True,
        o_bias=True,
        q_norm=Norm("self_attn.q_layernorm", head, "layer", bias=True) if normed else None,
        k_norm=Norm("self_attn.k_layernorm", head, "layer", bias=True) if normed else None,
        rotary_width=turned,
        rotary_style="cut",
        dropout=k.want("attention_dropout", 0.0),
    )
    mlp = plain(k, D, "relu2", up="dense_h_to_4h", down="dense_4h_to_h")
    first = Norm("input_layernorm", width, "layer", bias=True)
    second = Norm("post_attention_layernorm", width, "layer", bias=True)
    layer = Layer(
        sublayers=(
            Sublayer(block=attention, before=first),
            Sublayer(block=mlp, before=second, dropout=k.want("hidden_dropout", 0.0)),
        )
    )
    return decoder(
        k,
        D,
        (layer,) * L,
        width=turned,
        positions=16384,
        outer=outer,
        style="layer",
        norm="final_layernorm",
        path=path,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/persimmon/"
    "modeling_persimmon.py",
)
