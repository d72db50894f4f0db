"""What Gemma 3n and Gemma 4 share: layers that reuse another's keys and values, embeddings of every layer."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.layer_embeddings import LayerEmbeddings, LayerInput
from tonnage.arch.layers import Linear, Norm, NormStyle, Rotary
from tonnage.arch.parts import KeyValues, Loose, Part
from tonnage.arch.sharing import SharingAttention
from tonnage.errors import ConfigError
from tonnage.families._decoder import embed_scale
from tonnage.keys import Keys
from tonnage.tensors import Tensor

STYLE: Final[NormStyle] = "rms-power"
"""Of every norm with a weight."""


def reusing(k: Keys, kinds: tuple[str, ...], default: int) -> tuple[bool, ...]:
    """Which layers reuse the keys and values of an earlier layer of their kind: the last ``num_kv_shared_layers``."""
    shared, layers = k.want("num_kv_shared_layers", default), len(kinds)
    if shared and set(kinds[: layers - shared]) != set(kinds):
        raise ConfigError(
            f"num_kv_shared_layers = {shared} leaves no layer of some kind to share from",
            key="num_kv_shared_layers",
            value=shared,
            file=k.file,
        )
    return tuple(i >= layers - shared for i in range(layers))


def storing(kinds: tuple[str, ...], reuses: tuple[bool, ...]) -> tuple[bool, ...]:
    """Which layers' keys and values are reused: of each kind the last that has its own, where any reuse some."""
    own = [kind for kind, shared in zip(kinds, reuses, strict=True) if not shared]
    last = {len(own) - 1 - own[::-1].index(kind) for kind in set(kinds[len(own) :])}
    return tuple(i in last for i in range(len(kinds)))


def sharing_attention(inner: GroupedQuery, *, reuses: bool, no_values: bool = False, **more: Any) -> SharingAttention:
    """Attention that has keys and values of its own, or reuses another layer's and caches none.

    ``no_values``: values are the keys before their norm, and are cached all the same (Gemma 4).
    """
    width, path, bias, head = (("D", inner.D),), inner.name, inner.bias, (("H", inner.H),)
    queries, keys = (("N", inner.N), *head), (("K", inner.K), *head)
    parts: list[Part] = [
        Linear(f"{path}.q_proj", width, queries, "attention", bias),
        Norm(f"{path}.q_norm", head, STYLE),
    ]
    if not reuses:
        parts.append(Norm(f"{path}.k_norm", head, STYLE))
        parts.append(Linear(f"{path}.k_proj", width, keys, "attention", bias))
        if not no_values:
            parts.append(Linear(f"{path}.v_proj", width, keys, "attention", bias))
        parts.append(KeyValues(K=inner.K, H=inner.H, window=inner.window))
    parts.append(Linear(f"{path}.o_proj", queries, width, "attention", bias))
    return SharingAttention(
        what="attention that reuses keys and values", parts=tuple(parts), inner=inner, reuses=reuses, **more
    )


def layer_input(D: int, R: int, act: str) -> LayerInput:
    """What a layer adds of its own embedding, ``R`` wide."""
    width, own = (("D", D),), (("R", R),)
    gate = Linear("per_layer_input_gate", width, own, "feed_forward")
    back = Linear("per_layer_projection", own, width, "feed_forward")
    norm = Norm("post_per_layer_input_norm", width, STYLE)
    return LayerInput(
        what="embeddings of every layer", parts=(gate, back, norm), gate=gate, back=back, norm=norm, act=act
    )


def layer_embeddings(path: str, V: int, D: int, R: int, layers: int) -> LayerEmbeddings:
    """A second table with a row of ``R`` for every layer, and the projection of the first one to the same."""
    scale = embed_scale(path).renamed(f"{path}.embed_tokens_per_layer.embed_scale")
    return LayerEmbeddings(path=path, V=V, D=D, R=R, layers=layers, scale=scale)


def rotaries(path: str, widths: dict[str, int]) -> tuple[Rotary, ...]:
    """A table for every kind of layer."""
    return tuple(
        Rotary(f"{path}.rotary_emb", width, kind, buffers=(f"{kind}_inv_freq", f"{kind}_original_inv_freq"))
        for kind, width in sorted(widths.items())
    )


def loose(*tensors: Tensor) -> Loose:
    """Tensors that stand alone."""
    return Loose(tensors=tensors)
