"""NeoMME: an encoder of texts and pages, with patches of pixels beside a narrow embedding, and gated attention.

Norms hold nothing; two layers add an embedding of the tokens to their values.
"""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.ends import Head, Stem
from tonnage.arch.layers import Rotary
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._decoder import heads
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.families._towers import tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

TURNED: Final = {"full_attention": 0.25, "sliding_attention": 1.0}
"""Share of a head that is turned."""


def read(k: Keys) -> Model:
    """Build the model that ``NeoMMEForMaskedLM`` builds."""
    D, R, V = k.need("hidden_size"), k.size("embedding_rank", 256), k.need("vocab_size")
    _, K = heads(k, 4)
    H, tied = k.size("head_dim", 64), k.want("tie_word_embeddings", True)
    k.refuse("hidden_act", "relu2")
    k.skip("sliding_window", "per_layer_config", "attention_dropout", "embedding_dim", "hidden_act")
    words = "model.embed_tokens"
    stem = Stem(
        name=f"{words}.word_embeddings",
        V=V,
        D=D,
        width=R,
        project=f"{words}.embedding_projection",
        rotary=_rotary(k, H),
    )
    up = Tensor(
        "unembedding_projection.weight",
        (("D", D), ("R", R)),
        "head",
        alias_of=f"{words}.embedding_projection.weight" if tied else None,
    )
    layers = (_layer(k, D, K, H),) * k.need("num_hidden_layers")
    return Model(
        model_type="neomme",
        stacks=(Stack(name="encoder", path="model.layers", stem=stem, layers=layers),),
        head=Head(
            name="lm_head",
            D=R,
            V=V,
            alias_of=f"{words}.word_embeddings.weight" if tied else None,
            extra=(up,),
        ),
        positions=k.size("max_position_embeddings", 16384),
        causal=False,
        extra=(*_patches(k, D), Tensor("model.value_embeddings.weight", (("V", V), ("K", K * H)), "embedding")),
    )


def _rotary(k: Keys, H: int) -> tuple[Rotary, ...]:
    """A table for each kind of layer; the first and the last full layer are those with an embedding for values."""
    L = k.need("num_hidden_layers")
    kinds = k.texts("layer_types", L) or [
        "full_attention" if (i + 1) % 6 == 0 or i == L - 1 else "sliding_attention" for i in range(L)
    ]
    if not set(kinds) <= set(TURNED) or "full_attention" not in kinds:
        raise ConfigError(
            "layer_types are full_attention, at least once, and sliding_attention",
            key="layer_types",
            value=sorted(set(kinds)),
            file=k.file,
        )
    given: Any = k.config.get("rope_parameters") or {}
    made: list[Rotary] = []
    for kind in sorted(set(kinds)):
        stated = given.get(kind) if isinstance(given, dict) else None
        share = stated.get("partial_rotary_factor", TURNED[kind]) if isinstance(stated, dict) else TURNED[kind]
        if not isinstance(share, int | float) or not 0 < share <= 1:
            raise ConfigError(
                f"rope_parameters.{kind}.partial_rotary_factor = {share} is not a share", key="rope_parameters"
            )
        names = (f"{kind}_inv_freq", f"{kind}_original_inv_freq")
        made.append(Rotary("model.rotary_emb", int(H * share), kind, buffers=names))
    return tuple(made)


def _layer(k: Keys, D: int, K: int, H: int) -> Layer:
    """Gated attention that leaves a token's own value out, and a plain feed-forward block."""
    N, F = k.need("num_attention_heads"), k.need("intermediate_size")
    biased, mlp = k.want("attention_bias", False), k.want("mlp_bias", False)
    path, inner, shared = "self_attn", ("N", N * H), ("K", K * H)
    token = (
        matrix(f"{path}.q_proj", ("D", D), inner, "attention", bias=biased),
        matrix(f"{path}.k_proj", ("D", D), shared, "attention", bias=biased),
        matrix(f"{path}.v_proj", ("D", D), shared, "attention", bias=biased),
        matrix(f"{path}.output_projection.gate_proj", ("D", D), inner, "attention", bias=False),
        matrix(f"{path}.output_projection.o_proj", inner, ("D", D), "attention", bias=biased),
        Tensor(f"{path}.exclusive_self_attention.alpha", (("N", N),), "attention"),
        Tensor("lambdas", (("X", 2),), "attention"),
    )
    channel = (
        matrix("mlp.up_proj", ("D", D), ("F", F), "feed_forward", bias=mlp),
        matrix("mlp.down_proj", ("F", F), ("D", D), "feed_forward", bias=mlp),
    )
    return Layer(sublayers=(Sublayer(block=counted("NeoMME", *token)), Sublayer(block=counted("NeoMME", *channel))))


def _patches(k: Keys, D: int) -> tuple[Tensor, ...]:
    """What makes tokens of squares of pixels."""
    pixels = 3 * k.size("patch_size", 32) ** 2
    return tower(
        "vision",
        "model.patch_embeddings",
        layer_norm("norm", pixels),
        matrix("up_proj", ("X", pixels), ("F", 2 * D), "vision", bias=False),
        matrix("down_proj", ("F", 2 * D), ("D", D), "vision"),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/neomme/modeling_neomme.py",
)
