"""Byte latent transformer: bytes are gathered into patches, which a large model reads between two small ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.model import Model, Stack
from tonnage.arch.parts import KeyValues, Loose, Part, Parts
from tonnage.families import Family
from tonnage.families._blocks import normed_before
from tonnage.families._composite import filled
from tonnage.families._decoder import every, heads
from tonnage.families._hybrid import whole_numbers
from tonnage.keys import Keys
from tonnage.record import Record
from tonnage.tensors import Tensor


class Sizes(Record):
    """One of the four transformers.

    Args:
        stack: its layers.
        D: residual width.
        cross: attention between bytes and patches: tensors below the transformer's path.
    """

    stack: Stack
    D: int
    cross: tuple[Tensor, ...] = ()


def read(k: Keys) -> Model:
    """Build the model that ``BltForCausalLM`` builds."""
    V, fold = k.size("vocab_size", 260), k.size("cross_attn_k", 2)
    encoder = filled(k, "encoder_config", {}, lambda inner: _local(inner, "encoder"))
    large = filled(k, "global_config", {}, lambda inner: _part(inner, "global_transformer", 2048, 25, 5632))
    decoder = filled(k, "decoder_config", {}, lambda inner: _local(inner, "decoder"))
    parts = [encoder, large, decoder]
    extra: list[Tensor] = [*encoder.cross, *decoder.cross]
    if k.want("patch_in_forward", True):
        patcher, tensors = filled(k, "patcher_config", {}, _patcher)
        parts.insert(0, patcher)
        extra += tensors
    else:
        k.skip("patcher_config")
    groups = whole_numbers(k, "encoder_hash_byte_group_size") or [3, 4, 5, 6, 7, 8]
    tables = len(groups) * every(k, "encoder_hash_byte_group_nb_functions", 1)
    rows = (("V", tables * k.size("encoder_hash_byte_group_vocab", 500002)), ("D", encoder.D))
    extra.append(Tensor("model.encoder_hash_tok_embedding.weight", rows, "embedding"))
    if encoder.D * fold != large.D:
        path = "model.global_transformer.token_embedding_projection"
        extra += Linear(path, (("X", fold), ("D", encoder.D)), (("D", large.D),), "feed_forward").weights()
    k.skip("patch_size", "patching_mode", "patching_threshold", "patching_batch_size", "max_patch_length")
    k.skip("local_attention_window_len")
    tied = k.want("tie_word_embeddings", False)
    return Model(
        model_type="blt",
        stacks=tuple(part.stack for part in parts),
        head=Head(
            name="lm_head",
            D=decoder.D,
            V=V,
            alias_of="model.local_encoder.embed_tokens.weight" if tied else None,
        ),
        positions=k.size("max_position_embeddings", 4096),
        extra=tuple(extra),
    )


def _part(
    k: Keys,
    name: str,
    D: int,
    layers: int,
    F: int | None,
    *,
    N: int = 16,
    V: int = 0,
    embeds: bool = True,
    caches: bool = False,
) -> Sizes:
    """A transformer of Llama's layers; ``D``, ``layers``, ``F`` and ``N`` are transformers' defaults."""
    D = k.size("hidden_size", D)
    N, K = heads(k, queries=N)
    H = k.divides("hidden_size", "num_attention_heads", D, N)
    F = k.optional("intermediate_size", int, F) or int(8 * D / 3)
    act = k.want("hidden_act", "silu")
    k.skip("head_dim", "dropout", "max_position_embeddings", "sliding_window", "tie_word_embeddings")
    k.skip("encoder_cross_output_size")
    path = f"model.{name}"
    layer = normed_before(
        Parts(what="a byte latent transformer", parts=_attention("self_attn", D, N, K, H, caches=caches)),
        Gated(name="mlp", D=D, F=F, act=act),
        D,
    )
    return Sizes(
        stack=Stack(
            name=name.replace("_", " "),
            path=f"{path}.layers",
            stem=Stem(
                name=f"{path}.embed_tokens" if V and embeds else "", V=V, D=D, rotary=(Rotary(f"{path}.rotary_emb", H),)
            ),
            layers=(layer,) * k.size("num_hidden_layers", layers),
        ),
        D=D,
    )


def _attention(name: str, D: int, N: int, K: int, H: int, *, caches: bool = False) -> tuple[Part, ...]:
    own = GroupedQuery(name=name, D=D, N=N, K=K, H=H)
    return (*own.matrices(), *((KeyValues(K=K, H=H),) if caches else ()))


def _local(k: Keys, side: str) -> Sizes:
    """The small transformer before or behind the large one, with attention between bytes and patches."""
    first = side == "encoder"
    V = k.size("vocab_size", 260)
    part = _part(k, f"local_{side}", 1024, 1 if first else 9, None if first else 2816, V=V, embeds=first, caches=True)
    path, D = f"model.local_{side}", part.D
    everywhere = k.want("cross_attn_all_layers", not first)
    wide = D if first else k.size("hidden_size_global", 2048)
    fold = k.size("cross_attn_k", 2)
    k.skip("hidden_size_global")
    N, K = heads(k, queries=16)

    def cross() -> Iterator[Part]:
        yield Linear("patch_embedding_projection", (("X", wide),), (("X", fold), ("D", D)), "feed_forward")
        for index in range(len(part.stack.layers) if everywhere else 1):
            name = f"cross_attn_layers.{index}"
            yield from _attention(name, D, N, K, D // N)
            yield Norm(f"{name}.q_norm", (("D", D),))
            yield Norm(f"{name}.k_norm", (("D", D),))

    tensors = tuple(t.placed(f"{path}.") for owner in cross() for t in owner.weights())
    norm = None if first else Norm(f"{path}.norm", (("D", D),))
    return part.but(cross=tensors, stack=part.stack.but(norm=norm))


def _patcher(k: Keys) -> tuple[Sizes, tuple[Tensor, ...]]:
    """The small language model that tells where patches end."""
    V = k.size("vocab_size", 260)
    part = _part(k, "patcher", 768, 14, 2048, N=12, V=V)
    owners: tuple[Part, ...] = (
        Loose(tensors=(Tensor("model.patcher.lm_head.weight", (("V", V), ("D", part.D)), "head"),)),
        Norm("model.patcher.norm", (("D", part.D),)),
    )
    return part, tuple(t for owner in owners for t in owner.weights())


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/blt/modeling_blt.py",
)
