"""Kyutai's speech to text: Moshi's decoder over text and the codes of Mimi, which hears (arXiv:2410.00037)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Model, Stack
from tonnage.families import Family
from tonnage.families._blocks import attention, normed_before
from tonnage.families._composite import read_inner
from tonnage.families._decoder import window_of
from tonnage.families._mimi import mimi
from tonnage.families._pieces import counted, matrix
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``KyutaiSpeechToTextForConditionalGeneration`` builds."""
    D, V, F = k.need("hidden_size"), k.need("vocab_size"), k.size("ffn_dim", 11264)
    books, rows = k.size("num_codebooks", 32), k.size("codebook_vocab_size", 2049)
    half, window = k.divides("ffn_dim", "2", F, 2), window_of(k, 375)
    token: GroupedQuery = attention(k, D, bias=False, window=window)
    turned = Rotary("self_attn.rotary_emb", token.H)
    names = {part: f"{part}_proj.linear" for part in "qkvo"}
    token = token.but(**names, buffers=tuple(turned.weights()))
    block = counted("attention with a rotary table of its own in every layer", token)
    mlp = counted(
        "a packed feed-forward block",
        matrix("mlp.fc1", ("D", D), ("F", F), "feed_forward", bias=False),
        matrix("mlp.fc2", ("F", half), ("D", D), "feed_forward", bias=False),
    )
    # The embedding has the codes' rows beside those of text, so that no head can share it.
    k.refuse("tie_word_embeddings")
    k.skip("hidden_act", "frame_size")
    table = "model.embed_tokens"
    offsets = Tensor(f"{table}.audio_tokens_offsets", (("X", books + 1),), "buffer", dtype="int64")
    return Model(
        model_type="kyutai_speech_to_text",
        stacks=(
            Stack(
                name="decoder",
                path="model.layers",
                stem=Stem(name=f"{table}.embed_tokens", V=V, D=D, rows=V + books * rows + 1, buffers=(offsets,)),
                layers=(normed_before(block, mlp, D),) * k.need("num_hidden_layers"),
                norm=Norm("model.norm", (("D", D),)),
            ),
        ),
        head=Head(name="lm_head", D=D, V=V),
        positions=k.size("max_position_embeddings", 750),
        extra=read_inner(k, "codec_config", {}, lambda inner: mimi(inner, "codec_model"), less=("model_type",)),
        fp32=("codec_model",),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/kyutai_speech_to_text/"
    "modeling_kyutai_speech_to_text.py",
)
