"""Qwen3-Omni: Qwen3 with experts that reads text, images and sound, beside one that speaks (arXiv:2509.17765).

What the talker caches while it speaks is not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.families import Family
from tonnage.families._blocks import attention, gated, normed_heads
from tonnage.families._composite import filled, read_inner
from tonnage.families._decoder import chosen
from tonnage.families._omni import snake, thinker, upward
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import convolution, repeated, sizes, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

KIND: Final = "qwen3_omni_moe"
Tensors = tuple[Tensor, ...]

TALKER: Final[dict[str, Any]] = {
    "vocab_size": 3072,
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "num_hidden_layers": 20,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
}
PREDICTOR: Final[dict[str, Any]] = {
    "vocab_size": 2048,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 5,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
WAVE: Final[dict[str, Any]] = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
}


def read(k: Keys) -> Model:
    """Build ``Qwen3OmniMoeForConditionalGeneration``, or its thinker alone."""
    if k.config["model_type"] == "qwen3_omni_moe_thinker":
        return thinker(k, KIND, "qwen3_moe").but(model_type="qwen3_omni_moe_thinker")
    model = filled(k, "thinker_config", {}, lambda inner: thinker(inner, KIND, "qwen3_moe", "thinker."))
    speaks = k.want("enable_audio_output", True)
    k.skip("talker_config", "code2wav_config", "tie_word_embeddings")
    if speaks:
        talks = filled(k, "talker_config", {}, _talker)
        model = model.but(extra=(*model.extra, *talks, *filled(k, "code2wav_config", WAVE, _wave)))
    return model.but(model_type=KIND)


def _talker(k: Keys) -> Tensors:
    """Layers with experts over the thinker's states, and a small model that tells the other codes of a frame."""
    ins = k.size("thinker_hidden_size", 2048)
    inner, text = read_inner(k, "text_config", TALKER, _codes, aliases={"num_experts": "num_local_experts"})
    D = inner[1]
    projections: list[Part] = []
    for name in ("text_projection", "hidden_projection"):
        projections.append(matrix(f"{name}.linear_fc1", ("X", ins), ("F", inner[0]), "audio"))
        projections.append(matrix(f"{name}.linear_fc2", ("F", inner[0]), ("D", D), "audio"))
    k.skip("num_code_groups", "accept_hidden_layer", "codec_nothink_id", "codec_think_bos_id", "codec_think_eos_id")
    k.skip("codec_pad_id", "codec_bos_id", "position_id_per_seconds", "speaker_id", "spatial_merge_size")
    k.skip("tie_word_embeddings", "seconds_per_chunk")
    return text + tower("audio", "talker", *projections) + filled(k, "code_predictor_config", PREDICTOR, _predictor)


def _normed(k: Keys, D: int) -> tuple[Part, ...]:
    """Attention with norms of queries and keys, and the norms of a layer."""
    token = attention(k, D)
    token = normed_heads(token)
    return token, *(Norm(f"{name}_layernorm", (("D", D),)) for name in ("input", "post_attention"))


def _turned(k: Keys, D: int) -> int:
    return k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, k.need("num_attention_heads"))


def _codes(k: Keys) -> tuple[tuple[int, int], Tensors]:
    """Inner width and width, which the projections need as well, and the tensors."""
    D, V, act = k.need("hidden_size"), k.need("vocab_size"), k.want("hidden_act", "silu")
    E, F = k.size("num_experts", 128), k.size("moe_intermediate_size", 384)
    # No default: transformers itself cannot build a talker without it.
    shared = k.need("shared_expert_intermediate_size")
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 8),
        F=F,
        act=act,
        shared=Gated(name="mlp.shared_expert", D=D, F=shared, act=act),
        shared_gate="shared_expert_gate",
    )
    # Every layer has experts, whatever these say.
    k.skip("decoder_sparse_step", "mlp_only_layers", "norm_topk_prob", "sliding_window", "max_position_embeddings")
    k.skip("tie_word_embeddings", "use_sliding_window", "max_window_layers", "layer_types")
    path = "talker.model"
    tensors = tower(
        "audio",
        path,
        Tensor("codec_embedding.weight", (("V", V), ("D", D)), "audio"),
        Norm("norm", (("D", D),)),
        Rotary("rotary_emb", _turned(k, D)),
    ) + repeated("audio", f"{path}.layers", k.need("num_hidden_layers"), *_normed(k, D), experts)
    head = matrix("codec_head", ("D", D), ("V", V), "audio", bias=False)
    return (k.need("intermediate_size"), D), tensors + tower("audio", "talker", head)


def _predictor(k: Keys) -> Tensors:
    D, V, others = k.need("hidden_size"), k.need("vocab_size"), k.size("num_code_groups", 32) - 1
    k.skip("sliding_window", "max_window_layers", "layer_types", "max_position_embeddings", "tie_word_embeddings")
    k.skip("use_sliding_window")
    path, table = "talker.code_predictor", (("V", V), ("D", D))
    return (
        *tower("audio", f"{path}.model", Norm("norm", (("D", D),)), Rotary("rotary_emb", _turned(k, D))),
        *repeated("audio", f"{path}.model.layers", k.need("num_hidden_layers"), *_normed(k, D), gated(k, D)),
        *repeated("audio", f"{path}.model.codec_embedding", others, Tensor("weight", table, "audio")),
        *repeated("audio", f"{path}.lm_head", others, Tensor("weight", table, "audio")),
    )


def _wave(k: Keys) -> Tensors:
    """Codes to sound: layers of attention in a window, then convolutions that raise the rate."""
    D, books = k.need("hidden_size"), k.size("num_quantizers", 16)
    C, rates = k.size("decoder_dim", 1536), sizes(k, "upsample_rates", (8, 5, 4, 3))
    first = sizes(k, "upsampling_ratios", (2, 2))
    k.skip("max_position_embeddings", "sliding_window", "layer_scale_initial_scale", "layer_types")
    path = "code2wav"
    scales = tuple(Tensor(f"{name}_layer_scale.scale", (("D", D),), "audio") for name in ("self_attn", "mlp"))
    norms = (Norm(f"{name}_layernorm", (("D", D),)) for name in ("input", "post_attention"))
    last = C >> len(rates)
    return (
        *tower(
            "audio",
            path,
            Tensor("code_embedding.weight", (("V", k.size("codebook_size", 2048) * books), ("D", D)), "audio"),
            Tensor("code_offset", (("B", 1), ("X", books), ("T", 1)), "buffer", dtype="int64"),
            Norm("pre_transformer.norm", (("D", D),)),
            Rotary("pre_transformer.rotary_emb", _turned(k, D)),
            *convolution("decoder.0.conv", D, C, 7),
            *snake(f"decoder.{len(rates) + 1}", last),
            *convolution(f"decoder.{len(rates) + 2}.conv", last, 1, 7),
        ),
        *repeated(
            "audio",
            f"{path}.pre_transformer.layers",
            k.need("num_hidden_layers"),
            attention(k, D),
            gated(k, D),
            *scales,
            *norms,
        ),
        *(t for i, rate in enumerate(first) for t in _doubled(f"{path}.upsample.{i}", D, rate)),
        *tower("audio", path, *(t for i, rate in enumerate(rates) for t in _raised(i, C >> i, rate))),
    )


def _doubled(path: str, D: int, rate: int) -> Tensors:
    """A convolution that raises the rate, and a ConvNeXt block."""
    return tower(
        "audio",
        path,
        *upward("0.conv", D, D, rate),
        Tensor("1.gamma", (("D", D),), "audio"),
        *convolution("1.dwconv.conv", 1, D, 7),
        layer_norm("1.norm", D),
        matrix("1.pwconv1", ("D", D), ("F", 4 * D), "audio"),
        matrix("1.pwconv2", ("F", 4 * D), ("D", D), "audio"),
    )


def _raised(index: int, ins: int, rate: int) -> Iterator[Tensor]:
    """A convolution that raises the rate and halves the channels, and three residual units."""
    path, outs = f"decoder.{index + 1}.block", ins // 2
    yield from snake(f"{path}.0", ins)
    yield from upward(f"{path}.1.conv", ins, outs, 2 * rate)
    for unit in (2, 3, 4):
        yield from snake(f"{path}.{unit}.act1", outs)
        yield from convolution(f"{path}.{unit}.conv1.conv", outs, outs, 7)
        yield from snake(f"{path}.{unit}.act2", outs)
        yield from convolution(f"{path}.{unit}.conv2.conv", outs, outs, 1)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen3_omni_moe/"
    "modeling_qwen3_omni_moe.py",
)
