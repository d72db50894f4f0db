"""Muse Glimmer and Spark: gated attention, a full layer in every fourth; dense, or experts of a narrower stream."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.model import Block, Layer, Model, Sublayer
from tonnage.arch.parts import Loose, Parts, Routed
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._decoder import causal, chosen, heads, window_of, windows
from tonnage.families._experts import words
from tonnage.families._language import headed
from tonnage.families._pieces import matrix
from tonnage.families._towers import convolution, feed_forward, tower
from tonnage.families.towers import seen
from tonnage.keys import Keys
from tonnage.tensors import Tensor

GLIMMER: Final[dict[str, Any]] = {
    "vocab_size": 202048,
    "hidden_size": 6656,
    "intermediate_size": 19968,
    "num_hidden_layers": 52,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
}
SPARK: Final[dict[str, Any]] = {
    "vocab_size": 202048,
    "hidden_size": 8192,
    "intermediate_size": 16384,
    "num_hidden_layers": 62,
    "num_attention_heads": 128,
    "num_key_value_heads": 16,
    "head_dim": 64,
}
AUDIO: Final[dict[str, Any]] = {
    "patch_sizes": [16, 6, 5, 4],
    "hidden_sizes": [256, 512, 1024, 2048],
    "depths": [2, 2, 2, 2],
}
WIDE: Final = ("post_attention_residual_gate", "post_feedforward_residual_gate", "mlp.gate.weight")
"""Stay in fp32 beside the buffers that correct the routers."""

PATH: Final = "model.language_model"
SOUND: Final = "model.audio_tower"


def read(k: Keys) -> Model:
    """Build ``MuseGlimmerForConditionalGeneration`` or ``MuseSparkForConditionalGeneration``."""
    kind = str(k.config["model_type"])
    spark = kind == "muse_spark"
    model = read_inner(
        k, "text_config", SPARK if spark else GLIMMER, lambda inner: _text(inner, spark), less=("model_type",)
    )
    _, tensors = seen(k, "model.vision_tower", f"{kind}_vision", fixed=True)
    ins, wide, D = k.size("out_hidden_size", 6144), k.size("projector_hidden_size", 4096), model.width
    k.skip("projector_hidden_act")
    tensors += tower(
        "vision",
        "model",
        matrix("vision_adapter.fc1", ("X", ins), ("F", wide), "vision", bias=False),
        matrix("vision_adapter.fc2", ("F", wide), ("F", wide), "vision", bias=False),
        matrix("vision_projection", ("F", wide), ("D", D), "vision", bias=False),
    )
    if spark:
        tensors += read_inner(k, "audio_config", AUDIO, _audio, less=("model_type",))
    tied = k.want("tie_word_embeddings", False)
    return headed(model, tied, extra=tensors).but(model_type=kind, fp32=WIDE if spark else ())


def _text(k: Keys, spark: bool) -> Model:
    D, L, H = k.need("hidden_size"), k.need("num_hidden_layers"), k.need("head_dim")
    k.skip("tie_word_embeddings", "qk_scale_factor", "output_multiplier", "post_norm_eps", "layer_rope_theta")
    k.skip("final_logit_softcapping", "residual_gate_temperature", "routed_scaling_factor")
    (N, K), bias, window = heads(k), k.want("attention_bias", False), window_of(k, 2048)
    seen_ = windows(k, L, window, lambda i: (L - 1 - i) % 4 != 0)
    own = GroupedQuery(
        name="self_attn", D=D, N=N, K=K, H=H, bias=bias, o_bias=bias, dropout=k.want("attention_dropout", 0.0)
    )
    gate = Linear("self_attn.gate_proj", (("D", D),), (("N", N), ("H", H)), "attention")
    act = k.want("hidden_act" if spark else "hidden_activation", "silu")
    dense = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act)
    layer = _spark(k, D, own, gate, dense) if spark else _glimmer(D, own, gate, dense)
    kinds = words(k, "mlp_layer_types", L, ("dense", "sparse")) if spark else None
    routes = [spark] * L if kinds is None else [kind == "sparse" for kind in kinds]
    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=tuple(map(layer, seen_, routes)),
        norm=Norm(f"{PATH}.norm", (("D", D),)),
        rotary=(Rotary(f"{PATH}.rotary_emb", H),),
        tied=False,
        positions=k.size("max_position_embeddings", 1048576 if spark else 131072),
        path=PATH,
    ).but(head=None)


Build = Callable[[int | None, bool], Layer]


def _norm(name: str, D: int) -> Norm:
    return Norm(f"{name}_layernorm", (("D", D),))


def _token(own: GroupedQuery, gate: Linear, window: int | None) -> Parts:
    return Parts(what="Muse's attention", parts=(own.but(window=window), gate))


def _glimmer(D: int, own: GroupedQuery, gate: Linear, dense: Gated) -> Build:
    @cache
    def layer(window: int | None, routed: bool) -> Layer:
        token, first = _token(own, gate, window), Norm("input_layernorm", (("D", D),))
        return Layer(
            sublayers=(
                Sublayer(block=token, before=first, after=_norm("post_attention", D)),
                Sublayer(block=dense, before=_norm("pre_feedforward", D), after=_norm("post_feedforward", D)),
            ),
            kind="full layer" if window is None else "sliding layer",
        )

    return layer


def _spark(k: Keys, D: int, own: GroupedQuery, gate: Linear, dense: Gated) -> Build:
    E, inner, F = (
        k.size("num_local_experts", 256),
        k.size("moe_hidden_size", 4096),
        k.size("moe_intermediate_size", 4096),
    )
    experts = Routed(
        E=E,
        used=chosen(k, E, 8),
        tensors=(
            Tensor("mlp.experts.gate_up_proj", (("E", E), ("X", 2), ("F", F), ("X", inner)), "expert", (1, 2, 1)),
            Tensor("mlp.experts.down_proj", (("E", E), ("X", inner), ("F", F)), "expert"),
        ),
    )
    router = Loose(
        (
            Tensor("mlp.gate.weight", (("E", E), ("D", D)), "router"),
            Tensor("mlp.gate.e_score_correction_bias", (("E", E),), "buffer", dtype="fp32"),
        )
    )
    narrow = (("X", inner),)
    routed_block = Parts(
        what="Muse Spark's experts",
        parts=(
            Linear("mlp.pre_expert_proj", (("D", D),), narrow, "feed_forward"),
            Norm("mlp.pre_expert_norm", narrow),
            router,
            experts,
            Norm("mlp.experts.post_expert_norm", narrow),
            Linear("mlp.post_expert_proj", narrow, (("D", D),), "feed_forward"),
        ),
    )

    def gated(block: Block, what: str) -> Parts:
        """A block with the gate of what it adds to the stream."""
        name = f"post_{what}_residual_gate.gate"
        parts = block.parts if isinstance(block, Parts) else (block,)
        return Parts(what="Muse Spark", parts=(*parts, Loose((Tensor(name, (("D", D),), "feed_forward"),))))

    @cache
    def layer(window: int | None, routed: bool) -> Layer:
        channel: Block = routed_block if routed else dense
        kind = ("full" if window is None else "sliding") + (" layer with experts" if routed else " layer")
        return Layer(
            sublayers=(
                Sublayer(
                    block=gated(_token(own, gate, window), "attention"), before=Norm("input_layernorm", (("D", D),))
                ),
                Sublayer(
                    block=gated(channel, "feedforward"),
                    before=_norm("pre_feedforward", D),
                    after=_norm("post_feedforward", D),
                ),
            ),
            kind=kind,
        )

    return layer


def _audio(k: Keys) -> tuple[Tensor, ...]:
    """A pyramid of convolutions over the waveform."""
    lists = {name: k.need(name, list) for name in AUDIO}
    levels, times, kernel = k.size("num_hidden_layers", 4), k.want("mlp_ratio", 4.0), k.size("conv_kernel_size", 7)
    k.skip("hidden_act")
    for name, values in lists.items():
        if len(values) != levels:
            raise ConfigError(f"{k.path}{name} has {len(values)} entries for {levels} layers", key=k.path + name)
    found: tuple[Tensor, ...] = ()
    ins = 1
    for level, (patch, C, depth) in enumerate(zip(*lists.values(), strict=True)):
        path = f"{SOUND}.layers.{level}"
        embedded = matrix("patch_embedder.proj", ("X", ins * patch), ("D", C), "audio")
        found += tower("audio", path, embedded, Norm("patch_embedder.norm", (("D", C),)))
        for index in range(depth):
            found += tower(
                "audio",
                f"{path}.conv_blocks.{index}",
                *convolution("conv", 1, C, kernel),
                Norm("norm", (("D", C),)),
                *feed_forward("mlp", C, int(C * times)),
            )
        ins = C
    outs = k.size("out_hidden_size", 8192)
    return found + tower(
        "audio",
        SOUND,
        Norm("norm", (("D", ins),)),
        matrix("proj", ("X", ins), ("D", outs), "audio"),
        Norm("post_proj_norm", (("D", outs),)),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/muse_glimmer/"
    "modeling_muse_glimmer.py",
)
