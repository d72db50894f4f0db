"""HRM-Text: two stacks that run in turns, each turn with a cache of its own."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.model import Layer, Model, Stack
from tonnage.arch.untraced import Untraced
from tonnage.families import Family
from tonnage.families._blocks import gated, normed_before
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``HrmTextForCausalLM`` builds.

    The low stack runs ``L_cycles`` times and the high one once in each of ``H_cycles``. ``num_hidden_layers`` counts
    all of that once ``num_layers_per_stack`` stands beside it, and the layers of a stack where it does not.
    """
    D, N, V = k.need("hidden_size"), k.need("num_attention_heads"), k.need("vocab_size")
    L = k.optional("num_layers_per_stack") or k.need("num_hidden_layers")
    k.skip("num_hidden_layers", "L_bp_cycles", "embedding_scale", "prefix_lm")
    high, low = k.size("H_cycles", 2), k.size("L_cycles", 3)
    bias, H = k.want("attention_bias", False), k.size("head_dim", 128)
    attention = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=N,
        H=H,
        bias=bias,
        o_bias=bias,
        dropout=k.want("attention_dropout", 0.0),
    )
    gate = Linear("self_attn.gate_proj", (("D", D),), (("N", N), ("H", H)), "attention", bias)
    mlp = gated(k, D, bias=k.want("mlp_bias", False))

    def layer(times: int, kind: str) -> Layer:
        block = Untraced(block=attention, what="stacks that run in turns", beside=tuple(gate.weights()), times=times)
        return normed_before(block, mlp, D, style="rms-bare", kind=kind)

    def stack(name: str, stem: Stem, layer: Layer) -> Stack:
        path = f"model.{name}_module"
        norm = Norm(f"{path}.final_norm", (("D", D),), "rms-bare", weight=False)
        return Stack(name=layer.kind, path=f"{path}.layers", stem=stem, layers=(layer,) * L, norm=norm)

    table = "model.embed_tokens"
    tied = k.want("tie_word_embeddings", False)
    words = Stem(name=table, V=V, D=D, rotary=(Rotary("model.rotary_emb", H),), scaled=True)
    return Model(
        model_type="hrm_text",
        stacks=(
            stack("L", words, layer(low * high, "low layer")),
            stack("H", Stem(name="", V=V, D=D), layer(high, "high layer")),
        ),
        head=Head(name="lm_head", D=D, V=V, alias_of=f"{table}.weight" if tied else None),
        positions=k.size("max_position_embeddings", 2048),
        extra=(Tensor("model.z_L_init", (("D", D),), "embedding"),),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/hrm_text/"
    "modeling_hrm_text.py",
)
