"""Step 3.7: attention with a gate for every head, experts beside a shared one, behind a tower.

The layers of multi-token prediction that its checkpoint stores are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.model import Model
from tonnage.arch.parts import Part, Parts
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._blocks import decoder
from tonnage.families._composite import nested, read_inner
from tonnage.families._decoder import chosen, window_of
from tonnage.families._experts import shared_expert, stacked, tables, turned, words
from tonnage.families._hybrid import FULL, SLIDING, whole_numbers
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import attention, convolution, feed_forward, repeated, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

TEXT: Final[dict[str, Any]] = {
    "vocab_size": 128815,
    "hidden_size": 4096,
    "intermediate_size": 11264,
    "num_hidden_layers": 45,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
}
NAMES: Final = {
    "num_key_value_heads": "num_attention_groups",
    "n_routed_experts": "moe_num_experts",
    "num_experts_per_tok": "moe_top_k",
    "share_expert_dim": "share_expert_dims",
    "num_nextn_predict_layers": "num_mtp_layers",
}
RELEASED: Final = {"hidden_size": "width", "num_hidden_layers": "layers", "num_attention_heads": "heads"}
"""Names of the tower's keys in the released config."""
PATH: Final = "model.language_model"


def read(k: Keys) -> Model:
    """Build the model that ``Step3p7ForConditionalGeneration`` builds."""
    model = read_inner(k, "text_config", TEXT, _text, aliases=NAMES, less=("model_type",))
    width, tensors = read_inner(k, "vision_config", {}, _images, aliases=RELEASED, less=("model_type",))
    bias, tied = k.want("projector_bias", False), k.want("tie_word_embeddings", False)
    projector = matrix("multi_modal_projector", ("X", width), ("D", model.width), "vision", bias=bias)
    k.skip("understand_projector_stride", "projector_type", "image_token_len", "patch_token_len", "im_start_token")
    k.skip("im_end_token", "im_patch_token")
    assert model.head is not None
    head = model.head.but(alias_of=f"{PATH}.embed_tokens.weight" if tied else None)
    return model.but(model_type="step3p7", head=head, extra=tensors + tower("vision", "model", projector))


def _text(k: Keys) -> Model:
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    H, act, norm = k.size("head_dim", 128), "silu", (("D", D),)
    kinds = _cut(k, "layer_types", L, (FULL, SLIDING)) or [FULL] * L
    heads, window = _heads(k, kinds), window_of(k)
    if SLIDING in kinds and window is None:
        raise ConfigError(
            "layer_types has sliding layers but there is no sliding_window", key=f"{k.path}sliding_window"
        )
    mlp_bias, gated = k.want("mlp_bias", False), _gated(k, D, H, window)
    k.skip("hidden_act", "num_local_experts", "query_pre_attn_scalar", "moe_router_scaling_factor", "swiglu_limits")
    k.skip("swiglu_limits_shared", "mtp_layer_types", "mtp_mlp_layer_types", "num_nextn_predict_layers", "rope_theta")
    k.skip("partial_rotary_factors", "tie_word_embeddings", "use_bidirectional_attention", "gating")
    layers = stacked(
        gated,
        list(zip(kinds, heads, strict=True)),
        _experts(k, D, act, mlp_bias),
        Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act, bias=mlp_bias),
        _routes(k, L),
        lambda name: Norm(name, norm, "rms-gemma"),
    )
    return decoder(
        k,
        D,
        layers,
        width=H,
        positions=128000,
        style="rms-gemma",
        path=PATH,
        rotary=tables(PATH, turned(k, H, kinds, dict.fromkeys(kinds, 1.0))),
    )


def _gated(k: Keys, D: int, H: int, window: int | None) -> Callable[[tuple[str, int]], Parts]:
    """Attention of a layer of a kind and with so many query heads."""
    K, bias, dropout = k.need("num_key_value_heads"), k.want("attention_bias", False), k.want("attention_dropout", 0.0)
    normed = (("H", H),)

    @cache
    def gated(seen: tuple[str, int]) -> Parts:
        kind, N = seen
        k.divides("num_attention_heads", "num_key_value_heads", N, K)
        token = GroupedQuery(
            name="self_attn",
            D=D,
            N=N,
            K=K,
            H=H,
            bias=bias,
            o_bias=bias,
            q_norm=Norm("self_attn.q_norm", normed, "rms-gemma"),
            k_norm=Norm("self_attn.k_norm", normed, "rms-gemma"),
            rotary=kind,
            window=window if kind == SLIDING else None,
            dropout=dropout,
        )
        gate = Linear("self_attn.g_proj", (("D", D),), (("N", N),), "attention")
        return Parts(what="attention with a gate for every head", parts=(token, gate))

    return gated


def _experts(k: Keys, D: int, act: str, bias: bool) -> Experts:
    E = k.size("n_routed_experts", 288)
    return Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 8),
        F=k.size("moe_intermediate_size", 1280),
        act=act,
        routing="own",
        corrected=Tensor("mlp.gate.e_score_correction_bias", (("Er", E),), "buffer"),
        shared=shared_expert(D, k.size("share_expert_dim", 1280), act, bias=bias),
    )


def _cut(k: Keys, key: str, layers: int, allowed: tuple[str, ...]) -> list[str] | None:
    """A word for every layer; the released config goes on with those of multi-token prediction."""
    stated, further = k.config.get(key), k.want("num_nextn_predict_layers", 0)
    longer = further and isinstance(stated, list) and len(stated) == layers + further
    found = words(k, key, layers + further if longer else layers, allowed)
    return None if found is None else found[:layers]


def _heads(k: Keys, kinds: list[str]) -> list[int]:
    """Query heads of every layer: those that slide may have more."""
    N = k.need("num_attention_heads")
    few = k.optional("num_sliding_attention_heads")
    other = nested(k, "attention_other_setting", _other)
    sliding = few or other or N
    told = k.config.get("per_layer_config")
    if not isinstance(told, Mapping):
        k.skip("per_layer_config")
        return [sliding if kind == SLIDING else N for kind in kinds]
    found = nested(k, "per_layer_config", lambda inner: _told(inner, len(kinds))) or {}
    return [found.get(i, N) for i in range(len(kinds))]


def _other(k: Keys) -> int | None:
    k.skip("attention_type", "num_attention_groups", "head_dim", "true_head_dim")
    return k.optional("num_attention_heads")


def _told(k: Keys, layers: int) -> dict[int, int]:
    found: dict[int, int] = {}
    for key in k.config:
        if not str(key).isdigit() or int(key) >= layers:
            raise ConfigError(f"{k.path}{key} is not one of the {layers} layers", key=f"{k.path}{key}", value=key)
        found[int(key)] = nested(k, key, lambda own: own.need("num_attention_heads")) or 0
    return found


def _routes(k: Keys, layers: int) -> tuple[bool, ...]:
    """Which layers have experts: as ``mlp_layer_types`` or ``moe_layers_enum`` says, else all but the first three."""
    stated = _cut(k, "mlp_layer_types", layers, ("dense", "sparse"))
    if stated is not None:
        k.skip("moe_layers_enum")
        return tuple(word == "sparse" for word in stated)
    listed = k.config.get("moe_layers_enum")
    if isinstance(listed, str):
        k.skip("moe_layers_enum")
        chosen = {int(i) for i in listed.split(",") if i.strip().isdigit()}
    else:
        some = whole_numbers(k, "moe_layers_enum")
        chosen = set(range(3, layers)) if some is None else set(some)
    return tuple(i in chosen for i in range(layers))


def _images(k: Keys) -> tuple[int, tuple[Tensor, ...]]:
    """Width and tensors of the tower: layers that scale what they add, two convolutions that join patches."""
    D, patch, path = k.size("hidden_size", 1536), k.size("patch_size", 14), "model.vision_model"
    H = k.divides("hidden_size", "num_attention_heads", D, k.size("num_attention_heads", 16))
    rows = (k.size("image_size", 728) // patch) ** 2
    # The inner width is a multiple, whatever the config says of it.
    F = int(D * k.want("mlp_ratio", 8960 / 1536, float))
    k.skip("intermediate_size", "hidden_act", "attention_dropout", "layer_scale_init_value", "ls_init_value")
    k.skip("max_position_embeddings", "use_cls_token", "use_ln_post", "use_abs_posemb", "use_rope2d", "output_dim")
    first = tower(
        "vision",
        path,
        *convolution("embeddings.patch_embedding", k.size("num_channels", 3), D, patch, patch, bias=False),
        Tensor("embeddings.position_embedding.weight", (("P", rows), ("D", D)), "vision"),
        Tensor("embeddings.position_ids", (("X", 1), ("P", rows)), "buffer", dtype="int64"),
        layer_norm("pre_layernorm", D),
        Rotary("rotary_emb", H // 2),
        *convolution("downsampler1", D, 2 * D, 3, 3),
        *convolution("downsampler2", 2 * D, 4 * D, 3, 3),
    )
    layer: tuple[Part | Tensor, ...] = (
        *(Tensor(f"lambda_{index}", (("D", D),), "vision") for index in (1, 2)),
        *attention("self_attn", D),
        *feed_forward("mlp", D, F),
        layer_norm("layernorm_before", D),
        layer_norm("layernorm_after", D),
    )
    return 4 * D, first + repeated("vision", f"{path}.layers", k.size("num_hidden_layers", 47), *layer)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/step3p7/"
    "modeling_step3p7.py",
)
