"""Qwen3.5 and 3.6: gated delta nets, gated attention in every fourth layer; dense or with experts; a vision tower."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.model import Layer, Model
from tonnage.arch.sight.merged import Merged
from tonnage.arch.sight.resized import Bounds
from tonnage.families import Family
from tonnage.families._blocks import decoder, normed_before
from tonnage.families._composite import nested
from tonnage.families._decoder import chosen, rotary_width
from tonnage.families._hybrid import FULL, LINEAR, every_fourth, gated_attention, gated_delta, layer_kinds
from tonnage.families.towers import sighted
from tonnage.keys import Keys
from tonnage.tensors import Tensor

PROCESSOR: Final = Bounds(least=256 * 256, most=4096 * 4096)
"""As the releases' preprocessor_config.json have it (Qwen/Qwen3.5-9B)."""


def read(k: Keys) -> Model:
    """Build the model that ``Qwen3_5ForCausalLM`` or ``Qwen3_5MoeForCausalLM`` builds: text alone."""
    k.skip("vision_config")
    if "text_config" in k.config:
        k.skip("tie_word_embeddings")
    routed = _routed(k)
    return nested(k, "text_config", lambda text: _text(text, "model", routed)) or _text(k, "model", routed)


def read_with_vision(k: Keys) -> Model:
    """Build the model that ``Qwen3_5ForConditionalGeneration`` or its like with experts builds."""
    tied, routed = k.want("tie_word_embeddings", False), _routed(k)
    k.refuse("language_model_only")
    model = nested(k, "text_config", lambda text: _text(text, "model.language_model", routed, tied))
    if model is None:
        k.need("text_config", dict)
        raise AssertionError
    sight = sighted(k, "model.visual", "qwen3_5_vision", fixed=True)
    eye = None if sight.tower is None else Merged(tower=sight.tower, processor=PROCESSOR, states=True)
    return model.but(extra=sight.tensors, eye=eye)


def read_bare(k: Keys) -> Model:
    """The same without the head: ``Qwen3_5Model`` and its classifier have the tower, ``Qwen3_5TextModel`` has none."""
    return read_with_vision(k) if "text_config" in k.config else read(k)


def _routed(k: Keys) -> bool:
    return str(k.config.get("model_type")) in ("qwen3_5_moe", "qwen3_5_moe_text")


def _text(k: Keys, path: str, routed: bool, tied: bool | None = None) -> Model:
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    act = k.want("hidden_act", "silu")
    attention = gated_attention(k, D, K=2 if routed else 4, H=256, turned=0.25)
    delta = gated_delta(k, D, "joined")
    channel = _experts(k, D, act) if routed else Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act)

    def layer(kind: str) -> Layer:
        token = attention if kind == FULL else delta
        return normed_before(token, channel, D, style="rms-gemma", kind="attention" if kind == FULL else "delta net")

    layers = {kind: layer(kind) for kind in (FULL, LINEAR)}
    kinds = layer_kinds(k, L, every_fourth(k))
    k.refuse("mtp_use_dedicated_embeddings")
    k.skip("full_attention_interval", "mlp_only_layers")
    k.skip("mamba_ssm_dtype", "attn_output_gate", "output_gate_type", "partial_rotary_factor")
    width = rotary_width(k, k.size("head_dim", 256), 0.25)
    model = decoder(
        k,
        D,
        tuple(layers[kind] for kind in kinds),
        width=width,
        # Positions in time, height and width are told for every sequence.
        rotary=(Rotary(f"{path}.rotary_emb", width, batched=True),),
        positions=32768,
        style="rms-gemma",
        path=path,
        apart=tuple(_ahead(layers[FULL], D, k.want("mtp_num_hidden_layers", 0))),
    )
    if tied is None or model.head is None:
        return model
    return model.but(head=model.head.but(alias_of=f"{path}.embed_tokens.weight" if tied else None))


def _ahead(layer: Layer, D: int, count: int) -> Iterator[Tensor]:
    """What predicts a further token: full layers over a projection of the last states and the next token's embedding.

    A checkpoint stores it, transformers does not build it; embedding and head are the model's own.
    Reference: https://github.com/vllm-project/vllm/blob/main/vllm/model_executor/models/qwen3_5_mtp.py.
    """
    if not count:
        return
    width = (("D", D),)
    yield from Linear("mtp.fc", (("X", 2), ("D", D)), width, "feed_forward").weights()
    for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
        yield from Norm(f"mtp.{name}", width, "rms-gemma").weights()
    for index in range(count):
        for t in layer.weights():
            yield t.placed(f"mtp.layers.{index}.")


def _experts(k: Keys, D: int, act: str) -> Experts:
    E = k.size("num_experts", 256)
    # Transformers never reads it: this type has no dense layers.
    k.skip("intermediate_size", "norm_topk_prob", "decoder_sparse_step")
    return Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 8),
        F=k.size("moe_intermediate_size", 512),
        act=act,
        shared=Gated(
            name="mlp.shared_expert",
            D=D,
            F=k.size("shared_expert_intermediate_size", 512),
            act=act,
            role="shared_expert",
        ),
        shared_gate="shared_expert_gate",
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen3_5/modeling_qwen3_5.py",
    attributes={"num_experts": "num_local_experts"},
    classes={"seq2seq": read_with_vision, "none": read_bare, "classify": read_bare},
)
