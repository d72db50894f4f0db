"""dots3-note: the language model of dots3-note alone, or with towers for pictures and sound."""

from __future__ import annotations

from typing import Final

from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm
from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._composite import filled, nested, read_inner
from tonnage.families._experts import even, words
from tonnage.families._hybrid import whole_numbers
from tonnage.families._language import headed, language
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import convolution, repeated, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

TEXT: Final = "dots3_note_text"
VISION: Final = {"hidden_size": "embed_dim", "num_attention_heads": "num_heads", "attention_bias": "use_bias"}
"""Names of released configs."""
WHISPER: Final = {
    "hidden_size": "d_model",
    "num_attention_heads": "encoder_attention_heads",
    "num_hidden_layers": "encoder_layers",
    "intermediate_size": "encoder_ffn_dim",
    "feature_size": "num_mel_bins",
}
"""The same of the sizes in ``whisper_config``, which win."""
PYRAMID: Final = (*(-1,) * 25, *range(4, 65, 4), 64)
"""Experts of each layer of the vision tower where nothing tells them; a layer without has one feed-forward."""


def read(k: Keys) -> Model:
    """Build the model that ``Dots3NoteForCausalLM`` builds, of a config that has the text's keys inside or around."""
    # Its head follows the text's own switch, that of the class with towers the one around it.
    k.skip("vision_config", "audio_config", "tie_word_embeddings")
    text = language(k, "model", TEXT, flat=True)
    return headed(text.model, text.tied).but(model_type="dots3_note")


def read_whole(k: Keys) -> Model:
    """Build ``Dots3NoteForConditionalGeneration``, its towers included."""
    text = language(k, "model.language_model", TEXT, flat=True)
    D = text.model.width
    images = read_inner(k, "vision_config", {}, lambda inner: _vision(inner, D), aliases=VISION)
    sound = filled(k, "audio_config", {}, lambda inner: _audio(inner, D))
    tied = k.want("tie_word_embeddings", False)
    return headed(text.model, tied, extra=(*images, *sound)).but(model_type="dots3_note")


def _vision(k: Keys, text: int) -> tuple[Tensor, ...]:
    """Layers over patches, the later ones with experts, and matrices that join neighbours."""
    D, N, merged = k.size("hidden_size", 1536), k.size("num_attention_heads", 24), k.size("spatial_merge_size", 2) ** 2
    L, F, patch = k.size("num_hidden_layers", 42), k.size("intermediate_size", 4224), k.size("patch_size", 14)
    inner, path = k.size("moe_intermediate_size", 2112), "model.vision_tower"
    bias, mlp_bias = k.want("attention_bias", False), k.want("mlp_bias", False)
    H = k.divides("hidden_size", "num_attention_heads", D, N)
    _same(k, "adapter_out_dim", 5120, text)
    _same(k, "adapter_in_dim", 1536, D)
    k.skip("adapter_merge_size", "num_experts_per_tok", "capacity_factor", "router_scaling_factor", "router_scale")
    k.skip("hidden_act", "attention_dropout", "is_causal")
    norm: tuple[Part, ...] = (Norm("norm1", (("D", D),)), Norm("norm2", (("D", D),)))
    attention: tuple[Part, ...] = (
        matrix("attn.qkv", ("D", D), ("D", 3 * D), "vision", bias=bias),
        matrix("attn.proj", ("D", D), ("D", D), "vision", bias=bias),
        Norm("attn.q_norm", (("H", H),)),
        Norm("attn.k_norm", (("H", H),)),
    )
    dense = Gated(name="mlp", D=D, F=F, bias=mlp_bias)
    found: list[Tensor] = [
        *tower(
            "vision",
            f"{path}.patch_embed",
            *convolution("proj", k.size("num_channels", 3), D, patch, patch),
            Norm("norm", (("D", D),)),
        ),
        *tower("vision", f"{path}.rotary_pos_emb", *_angles(even(H // 2) // 2)),
    ]
    for index, E in enumerate(_experts(k, L)):
        channel: tuple[Part | Tensor, ...] = (
            (dense,)
            if E is None
            else (
                Tensor("mlp.experts.gate_up_proj", (("E", E), ("X", 2), ("F", inner), ("D", D)), "vision", (1, 2, 1)),
                Tensor("mlp.experts.down_proj", (("E", E), ("D", D), ("F", inner)), "vision"),
                Tensor("mlp.gate.weight", (("Er", E), ("D", D)), "vision"),
                Tensor("mlp.e_score_correction_bias", (("Er", E),), "buffer", dtype="fp32"),
            )
        )
        found += tower("vision", f"{path}.blocks.{index}", *norm, *attention, *channel)
    joined = ("X", merged * D)
    merger = (layer_norm("ln_q", D), matrix("mlp.0", joined, joined, "vision"))
    found += tower("vision", f"{path}.merger", *merger, matrix("mlp.2", joined, ("D", text), "vision"))
    return (*found, *tower("vision", path, Norm("norm", (("D", D),))))


def _experts(k: Keys, layers: int) -> list[int | None]:
    """How many experts every layer has."""
    kinds = words(k, "mlp_layer_types", layers, ("dense", "sparse"))
    E, listed = k.size("num_local_experts", 64), whole_numbers(k, "pyramid_num_routed")
    if listed is None and kinds is None:
        listed = list(PYRAMID)
    if listed is not None:
        if len(listed) < layers:
            key = f"{k.path}pyramid_num_routed"
            raise ConfigError(f"{key} has {len(listed)} entries for {layers} layers", key=key, value=len(listed))
        kinds = ["sparse" if n > 0 else "dense" for n in listed[:layers]]
    own = {i: n for i, n in enumerate(listed or ()) if n > 0}
    if k.config.get("per_layer_config") is not None:
        own = nested(k, "per_layer_config", lambda inner: _own(inner, E)) or {}
    assert kinds is not None
    return [own.get(i, E) if kind == "sparse" else None for i, kind in enumerate(kinds)]


def _own(k: Keys, E: int) -> dict[int, int]:
    found: dict[int, int] = {}
    for key in k.config:
        if not str(key).isdigit():
            raise ConfigError(f"{k.path}{key} is no number of a layer", key=f"{k.path}{key}", value=key)
        found[int(key)] = nested(k, key, lambda one: _one(one, E)) or E
    return found


def _one(k: Keys, E: int) -> int:
    k.skip("num_experts_per_tok")
    return k.size("num_local_experts", E)


def _audio(k: Keys, text: int) -> tuple[Tensor, ...]:
    """Three convolutions that halve time and frequency, layers that turn half of every head, and an adapter."""
    whisper = k.inner("whisper_config")

    def size(key: str, default: int) -> int:
        legacy = WHISPER[key]
        stated = k.size(key, default)
        return stated if whisper is None or legacy not in whisper.config else whisper.need(legacy)

    D, F, N = size("hidden_size", 1280), size("intermediate_size", 5120), size("num_attention_heads", 20)
    H, path, down = k.divides("hidden_size", "num_attention_heads", D, N), "model.audio_tower", "conv_stem"
    C, rows = k.size("downsample_hidden_size", 480), (size("feature_size", 128) + 7) // 8
    bias, turned = k.want("attention_bias", True), H * k.want("partial_rotary_factor", 0.5)
    rope = k.inner("rope_parameters")
    if rope is not None:
        turned = H * rope.want("partial_rotary_factor", 0.5)
    _same(k, "adapter_input_size", 1280, D)
    _same(k, "adapter_out_dim", 5120, text)
    k.skip("hidden_act", "max_position_embeddings", "attention_dropout", "dropout", "sampling_rate", "hop_length")
    k.skip("head_dim", "num_key_value_heads", "conv_output_size", "samples_per_token", "whisper_adapter_in_dim")
    sides = ("D", D)
    layer: tuple[Part, ...] = (
        *(matrix(f"self_attn.{x}_proj", sides, sides, "audio", bias=bias and x != "k") for x in "qkvo"),
        Norm("input_layernorm", (sides,)),
        matrix("mlp.gate_up_proj", sides, ("F", 2 * F), "audio"),
        matrix("mlp.down_proj", ("F", F), sides, "audio"),
        Norm("post_attention_layernorm", (sides,)),
    )
    stem = (*(t for i, ins in enumerate((1, C, C)) for t in convolution(f"convs.{i}", ins, C, 3, 3)),)
    return (
        *tower("audio", f"{path}.{down}", *stem, matrix("conv_out", ("X", C * rows), sides, "audio", bias=False)),
        *tower("audio", f"{path}.rotary_embedding", *_angles(even(int(turned)) // 2)),
        *repeated("audio", f"{path}.layers", size("num_hidden_layers", 32), *layer),
        *tower("audio", path, Norm("layer_norm", (sides,))),
        *tower(
            "audio",
            f"{path}.adapter",
            layer_norm("norm", D),
            matrix("fc1", sides, ("D", text), "audio"),
            matrix("fc2", ("D", text), ("D", text), "audio"),
        ),
    )


def _angles(count: int) -> tuple[Tensor, ...]:
    names = ("inv_freq", "original_inv_freq")
    return tuple(Tensor(name, (("X", count),), "buffer", dtype="fp32") for name in names)


def _same(k: Keys, key: str, default: int, width: int) -> None:
    """A width that the config tells once more."""
    if k.size(key, default) != width:
        name = k.path + key
        raise ConfigError(f"{name} = {k.size(key, default)}, not {width}", key=name, value=k.size(key, default))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/dots3_note/modeling_dots3_note.py",
    classes={"seq2seq": read_whole, "none": read_whole},
)
