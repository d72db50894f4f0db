"""IDEFICS: Llama with gated layers between that attend to images, as Flamingo (arXiv:2306.16527, 2204.14198)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.ends import Head, Stem
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.arch.parts import Part
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._blocks import attention, gated
from tonnage.families._composite import read_inner
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.families._towers import repeated, tower
from tonnage.families.towers import seen
from tonnage.keys import Keys
from tonnage.tensors import Axes, Tensor

PERCEIVER: Final[dict[str, Any]] = {
    "resampler_n_latents": 64,
    "resampler_depth": 6,
    "resampler_n_heads": 16,
    "resampler_head_dim": 96,
}
WHAT: Final = "a model that reads images"


def read(k: Keys) -> Model:
    """Build ``IdeficsForVisionText2Text``."""
    D, V, L = k.need("hidden_size"), k.need("vocab_size"), k.need("num_hidden_layers")
    more, interval = k.want("additional_vocab_size", 0), k.size("cross_layer_interval", 1)
    tied = k.want("tie_word_embeddings", False)
    sees, tensors = seen(k, "model.vision_model", "idefics_vision", fixed=True)
    normed = k.want("qk_layer_norms", False)
    token = attention(k, D, bias=False)
    N, H = token.N, token.H
    k.skip("dropout", "alpha_initializer", "alphas_initializer_range", "freeze_text_layers", "freeze_lm_head")
    k.skip("freeze_text_module_exceptions", "freeze_vision_layers", "freeze_vision_module_exceptions")
    # Only layers between have norms of query and key heads.
    own = Layer(sublayers=_subs(k, D, counted(WHAT, token, Rotary("self_attn.rotary_emb", H))))
    between: list[Part | Tensor] = [
        *_cross(D, sees, N * H),
        Rotary("cross_attn.rotary_emb", H),
        *(Norm(f"cross_attn.{x}_layer_norm", (("H", H),)) for x in "qk" if normed),
        *(Tensor(f"alpha_{name}", _gate(k, D), "vision") for name in ("cross_attn", "dense")),
        Norm("input_layernorm", (("D", D),)),
        Norm("post_attention_layernorm", (("D", D),)),
        gated(k, D),
    ]
    tensors += repeated("vision", "model.gated_cross_attn_layers", L // interval, *between)
    if k.want("use_resampler", False):
        tensors += read_inner(
            k, "perceiver_config", PERCEIVER, lambda inner: _resampler(inner, sees), less=("model_type",)
        )
    k.skip("perceiver_config")
    table = "model.embed_tokens"
    further: tuple[Tensor, ...] = ()
    if more:
        row = (("V", more), ("D", D))
        tensors += (Tensor(f"{table}.additional_embedding.weight", row, "embedding"),)
        alias = f"{table}.additional_embedding.weight" if tied else None
        further = (Tensor("lm_head.additional_fc.weight", row, "head", alias_of=alias),)
    stack = Stack(
        name="decoder",
        path="model.layers",
        stem=Stem(name=table, V=V, D=D),
        layers=(own,) * L,
        norm=Norm("model.norm", (("D", D),)),
    )
    return Model(
        model_type="idefics",
        stacks=(stack,),
        head=Head(name="lm_head", D=D, V=V, alias_of=f"{table}.weight" if tied else None, extra=further),
        positions=k.size("max_position_embeddings", 2048),
        extra=tensors,
    )


def _subs(k: Keys, D: int, block: Any) -> tuple[Sublayer, Sublayer]:
    first, second = (Norm(name, (("D", D),)) for name in ("input_layernorm", "post_attention_layernorm"))
    return Sublayer(block=block, before=first), Sublayer(block=gated(k, D), before=second)


def _cross(D: int, sees: int, heads: int) -> tuple[Part, ...]:
    ins, width, inner = ("X", sees), ("D", D), ("X", heads)
    return (
        matrix("cross_attn.q_proj", width, inner, "vision", bias=False),
        matrix("cross_attn.k_proj", ins, inner, "vision", bias=False),
        matrix("cross_attn.v_proj", ins, inner, "vision", bias=False),
        matrix("cross_attn.o_proj", inner, width, "vision", bias=False),
    )


def _gate(k: Keys, D: int) -> Axes:
    kind = k.want("alpha_type", "float")
    if kind not in ("float", "vector"):
        raise ConfigError(
            f"alpha_type = {kind!r} is neither float nor vector", key="alpha_type", value=kind, file=k.file
        )
    return (("X", 1),) if kind == "float" else (("B", 1), ("T", 1), ("D", D))


def _resampler(k: Keys, D: int) -> tuple[Tensor, ...]:
    """Latents that attend to a tower of width ``D``."""
    N, H, normed = k.need("resampler_n_heads"), k.need("resampler_head_dim"), k.want("qk_layer_norms_perceiver", False)
    path, width, inner = "model.perceiver_resampler", ("D", D), ("X", N * H)
    k.skip("use_resampler")
    first = tower(
        "vision",
        path,
        Tensor("latents", (("P", k.need("resampler_n_latents")), width), "vision"),
        layer_norm("layer_norm", D),
    )
    block: tuple[Part, ...] = (
        layer_norm("0.context_layer_norm", D),
        layer_norm("0.latents_layer_norm", D),
        *(layer_norm(f"0.{x}_layer_norm", H) for x in "qk" if normed),
        *(matrix(f"0.{x}_proj", width, inner, "vision", bias=False) for x in "qkv"),
        matrix("0.output_proj", inner, width, "vision", bias=False),
        layer_norm("1.ln", D),
        matrix("1.fc", width, ("F", 4 * D), "vision", bias=False),
        matrix("1.c_proj", ("F", 4 * D), width, "vision", bias=False),
    )
    return first + repeated("vision", f"{path}.blocks", k.need("resampler_depth"), *block)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/idefics/"
    "modeling_idefics.py",
)
