"""T5Gemma 2: an encoder of Gemma 3's layers with its tower, a decoder that attends to it and to itself as one."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Block, Layer, Model, Stack, Sublayer
from tonnage.arch.parts import KeyValues
from tonnage.families import Family
from tonnage.families._composite import filled, read_inner
from tonnage.families._decoder import every, heads, window_of, windows
from tonnage.families._pieces import counted
from tonnage.families._siglip import SIGLIP, siglip
from tonnage.keys import Keys
from tonnage.tensors import Tensor

TEXT: Final[dict[str, Any]] = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "vocab_size": 262208,
}
FULL: Final = "full_attention"
SLIDING: Final = "sliding_attention"
ENCODER: Final = "model.encoder"
EMBEDDING: Final = f"{ENCODER}.text_model.embed_tokens"
WHAT: Final = "T5Gemma 2"


def read(k: Keys) -> Model:
    """Build ``T5Gemma2ForConditionalGeneration``."""
    tied = k.want("tie_word_embeddings", True)
    k.skip("dropout_rate", "attention_dropout", "classifier_dropout_rate", "vocab_size", "is_encoder_decoder")
    encoder, tensors = read_inner(k, "encoder", {}, _encoder, less=("model_type", "tie_word_embeddings"))
    decoder, P = filled(k, "decoder", TEXT, lambda inner: _stack(inner, "decoder", "model.decoder", tied))
    D, V = decoder.stem.D, decoder.stem.V
    return Model(
        model_type="t5gemma2",
        stacks=(encoder, decoder),
        head=Head(name="lm_head.out_proj", D=D, V=V, alias_of=f"{EMBEDDING}.weight" if tied else None),
        positions=P,
        causal=False,
        classifier=Head(name="score.out_proj", D=D, V=1, bias=True),
        extra=tensors,
    )


def _encoder(k: Keys) -> tuple[Stack, tuple[Tensor, ...]]:
    """The stack, and the tower with what brings it to the stack's width."""
    k.skip("mm_tokens_per_image", "dropout_rate", "vocab_size")
    stack, _ = filled(k, "text_config", TEXT, lambda inner: _stack(inner, "encoder", f"{ENCODER}.text_model", False))
    sight = filled(k, "vision_config", SIGLIP, lambda inner: siglip(inner, f"{ENCODER}.vision_tower"))
    width, tensors = sight.width, sight.tensors
    path = f"{ENCODER}.multi_modal_projector"
    return stack, (
        *tensors,
        Tensor(f"{path}.mm_input_projection_weight", (("X", width), ("D", stack.stem.D)), "vision"),
        Tensor(f"{path}.mm_soft_emb_norm.weight", (("D", width),), "vision"),
    )


def _stack(k: Keys, name: str, path: str, shared: bool) -> tuple[Stack, int]:
    """One of the two stacks and its positions; ``shared``: it takes the embedding of the other."""
    D, L, H = k.need("hidden_size"), k.need("num_hidden_layers"), k.size("head_dim", 256)
    k.skip("query_pre_attn_scalar", "attention_dropout", "dropout_rate", "tie_word_embeddings", "rope_local_base_freq")
    k.skip("final_logit_softcapping", "attn_logit_softcapping", "use_bidirectional_attention", "hidden_act")
    (N, K), bias, window = heads(k, 4), k.want("attention_bias", False), window_of(k, 4096)
    pattern = every(k, "sliding_window_pattern", 6)
    seen = windows(k, L, window, lambda i: (i + 1) % pattern != 0)
    mlp = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=k.want("hidden_activation", "gelu_pytorch_tanh"))
    head = (("H", H),)
    decodes = name == "decoder"
    own = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        bias=bias,
        o_bias=bias,
        causal=decodes,
        q_norm=Norm("self_attn.q_norm", head, "rms-gemma"),
        k_norm=Norm("self_attn.k_norm", head, "rms-gemma"),
    )

    def sub(block: Block, what: str) -> Sublayer:
        before, after = (Norm(f"{side}_{what}_layernorm", (("D", D),), "rms-gemma") for side in ("pre", "post"))
        return Sublayer(block=block, before=before, after=after)

    @cache
    def layer(tokens: int | None) -> Layer:
        # What the encoder saw is cached beside the decoder's own tokens.
        beside = (KeyValues(K=K, H=H, cross=True),) if decodes else ()
        block = counted(WHAT, own.but(window=tokens), *beside)
        kind = "full layer" if tokens is None else "sliding layer"
        return Layer(sublayers=(sub(block, "self_attn"), sub(mlp, "feedforward")), kind=kind)

    kinds = sorted({FULL if tokens is None else SLIDING for tokens in seen})
    end, alias = Tensor(f"{path}.embed_tokens.eoi_embedding", (("D", D),), "embedding"), f"{EMBEDDING}.eoi_embedding"
    if shared:
        end = Tensor(end.name, end.axes, end.role, alias_of=alias)
    stem = Stem(
        name=f"{path}.embed_tokens",
        V=k.need("vocab_size"),
        D=D,
        rotary=tuple(
            Rotary(f"{path}.rotary_emb", H, kind, buffers=(f"{kind}_inv_freq", f"{kind}_original_inv_freq"))
            for kind in kinds
        ),
        scaled=True,
        alias_of=f"{EMBEDDING}.weight" if shared else None,
        buffers=(end, Tensor(f"{path}.embed_tokens.embed_scale", (), "buffer")),
    )
    norm = Norm(f"{path}.norm", (("D", D),), "rms-gemma")
    stack = Stack(name=name, path=f"{path}.layers", stem=stem, layers=tuple(map(layer, seen)), norm=norm)
    return stack, k.size("max_position_embeddings", 131072)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/t5gemma2/"
    "modeling_t5gemma2.py",
    attributes={"image_token_id": "image_token_index", "eoi_token_id": "eoi_token_index"},
)
