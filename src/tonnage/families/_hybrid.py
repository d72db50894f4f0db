"""What models share whose layers attend, recur or only transform: which layer is of which kind, their mixers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.gated import GatedAttention
from tonnage.arch.gated import parts as gated_parts
from tonnage.arch.layers import Linear, Norm, NormStyle
from tonnage.arch.mixers.delta import DeltaStyle, GatedDelta, KimiDelta
from tonnage.arch.mixers.mamba_heads import MambaHeads
from tonnage.arch.mixers.recurrent import Mamba2
from tonnage.arch.model import Block, Layer, Model, Sublayer
from tonnage.arch.parts import KeyValues, Loose, Part, Parts
from tonnage.errors import ConfigError, UnsupportedError
from tonnage.families._blocks import normed_before
from tonnage.families._decoder import chosen, heads, rotary_width
from tonnage.keys import Keys
from tonnage.tensors import Tensor

FULL: Final = "full_attention"
SLIDING: Final = "sliding_attention"
LINEAR: Final = "linear_attention"
HYBRID: Final = "hybrid"

KIMI: Final = {
    "max_position_embeddings": "model_max_length",
    "norm_topk_prob": "moe_renormalize",
    "n_group": "num_expert_group",
    "num_local_experts": "num_experts",
    "num_experts_per_tok": "num_experts_per_token",
    "n_shared_experts": "num_shared_experts",
}
"""Other names of keys in the configs of Kimi Linear and Ling."""

LEGACY: Final = {"mamba": LINEAR, "attention": FULL}
"""Older names of kinds of layer."""


def layer_kinds(
    k: Keys,
    layers: int,
    default: Callable[[int], str],
    allowed: tuple[str, ...] = (LINEAR, FULL),
    *,
    key: str = "layer_types",
) -> tuple[str, ...]:
    """The kind of every layer: as ``key`` lists them, else as ``default`` tells."""
    found = k.texts(key, layers)
    kinds = tuple(default(i) for i in range(layers)) if found is None else tuple(LEGACY.get(t, t) for t in found)
    for kind in kinds:
        if kind not in allowed:
            raise UnsupportedError(f"{k.path}{key}: {kind!r} is not modelled in this family", key=key, value=kind)
    return kinds


def whole_numbers(k: Keys, key: str) -> list[int] | None:
    """A list of whole numbers, such as indices of layers."""
    found = k.optional(key, list)
    if found is not None and not all(isinstance(v, int) and not isinstance(v, bool) for v in found):
        raise ConfigError(f"{k.path}{key} must be a list of whole numbers", key=k.path + key, value=found, file=k.file)
    return found


def every_fourth(k: Keys) -> Callable[[int], str]:
    """Full attention in every fourth layer, or as often as ``full_attention_interval`` says (Qwen)."""
    step = k.want("full_attention_interval", 4)
    if step < 1:
        raise ConfigError("full_attention_interval is not a sensible size", key="full_attention_interval", value=step)
    return lambda i: LINEAR if (i + 1) % step else FULL


def gated_delta(
    k: Keys, D: int, style: DeltaStyle, *, K: int = 16, N: int = 32, H: int = 128, VH: int = 128
) -> GatedDelta:
    """A gated delta net as Qwen's configs describe it; defaults are transformers'."""
    mixer = GatedDelta(
        name="linear_attn",
        D=D,
        K=k.size("linear_num_key_heads", K),
        N=k.size("linear_num_value_heads", N),
        H=k.size("linear_key_head_dim", H),
        VH=k.size("linear_value_head_dim", VH),
        C=k.size("linear_conv_kernel_dim", 4),
        style=style,
        act=k.want("hidden_act", "silu"),
    )
    k.divides("linear_num_value_heads", "linear_num_key_heads", mixer.N, mixer.K)
    return mixer


def gated_attention(
    k: Keys, D: int, *, K: int, H: int, style: NormStyle = "rms-gemma", turned: float | None = None
) -> GatedAttention:
    """Attention whose output is weighed by a gate that the query projection makes with the queries (Qwen3-Next)."""
    N, K = heads(k, K)
    H = k.size("head_dim", H)
    bias = k.want("attention_bias", False)
    dropout, path = k.want("attention_dropout", 0.0), "self_attn"
    width = H if turned is None else rotary_width(k, H, turned)
    inner = GroupedQuery(name=path, D=D, N=N, K=K, H=H, bias=bias, dropout=dropout, rotary_width=width)
    norms = (Norm(f"{path}.{part}_norm", (("H", H),), style) for part in "qk")
    return GatedAttention(
        what="gated attention", parts=gated_parts(inner, *norms), inner=inner, modelled=turned is not None
    )


def mamba2(
    k: Keys, D: int, *, inner: int | None = None, name: str = "mamba", Z: int = 256, normed: bool = True
) -> Mamba2:
    """A Mamba 2 mixer as Bamba's configs describe it; ``inner`` is the inner width where the config tells it."""
    I = inner or k.size("mamba_expand", 2) * D  # noqa: E741
    k.skip("mamba_expand", "time_step_limit")
    N = k.size("mamba_n_heads", 128)
    told = k.config.get("mamba_d_head", "auto")
    even = k.divides("the inner width", "mamba_n_heads", I, N)
    H = even if told == "auto" and k.want("mamba_d_head", "auto") else k.need("mamba_d_head")
    if even != H:
        raise ConfigError(f"mamba_n_heads x mamba_d_head = {N * H}, not {I}", key="mamba_d_head", value=H)
    mixer = Mamba2(
        name=name,
        D=D,
        N=N,
        H=H,
        G=k.size("mamba_n_groups", 1),
        Z=k.size("mamba_d_state", Z),
        C=k.size("mamba_d_conv", 4),
        chunk=k.size("mamba_chunk_size", 256),
        act=k.want("hidden_act", "silu"),
        bias=k.want("mamba_proj_bias", False),
        conv_bias=k.want("mamba_conv_bias", True),
        normed=normed,
    )
    k.divides("mamba_n_heads", "mamba_n_groups", N, mixer.G)
    return mixer


def kimi_layers(
    k: Keys, D: int, kinds: tuple[str, ...], delta: KimiDelta, full: Block, *, dense: int, F: int, E: int
) -> tuple[tuple[Layer, ...], Layer]:
    """Layers of Kimi Linear and Ling: the first ``dense`` ones without experts unless ``mlp_layer_types`` says others.

    Beside them a layer of full attention with experts, such as predicts a further token. ``F`` and ``E`` are
    transformers' defaults of the experts' width and number.
    """
    act = k.want("hidden_act", "silu")
    F = k.size("moe_intermediate_size", F)
    E = k.size("num_local_experts", E)
    shared = Gated(name="mlp.shared_experts", D=D, F=F * k.size("n_shared_experts", 1), act=act, role="shared_expert")
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 8),
        F=F,
        act=act,
        routing="sigmoid",
        normalised=k.want("norm_topk_prob", True),
        # In the format of the model: Ling's class alone keeps it in fp32.
        corrected=Tensor("mlp.gate.e_score_correction_bias", (("Er", E),), "buffer"),
        shared=shared,
    )
    mlp = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act)
    k.skip("n_group", "topk_group", "routed_scaling_factor", "moe_layer_freq", "moe_router_activation_func")
    k.skip("use_grouped_topk", "mla_use_nope", "rope_parameters")
    first = k.want("first_k_dense_replace", dense)

    @cache
    def layer(kind: str, channel: str) -> Layer:
        name = "attention" if kind == FULL else "delta attention"
        return normed_before(
            full if kind == FULL else delta,
            experts if channel == "sparse" else mlp,
            D,
            kind=f"{name} with experts" if channel == "sparse" else f"dense {name}",
        )

    channels = layer_kinds(
        k, len(kinds), lambda i: "dense" if i < first else "sparse", ("dense", "sparse"), key="mlp_layer_types"
    )
    return tuple(map(layer, kinds, channels)), layer(FULL, "sparse")


def kimi_released(
    k: Keys, layers: int, sizes: tuple[int, int, int]
) -> tuple[tuple[int, int, int], tuple[str, ...] | None]:
    """Sizes and kinds of layer as the released checkpoint tells them: layers are counted from one."""
    sizes = (
        k.size("num_heads", sizes[0]),
        k.size("head_dim", sizes[1]),
        k.size("short_conv_kernel_size", sizes[2]),
    )
    full, linear = k.optional("full_attn_layers", list), k.optional("kda_layers", list)
    if full is None or linear is None:
        return sizes, None
    if sorted([*full, *linear]) != list(range(1, layers + 1)):
        raise ConfigError(
            f"{k.path}full_attn_layers and kda_layers are not the {layers} layers",
            key=f"{k.path}full_attn_layers",
            value=full,
        )
    return sizes, tuple(FULL if i + 1 in full else LINEAR for i in range(layers))


def untied(model: Model) -> Model:
    """The model with a head of its own: transformers' class ties nothing, whatever its config says."""
    return model if model.head is None else model.but(head=model.head.but(alias_of=None))


def wide_attention(k: Keys, path: str, D: int, K: int | None, wide: int, H: int | None = None) -> tuple[Part, ...]:
    """Attention over the hidden state beside the embedding: ``wide`` elements of a token go in, ``D`` come out (Zamba).

    ``K`` is the default number of key/value heads; a head of ``2 D / N`` elements where ``H`` tells none.
    """
    N, K = heads(k, K)
    H = H or k.divides("2 x hidden_size", "num_attention_heads", 2 * D, N)
    k.skip("attention_dropout")
    ins = (("D", wide),)
    return (
        Linear(f"{path}.q_proj", ins, (("N", N), ("H", H)), "attention"),
        Linear(f"{path}.k_proj", ins, (("K", K), ("H", H)), "attention"),
        Linear(f"{path}.v_proj", ins, (("K", K), ("H", H)), "attention"),
        Linear(f"{path}.o_proj", (("N", N), ("H", H)), (("D", D),), "attention"),
        KeyValues(K=K, H=H),
    )


def again(parts: tuple[Part, ...], layer: str) -> tuple[Part, ...]:
    """The same block in a later layer: it shares the tensors of the one in ``layer`` and keeps a cache of its own."""
    tensors = tuple(t.but(alias_of=f"{layer}{t.name}") for part in parts for t in part.weights())
    return (Loose(tensors=tensors), *(part for part in parts if isinstance(part, KeyValues)))


def zamba_layers(
    D: int, kinds: tuple[str, ...], mixer: Mamba2 | MambaHeads, blocks: list[tuple[Part, ...]]
) -> tuple[Layer, ...]:
    """Layers of Zamba: a mixer, in hybrid layers behind the shared block and a matrix; ``blocks`` are their blocks."""
    width = (("D", D),)
    mamba = Layer(sublayers=(Sublayer(block=mixer, before=Norm("input_layernorm", width)),), kind="mamba")
    below = Sublayer(block=mixer.but(name="mamba_decoder.mamba"), before=Norm("mamba_decoder.input_layernorm", width))

    @cache
    def hybrid(block: tuple[Part, ...]) -> Layer:
        linear = Linear("linear", width, width, "attention")
        shared = Parts(what="a shared block of Zamba", parts=(*block, linear))
        return Layer(sublayers=(Sublayer(block=shared), below), kind="hybrid")

    left = iter(blocks)
    return tuple(mamba if kind == LINEAR else hybrid(next(left)) for kind in kinds)
