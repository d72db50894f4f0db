"""GLM-5.3: Kimi delta attention, latent attention over pools of tokens in every fourth layer, several streams.

The layers of multi-token prediction that its checkpoint stores are not counted.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from tonnage.arch.attention import Latent
from tonnage.arch.feedforward import Gated
from tonnage.arch.indexed import IndexKeys
from tonnage.arch.mixers.delta import KimiDelta
from tonnage.arch.model import Layer, Model
from tonnage.arch.parts import Loose, Part, Parts
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._blocks import decoder, normed_before
from tonnage.families._composite import nested, read_inner
from tonnage.families._decoder import latent
from tonnage.families._experts import routed, scored, words
from tonnage.families._hybrid import FULL, LINEAR
from tonnage.families._indexed import indexer
from tonnage.families._streams import streams
from tonnage.families.towers import seen
from tonnage.keys import Keys
from tonnage.tensors import Tensor

TEXT: Final[dict[str, Any]] = {
    "vocab_size": 154880,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 45,
    "num_attention_heads": 64,
}
INDEXED: Final = "indexed_attention"
PATH: Final = "model.language_model"
WIDE: Final = (
    "conv1d", "dt_bias", "A_log", "attn_hc.base", "attn_hc.scale", "ffn_hc.base", "ffn_hc.scale",
)  # fmt: skip
"""What transformers loads in fp32."""


def read(k: Keys) -> Model:
    """Build the model that ``Glm5NextForConditionalGeneration`` builds."""
    flat = k.config.get("text_config") is None and k.config.get("hidden_size") is not None
    named = {"n_routed_experts": "num_local_experts"}
    model = _text(k) if flat else read_inner(k, "text_config", TEXT, _text, aliases=named, less=("model_type",))
    k.skip("text_config")
    if not flat:
        # What is written back of a release whose keys stood around keeps them there as well.
        stated = k.config.get("text_config") or {}
        k.skip(*(key for key, value in k.config.items() if key in stated and stated[key] == value))
    _, tensors = seen(k, "model.visual", "glm5_next_vision", fixed=True)
    tied = k.want("tie_word_embeddings", False)
    assert model.head is not None
    head = model.head.but(alias_of=f"{PATH}.embed_tokens.weight" if tied else None)
    return model.but(model_type="glm5_next", head=head, extra=tensors, fp32=WIDE)


def _text(k: Keys) -> Model:
    D, L, M = k.need("hidden_size"), k.need("num_hidden_layers"), k.size("hc_mult", 4)
    kinds = words(k, "layer_types", L, (LINEAR, INDEXED, FULL)) or [INDEXED if i % 4 == 3 else LINEAR for i in range(L)]
    act = k.want("hidden_act", "silu")
    delta, full = _delta(k, D), latent(k, D, style="none", q_rank=1536, kv_rank=512, nope=256, rope=0, VH=256)
    if full.rope:
        key = f"{k.path}qk_rope_head_dim"
        raise ConfigError(f"{key} = {full.rope}: this attention has no positions", key=key, value=full.rope)
    pooled = _pooled(k, D, full)
    sparse = scored(k, D, act, experts=288, used=8, width=2048)
    dense = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act)
    k.skip("index_kpool_always_select_tail", "swiglu_limit", "linear_lower_bound", "hc_eps", "hc_sinkhorn_iters")
    k.skip("tie_word_embeddings", "first_k_dense_replace", "num_nextn_predict_layers")
    mixes = {name: streams(f"{name}_hc", D, M, (2 + M) * M, 3, "attention") for name in ("attn", "ffn")}

    @cache
    def layer(kind: str, own: bool, routes: bool) -> Layer:
        token: tuple[Part, ...] = (delta,) if kind == LINEAR else (full, *pooled) if own else (full,)
        return normed_before(
            Parts(what="attention of several streams", parts=(*token, mixes["attn"])),
            Parts(what="a clamped feed-forward of several streams", parts=(sparse if routes else dense, mixes["ffn"])),
            D,
            kind=("delta attention" if kind == LINEAR else "attention over pools")
            + (" with experts" if routes else ""),
        )

    return decoder(
        k,
        D,
        tuple(map(layer, kinds, _owners(k, L), routed(k, L, 3))),
        width=1,
        positions=1048576,
        path=PATH,
        rotary=(),
    )


def _delta(k: Keys, D: int) -> KimiDelta:
    found = (k.size("linear_num_heads", 64), k.size("linear_head_dim", 128), k.size("linear_conv_kernel_dim", 4))
    N, H, C = nested(k, "linear_attn_config", lambda inner: _released(inner, found)) or found
    return KimiDelta(name="self_attn", D=D, N=N, H=H, C=C, flat=True)


def _released(k: Keys, sizes: tuple[int, int, int]) -> tuple[int, int, int]:
    k.skip("gate_lower_bound", "safe_gate", "kda_layers", "full_attn_layers")
    return k.size("num_heads", sizes[0]), k.size("head_dim", sizes[1]), k.size("short_conv_kernel_size", sizes[2])


def _pooled(k: Keys, D: int, full: Latent) -> tuple[Part, ...]:
    """The indexer: it keeps a key and a gate of the same width for every token, and whether it counts."""
    chooses, pool = indexer(k, D, full.q_rank, 32), k.size("index_kpool", 16)
    H = chooses.H
    joins = (
        Tensor("self_attn.indexer.index_kpool_compress_ape", (("X", pool), ("H", H)), "attention"),
        Tensor("self_attn.indexer.index_kpool_compress_gate", (("H", H), ("D", D)), "attention"),
    )
    return Loose(tuple(chooses.weights())), Loose(joins), IndexKeys(2 * H + 1)


def _owners(k: Keys, layers: int) -> tuple[bool, ...]:
    """Which layers have an indexer of their own."""
    stated = words(k, "indexer_types", layers, ("full", "shared"))
    pattern = k.optional("index_topk_pattern", str)
    often, first = k.want("index_topk_freq", 1), k.want("index_skip_topk_offset", 2)
    if stated is not None:
        return tuple(word == "full" for word in stated)
    if pattern is not None:
        if len(pattern) != layers or set(pattern) - set("FS"):
            key = f"{k.path}index_topk_pattern"
            raise ConfigError(f"{key} must have an F or an S for each of {layers} layers", key=key, value=pattern)
        return tuple(letter == "F" for letter in pattern)
    return tuple(max(i - first + 1, 0) % max(often, 1) == 0 for i in range(layers))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/glm5_next/"
    "modeling_glm5_next.py",
    attributes={"n_routed_experts": "num_local_experts"},
)
