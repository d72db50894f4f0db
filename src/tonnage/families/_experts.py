"""What decoders with experts share: which layers have them, the experts of DeepSeek's kind, the layers as a whole."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cache
from typing import Final, TypeVar

from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.model import Block, Layer, Sublayer
from tonnage.errors import ConfigError, UnsupportedError
from tonnage.families._decoder import chosen
from tonnage.keys import Keys
from tonnage.tensors import Tensor

T = TypeVar("T", bound=Hashable)

Names = tuple[str, str | None, str, str | None]
PLAIN: Final[Names] = ("input_layernorm", None, "post_attention_layernorm", None)
"""Norms before attention, behind it, before the feed-forward, behind it."""


def words(k: Keys, key: str, layers: int, allowed: Sequence[str]) -> list[str] | None:
    """A list with a word for every layer, each one of ``allowed``; None where it is absent."""
    stated = k.texts(key, layers)
    for word in stated or ():
        if word not in allowed:
            raise UnsupportedError(
                f"{k.path}{key}: {word!r} is not modelled in this family", key=k.path + key, value=word
            )
    return stated


def routed(k: Keys, layers: int, dense: int) -> tuple[bool, ...]:
    """Which layers have experts: as ``mlp_layer_types`` says, else all but the first ``dense``."""
    stated = words(k, "mlp_layer_types", layers, ("dense", "sparse"))
    if stated is None:
        return tuple(i >= dense for i in range(layers))
    return tuple(word == "sparse" for word in stated)


def shared_expert(
    D: int, F: int, act: str, *, name: str = "mlp.shared_experts", bias: bool = False, fused: str | None = None
) -> Gated:
    """A feed-forward of width ``F`` that every token uses."""
    return Gated(name=name, D=D, F=F, act=act, bias=bias, fused=fused, role="shared_expert")


def scored(
    k: Keys,
    D: int,
    act: str,
    *,
    experts: int,
    used: int | None,
    width: int,
    shared: int | None = 1,
    key: str = "n_routed_experts",
    shared_key: str = "n_shared_experts",
    bias: bool = False,
    normalised: bool = True,
) -> Experts:
    """Experts as DeepSeek-V3 has them: chosen by corrected sigmoid scores, shared ones as one feed-forward.

    Args:
        k: the config.
        D: residual width.
        act: activation function.
        experts: default of ``key``.
        used: default of ``num_experts_per_tok``.
        width: default of ``moe_intermediate_size``.
        shared: default of ``shared_key``; None where there are none.
        key: that tells how many experts are routed.
        shared_key: that tells how many are shared.
        bias: of the shared experts.
        normalised: default of ``norm_topk_prob``.
    """
    E, F = k.size(key, experts), k.size("moe_intermediate_size", width)
    k.skip("n_group", "topk_group", "routed_scaling_factor")
    return Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, used),
        F=F,
        act=act,
        routing="sigmoid",
        normalised=k.want("norm_topk_prob", normalised),
        correction=True,
        shared=None if shared is None else shared_expert(D, F * k.want(shared_key, shared), act, bias=bias),
    )


def stacked(
    attention: Callable[[T], Block],
    seen: Sequence[T],
    experts: Block,
    dense: Block | None,
    routes: Sequence[bool],
    norm: Callable[[str], Norm],
    *,
    names: Names = PLAIN,
    scaled: bool = False,
) -> tuple[Layer, ...]:
    """Layers of attention and a feed-forward, which may be experts.

    Args:
        attention: the block for what ``seen`` says of a layer.
        seen: for every layer its window, or what else tells its attention.
        experts: the feed-forward of layers with experts.
        dense: that of the others.
        routes: which layers have experts.
        norm: the norm of a name.
        names: of a layer's norms.
        scaled: either output is multiplied by a number.
    """
    several = len(set(seen)) > 1

    @cache
    def layer(what: T, routes: bool) -> Layer:
        token, channel = attention(what), experts if routes else dense
        assert channel is not None
        one, two, three, four = names
        label = ("sliding " if getattr(token, "window", None) else "full ") if several else ""
        return Layer(
            sublayers=(
                Sublayer(block=token, before=norm(one), after=None if two is None else norm(two), scaled=scaled),
                Sublayer(block=channel, before=norm(three), after=None if four is None else norm(four), scaled=scaled),
            ),
            kind=f"{label}layer with experts" if routes else f"{label}dense layer",
        )

    return tuple(map(layer, seen, routes))


def tables(path: str, widths: dict[str, int]) -> tuple[Rotary, ...]:
    """Rotary tables of the kinds of layer, as far as these have any."""
    return tuple(
        Rotary(f"{path}.rotary_emb", width, kind, buffers=(f"{kind}_inv_freq", f"{kind}_original_inv_freq"))
        for kind, width in sorted(widths.items())
    )


def turned(k: Keys, H: int, kinds: Sequence[str], factors: dict[str, float], *, missing: float = 1.0) -> dict[str, int]:
    """Elements of a head of ``H`` that the layers of each kind turn, as ``rope_parameters`` tells them apart.

    Args:
        k: the config.
        H: width of a head.
        kinds: of layers; one whose parameters are null turns nothing and is left out.
        factors: ``partial_rotary_factor`` of each where ``rope_parameters`` is absent.
        missing: that of a kind whose parameters do not tell it.
    """
    given, widths = k.inner("rope_parameters"), {}
    for kind in sorted(set(kinds)):
        if given is None:
            factor = factors.get(kind)
        elif kind in given.config:
            one = given.inner(kind)
            factor = None if one is None else one.want("partial_rotary_factor", missing)
        else:
            key = f"{k.path}rope_parameters.{kind}"
            raise ConfigError(f"{key} is missing", key=key)
        if factor is not None:
            widths[kind] = even(int(H * factor))
    return widths


def even(width: int) -> int:
    """The angles of an odd width are rounded up, and both halves are turned by them."""
    return width + width % 2


def ahead(
    layer: Layer,
    index: int,
    D: int,
    V: int,
    *,
    tables: bool = True,
    names: tuple[str, str, str] = ("enorm", "hnorm", "eh_proj"),
    last: str = "shared_head.norm",
    path: str = "",
) -> Iterator[Tensor]:
    """One layer of multi-token prediction: a layer with experts, two norms, a projection of both inputs.

    A checkpoint stores embedding and head with it once more; a model that runs it shares the main ones. For
    DeepSeek-V3 that is 13.46 B, of which 11.61 B are its own; its authors tell 14 and 11.5. GLM-4.6 leaves both out
    (https://github.com/ggml-org/llama.cpp/pull/16359), which its config does not tell: its stored sum is 1.55 B less.
    ``tables``: whether they are stored; ``names``: of the norms and the projection of the inputs; ``last``: the norm
    behind the layer; ``path``: where it stands, if not behind the model's own layers.
    References: arXiv:2412.19437, section 2.2; README_WEIGHTS.md in https://huggingface.co/deepseek-ai/DeepSeek-V3.
    """
    width, path = (("D", D),), path or f"model.layers.{index}."
    own: list[Tensor] = [t for t in layer.weights() if t.role != "buffer"]
    token, hidden, join = names
    own += Norm(token, width).weights()
    own += Norm(hidden, width).weights()
    own += Linear(join, (("X", 2), ("D", D)), width, "feed_forward").weights()
    own += Norm(last, width).weights()
    if tables:
        own.append(Tensor("embed_tokens.weight", (("V", V), ("D", D)), "embedding"))
        own.append(Tensor("shared_head.head.weight", (("V", V), ("D", D)), "head"))
    for tensor in own:
        yield tensor.placed(path, index)
