"""OLMo Hybrid: gated delta nets, and OLMo 2's attention in every fourth layer."""

from __future__ import annotations

from typing import Final

from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._blocks import decoder, gated
from tonnage.families._hybrid import FULL, LINEAR, gated_delta, layer_kinds
from tonnage.families._olmo import STYLE, olmo_attention
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``OlmoHybridForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    full, mlp = olmo_attention(k, D), gated(k, D)
    if not _turned(k):
        full = full.but(rotary=None)
    N = k.optional("linear_num_key_heads") or full.N
    H = k.optional("linear_key_head_dim") or int(0.75 * D / N)
    k.skip("linear_a_log_min", "linear_a_log_max", "linear_dt_min", "linear_dt_max", "linear_dt_init_floor")
    delta = gated_delta(_defaulted(k, full.N, N, H), D, "apart").but(doubled=k.want("linear_allow_neg_eigval", True))
    width = (("D", D),)

    def norm(name: str) -> Norm:
        return Norm(name, width, STYLE)

    layers = {
        FULL: Layer(
            sublayers=(
                Sublayer(block=full, after=norm("post_attention_layernorm")),
                Sublayer(block=mlp, after=norm("post_feedforward_layernorm")),
            ),
            kind="attention",
        ),
        LINEAR: Layer(
            sublayers=(
                Sublayer(block=delta, before=norm("input_layernorm")),
                Sublayer(block=mlp, before=norm("post_attention_layernorm")),
            ),
            untold=True,
            kind="delta net",
        ),
    }
    kinds = list(layer_kinds(k, L, lambda i: FULL if i % 4 == 3 else LINEAR))
    if FULL not in kinds and k.config.get("layer_types") is None:
        kinds[-1] = FULL
    if len(set(kinds)) < 2:
        raise ConfigError("layer_types must hold both kinds of layer", key="layer_types", value=kinds[0])
    rotary = (Rotary("model.rotary_emb", full.H, dtype="fp32", picked=True),) if _turned(k) else ()
    model = decoder(
        k, D, tuple(layers[kind] for kind in kinds), width=full.H, positions=65536, style=STYLE, rotary=rotary
    )
    # Layers are handed the positions whether or not they turn by them.
    return model.but(stacks=(model.decoder.but(stem=model.decoder.stem.but(position_ids="row")),))


def _turned(k: Keys) -> bool:
    """Whether queries and keys are: models for long contexts have a null for the frequencies."""
    found = k.config.get("rope_parameters")
    return not (isinstance(found, dict) and "rope_theta" in found and found["rope_theta"] is None)


def _defaulted(k: Keys, heads: int, N: int, H: int) -> Keys:
    """The config with what its null keys stand for."""
    filled = {
        "linear_num_key_heads": N,
        "linear_num_value_heads": k.optional("linear_num_value_heads") or heads,
        "linear_key_head_dim": H,
        "linear_value_head_dim": k.optional("linear_value_head_dim") or 2 * H,
        "linear_conv_kernel_dim": k.size("linear_conv_kernel_dim", 4),
        "hidden_act": k.want("hidden_act", "silu"),
    }
    return Keys(filled, file=k.file)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/olmo_hybrid/modeling_olmo_hybrid.py",
)
