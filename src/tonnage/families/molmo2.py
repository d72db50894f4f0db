"""Molmo 2: Qwen 3's layers behind a tower whose patches are pooled by attention (arXiv:2409.17146)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.arch.parts import Part
from tonnage.arch.untraced import Untraced
from tonnage.errors import UnsupportedError
from tonnage.families import Family
from tonnage.families._blocks import gated
from tonnage.families._composite import read_inner
from tonnage.families._decoder import causal, heads
from tonnage.families._language import headed
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import feed_forward, repeated, tower
from tonnage.keys import Keys
from tonnage.tensors import Axis, Tensor

TEXT: Final[dict[str, Any]] = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
}
HEADS: Final[dict[str, Any]] = {"num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 72}
VISION: Final[dict[str, Any]] = {
    **HEADS,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 25,
    "num_channels": 3,
    "patch_size": 14,
}
ADAPTER: Final[dict[str, Any]] = {**HEADS, "hidden_size": 1152, "intermediate_size": 18944, "text_hidden_size": 3584}
PATH: Final = "model.language_model"


def read(k: Keys) -> Model:
    """Build ``Molmo2ForConditionalGeneration``."""
    # In configs of the first release the tower has another name and more layers than are kept.
    k.refuse("vit_config")
    names = {"attention_bias": "qkv_bias"}
    model = read_inner(k, "text_config", TEXT, _text, aliases=names, less=("model_type", "tie_word_embeddings"))
    images = read_inner(k, "vision_config", VISION, _vision, less=("model_type",))
    adapter = read_inner(k, "adapter_config", ADAPTER, _adapter, less=("model_type",))
    k.refuse("tie_word_embeddings")
    k.skip("image_patch_id")
    return headed(model, False, extra=images + adapter).but(model_type="molmo2")


def _text(k: Keys) -> Model:
    D, V, more = k.need("hidden_size"), k.need("vocab_size"), k.want("additional_vocab_size", 128)
    (N, K), H = heads(k), k.need("head_dim")
    kind, bias = k.want("qk_norm_type", "qwen3"), k.want("attention_bias", False)
    if kind not in ("qwen3", "olmo"):
        raise UnsupportedError(f"{k.path}qk_norm_type = {kind!r} is not modelled", key=f"{k.path}qk_norm_type")
    head: Axis = ("H", H)
    whole = kind == "olmo"
    token = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        bias=bias,
        q_norm=Norm("self_attn.q_norm", (("N", N), head) if whole else (head,)),
        k_norm=Norm("self_attn.k_norm", (("K", K), head) if whole else (head,)),
        dropout=k.want("attention_dropout", 0.0),
    )
    first, second = (Norm(name, (("D", D),)) for name in ("input_layernorm", "post_attention_layernorm"))
    after = k.want("norm_after", False)
    own, mlp = Untraced(block=token, what="Molmo 2's attention"), gated(k, D)
    layer = Layer(
        sublayers=(
            Sublayer(block=own, after=first) if after else Sublayer(block=own, before=first),
            Sublayer(block=mlp, after=second) if after else Sublayer(block=mlp, before=second),
        )
    )
    k.skip("rope_scaling_layers")
    model = causal(
        k,
        V=V,
        D=D,
        layers=(layer,) * k.need("num_hidden_layers"),
        norm=Norm(f"{PATH}.norm", (("D", D),)),
        rotary=(Rotary(f"{PATH}.rotary_emb", H), Rotary(f"{PATH}.rotary_emb_unscaled", H)),
        tied=False,
        positions=k.size("max_position_embeddings", 36864),
        path=PATH,
    )
    (stack,) = model.stacks
    return model.but(stacks=(stack.but(stem=stack.stem.but(rows=V + more)),))


def _matrices(k: Keys, name: str, ins: Axis, D: int) -> tuple[Part, ...]:
    """Attention of the tower or of the pooling: heads of a width of their own."""
    (N, K), head, bias = heads(k), ("H", k.need("head_dim")), k.want("attention_bias", True)
    return (
        Linear(f"{name}.q_proj", (ins,), (("N", N), head), "vision", bias),
        Linear(f"{name}.k_proj", (ins,), (("K", K), head), "vision", bias),
        Linear(f"{name}.v_proj", (ins,), (("K", K), head), "vision", bias),
        Linear(f"{name}.o_proj", (("N", N), head), (("D", D),), "vision", bias),
    )


def _vision(k: Keys) -> tuple[Tensor, ...]:
    D, F, patch = k.need("hidden_size"), k.need("intermediate_size"), k.need("patch_size")
    sides = k.config.get("image_size")
    k.skip("image_size", "hidden_act", "attention_dropout")
    high, wide = sides if isinstance(sides, list) and len(sides) == 2 else (378, 378)
    rows = k.optional("num_position_embeddings") or (high // patch) * (wide // patch)
    width = ("D", D)
    layer: tuple[Part, ...] = (
        *_matrices(k, "self_attn", width, D),
        layer_norm("layer_norm1", D),
        layer_norm("layer_norm2", D),
        *feed_forward("mlp", D, F),
    )
    path, pixels = "model.vision_tower", k.need("num_channels") * patch**2
    first = tower(
        "vision",
        path,
        Tensor("positional_embedding", (("P", rows), width), "vision"),
        matrix("patch_embedding", ("X", pixels), width, "vision"),
    )
    return first + repeated("vision", f"{path}.layers", k.need("num_hidden_layers"), *layer)


def _adapter(k: Keys) -> tuple[Tensor, ...]:
    """Attention that pools the patches of several layers, and a gated block to the language model's width."""
    D, F, outs = k.need("hidden_size"), k.need("intermediate_size"), k.need("text_hidden_size")
    taken, bias = k.optional("vision_feature_layer", list), k.want("mlp_bias", False)
    k.skip("hidden_act", "attention_dropout")
    ins = ("X", D * len([24, 18] if taken is None else taken))
    return tower(
        "vision",
        "model.multi_modal_projector",
        *_matrices(k, "image_pooling_2d", ins, D),
        matrix("image_projector.gate_proj", ("D", D), ("F", F), "vision", bias=bias),
        matrix("image_projector.up_proj", ("D", D), ("F", F), "vision", bias=bias),
        matrix("image_projector.down_proj", ("F", F), ("X", outs), "vision", bias=False),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/molmo2/modeling_molmo2.py",
)
