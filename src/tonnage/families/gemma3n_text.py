"""Gemma 3n: several residual streams, a low-rank residual, embeddings of every layer, shared keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.arch.parts import Part, Parts
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._decoder import causal, embed_scale, heads, window_of
from tonnage.families._gemma import layer_embeddings, layer_input, loose, reusing, rotaries, sharing_attention
from tonnage.families._hybrid import FULL, SLIDING, layer_kinds
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``Gemma3nForCausalLM`` builds."""
    D, L, H = k.need("hidden_size"), k.need("num_hidden_layers"), k.size("head_dim", 256)
    N, K = heads(k, 2, 8)
    bias, window = k.want("attention_bias", False), window_of(k, 512)
    act, R = k.want("hidden_activation", "gelu_pytorch_tanh"), k.size("hidden_size_per_layer_input", 256)
    kinds = layer_kinds(k, L, lambda i: SLIDING if (i + 1) % 5 else FULL, (FULL, SLIDING))
    dropout = k.want("attention_dropout", 0.0)
    k.skip("altup_active_idx", "altup_coef_clip", "altup_correct_scale", "query_pre_attn_scalar")
    k.skip("activation_sparsity_pattern", "rope_local_base_freq", "hidden_act")
    k.refuse("use_bidirectional_attention")
    residuals = tuple(_residuals(k, D))

    def norm(name: str) -> Norm:
        return Norm(name, (("D", D),))

    @cache
    def layer(kind: str, reuses: bool, F: int) -> Layer:
        sees = window if kind == SLIDING else None
        mlp = Gated(name="mlp", D=D, F=F, act=act)
        inner = GroupedQuery(name="self_attn", D=D, N=N, K=K, H=H, bias=bias, window=sees, rotary=kind, dropout=dropout)
        return Layer(
            sublayers=(
                Sublayer(
                    block=sharing_attention(inner, reuses=reuses, keys_first=True),
                    before=norm("input_layernorm"),
                    after=norm("post_attention_layernorm"),
                ),
                Sublayer(block=mlp, before=norm("pre_feedforward_layernorm"), after=norm("post_feedforward_layernorm")),
                Sublayer(
                    block=Parts(
                        what="streams and embeddings of every layer",
                        parts=(*layer_input(D, R, act).parts, *residuals),
                    )
                ),
            ),
            kind=("full" if kind == FULL else "sliding") + (" layer that reuses a cache" if reuses else " layer"),
        )

    streams = k.size("altup_num_inputs", 4)
    V = k.size("vocab_size_per_layer_input", 262144)
    model = causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=tuple(map(layer, kinds, reusing(k, kinds, 15), _widths(k, L))),
        norm=Norm("model.norm", (("D", D),)),
        rotary=rotaries("model", dict.fromkeys(kinds, H)),
        tied=k.want("tie_word_embeddings", True),
        positions=k.size("max_position_embeddings", 32768),
        scaled=True,
        capped=k.optional("final_logit_softcapping", float, 30.0) is not None,
        buffers=(embed_scale("model"), *_scales()),
    )
    return model.but(extra=(*layer_embeddings("model", V, D, R, L).weights(), *_streams(streams, D)))


def _widths(k: Keys, layers: int) -> list[int]:
    """Inner widths of the layers: one for all or a list."""
    if not isinstance(k.config.get("intermediate_size"), list):
        return [k.size("intermediate_size", 16384)] * layers
    widths = k.need("intermediate_size", list)
    if len(widths) != layers or not all(isinstance(F, int) and F > 0 for F in widths):
        raise ConfigError(
            f"intermediate_size must be {layers} widths", key="intermediate_size", value=len(widths), file=k.file
        )
    return list(widths)


def _residuals(k: Keys, D: int) -> Iterator[Part]:
    """Alternating updates of the streams (AltUp), and the low-rank residual (LAuReL)."""
    n, R = k.size("altup_num_inputs", 4), k.size("laurel_rank", 64)
    width, streams, low = (("D", D),), (("X", n),), (("R", R),)
    yield loose(
        Tensor("altup.correct_output_scale", width, "feed_forward"),
        Tensor("altup.router_input_scale", (), "buffer"),
    )
    yield Linear("altup.correction_coefs", streams, streams, "feed_forward")
    yield Linear("altup.prediction_coefs", streams, (("X", n), ("X", n)), "feed_forward")
    yield Linear("altup.modality_router", width, streams, "feed_forward")
    yield Norm("altup.router_norm", width)
    yield Linear("laurel.linear_left", width, low, "feed_forward")
    yield Linear("laurel.linear_right", low, width, "feed_forward")
    yield Norm("laurel.post_laurel_norm", width)


def _streams(n: int, D: int) -> Iterator[Tensor]:
    """To the further streams before the first layer, and back behind the last."""
    for index in range(n - 1):
        for name in ("altup_projections", "altup_unembed_projections"):
            yield from Linear(f"model.{name}.{index}", (("D", D),), (("D", D),), "embedding").weights()


def _scales() -> tuple[Tensor, ...]:
    return tuple(
        Tensor(f"model.{name}", (), "buffer") for name in ("per_layer_projection_scale", "per_layer_input_scale")
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gemma3n/modeling_gemma3n.py",
)
