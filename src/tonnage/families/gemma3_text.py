"""Gemma 3: Gemma 2 with norms of query and key heads instead of caps, and five sliding layers to a full one."""

from __future__ import annotations

from functools import cache
from math import isqrt
from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.arch.sight.joined import Averaged, Pooled
from tonnage.families import Family
from tonnage.families._composite import filled
from tonnage.families._decoder import causal, embed_scale, every, heads, window_of, windows
from tonnage.families._siglip import SIGLIP, siglip
from tonnage.families.towers import Sight
from tonnage.keys import Keys

FULL: Final = "full_attention"
SLIDING: Final = "sliding_attention"
TEXT: Final = {"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26}


def read(k: Keys) -> Model:
    """Build the model that ``Gemma3ForCausalLM`` builds, or ``Gemma3ForConditionalGeneration`` with its tower."""
    if "text_config" not in k.config and k.config.get("model_type") != "shieldgemma2":
        return _text(k, "model", k.want("tie_word_embeddings", True))
    k.skip("yes_token_index", "no_token_index")
    tied, tokens = k.want("tie_word_embeddings", True), k.want("mm_tokens_per_image", 256)
    model = filled(k, "text_config", TEXT, lambda inner: _within(inner, tied))
    tower = "model.vision_tower"
    sight = filled(k, "vision_config", SIGLIP, lambda inner: siglip(inner, tower))
    projector = _projector(sight, tokens, model.width)
    model = model.but(extra=(*model.extra, *sight.tensors, *projector.weights()))
    # Elsewhere there are more rows than tokens, or none.
    fits = sight.tower is not None and projector.rows == tokens
    return model.but(eye=Pooled(tower=sight.tower, projector=projector)) if fits else model


def _projector(sight: Sight, tokens: int, D: int) -> Averaged:
    side = 0 if sight.tower is None else isqrt(sight.tower.rows)
    square = max(side // max(isqrt(tokens), 1), 1)
    return Averaged("model.multi_modal_projector", ins=sight.width, outs=D, side=side, square=square)


def _within(k: Keys, tied: bool) -> Model:
    k.skip("tie_word_embeddings")
    caches = bool(k.config.get("use_cache", True))
    model = _text(k, "model.language_model", tied)
    # The head is that of the class around it, which caps nothing.
    head = model.head.but(capped=False) if model.head is not None else None
    # The language model's own config is out of the Trainer's reach.
    return model.but(head=head, stacks=tuple(stack.but(caches=caches) for stack in model.stacks))


def _text(k: Keys, path: str, tied: bool) -> Model:
    D, L, H = k.need("hidden_size"), k.need("num_hidden_layers"), k.want("head_dim", 256)
    N, K = heads(k, 4, 8)
    bias, dropout = k.want("attention_bias", False), k.want("attention_dropout", 0.0)
    for key in ("use_bidirectional_attention", "attn_logit_softcapping"):
        k.refuse(key)
    k.skip("hidden_act", "query_pre_attn_scalar", "cache_implementation", "rope_local_base_freq")
    mlp = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=k.want("hidden_activation", "gelu_pytorch_tanh"))
    norm, head = (("D", D),), (("H", H),)
    pattern = every(k, "sliding_window_pattern", k.want("_sliding_window_pattern", 6))
    window = window_of(k, 4096)
    seen = windows(k, L, window, lambda i: (i + 1) % pattern != 0)

    @cache
    def layer(window: int | None) -> Layer:
        attention = GroupedQuery(
            name="self_attn",
            D=D,
            N=N,
            K=K,
            H=H,
            bias=bias,
            o_bias=bias,
            q_norm=Norm("self_attn.q_norm", head, "rms-gemma"),
            k_norm=Norm("self_attn.k_norm", head, "rms-gemma"),
            rotary=FULL if window is None else SLIDING,
            window=window,
            dropout=dropout,
        )
        return Layer(
            sublayers=(
                Sublayer(
                    block=attention,
                    before=Norm("input_layernorm", norm, "rms-gemma"),
                    after=Norm("post_attention_layernorm", norm, "rms-gemma"),
                ),
                Sublayer(
                    block=mlp,
                    before=Norm("pre_feedforward_layernorm", norm, "rms-gemma"),
                    after=Norm("post_feedforward_layernorm", norm, "rms-gemma"),
                ),
            ),
            kind="full layer" if window is None else "sliding layer",
        )

    kinds = {FULL if window is None else SLIDING for window in seen}
    return causal(
        k,
        V=k.want("vocab_size", 262208),
        D=D,
        layers=tuple(map(layer, seen)),
        norm=Norm(f"{path}.norm", norm, "rms-gemma"),
        rotary=tuple(
            Rotary(f"{path}.rotary_emb", H, kind, buffers=(f"{kind}_inv_freq", f"{kind}_original_inv_freq"))
            for kind in sorted(kinds)
        ),
        tied=tied,
        positions=k.want("max_position_embeddings", 131072),
        path=path,
        scaled=True,
        capped=k.optional("final_logit_softcapping", float) is not None,
        buffers=(embed_scale(path),),
        masks=(None, window) if window is not None else (),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gemma3/modeling_gemma3.py",
)
