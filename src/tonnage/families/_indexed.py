"""What families with an indexer share: DeepSeek-V3.2's structure and its keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tonnage.arch.attention import Latent
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.indexed import Indexer
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model
from tonnage.arch.sparse.chosen import Chosen
from tonnage.arch.stacks.stated import like
from tonnage.errors import ConfigError
from tonnage.families._decoder import causal
from tonnage.families._experts import ahead, routed, stacked, words
from tonnage.keys import Keys


def indexer(k: Keys, D: int, rank: int | None, heads: int, *, style: str = "plain") -> Indexer:
    """The indexer that reads the compressed query; ``heads`` is the default of ``index_n_heads``.

    ``style``: how it turns queries and key, as ``arch/rotate.py`` names it.
    """
    top = k.size("index_topk", 2048)
    if rank is None:
        key = f"{k.path}q_lora_rank"
        raise ConfigError(f"{key} is missing: the indexer reads compressed queries", key=key, file=k.file)
    return Indexer(
        name="self_attn.indexer", D=D, R=rank, N=k.size("index_n_heads", heads), H=k.size("index_head_dim", 128),
        top=top, style=style,
    )  # fmt: skip


def owners(k: Keys, layers: int, default: Callable[[int], bool]) -> tuple[bool, ...]:
    """Which layers have an indexer of their own; the others see what the one before them chose."""
    stated = words(k, "indexer_types", layers, ("full", "shared"))
    if stated is None:
        return tuple(map(default, range(layers)))
    if stated[:1] == ["shared"]:
        key = f"{k.path}indexer_types"
        raise ConfigError(f"{key} starts with a layer that has nothing to share", key=key, value="shared", file=k.file)
    return tuple(word == "full" for word in stated)


def sparse_latent(
    k: Keys,
    D: int,
    attention: Latent,
    heads: int,
    own: Sequence[bool],
    experts: Experts,
    *,
    dense: int,
    positions: int,
    style: str = "plain",
    hands: bool = False,
    tables: bool = True,
) -> Model:
    """DeepSeek-V3.2's structure: latent attention over what an indexer chose, experts behind the first layers.

    ``style``: how the indexer turns queries and key, as ``arch/rotate.py`` names it; ``hands``: layers hand on what is
    chosen; ``tables``: whether a checkpoint stores embedding and head with the layer that predicts a further token once
    more.
    """
    L, V, norm = k.need("num_hidden_layers"), k.need("vocab_size"), (("D", D),)
    words(k, "layer_types", L, ("indexed_attention", "deepseek_sparse_attention"))
    chooses = indexer(k, D, attention.q_rank, heads, style=style)
    k.skip("mlp_bias")
    layers = stacked(
        lambda owns: like(Chosen, attention, indexer=chooses if owns else None, hands=hands),
        own,
        experts,
        Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=experts.act),
        routed(k, L, k.want("first_k_dense_replace", dense)),
        lambda name: Norm(name, norm),
    )
    further = k.optional("num_nextn_predict_layers") or 0
    # The layer that predicts a further token has an indexer of its own, whatever the last one shares.
    last: Layer = next(layer for layer, owns in zip(reversed(layers), reversed(own), strict=True) if owns)
    model = causal(
        k,
        V=V,
        D=D,
        layers=layers,
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", attention.rope),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", positions),
        apart=tuple(t for i in range(L, L + further) for t in ahead(last, i, D, V, tables=tables)),
        masked=True,
    )
    return model.but(fp32_for_fp16=("indexer.weights_proj",))
