"""Beam: gated attention, positions in sliding layers only, four norms a layer and sums weighed by depth."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.model import Model
from tonnage.arch.untraced import Untraced
from tonnage.families import Family
from tonnage.families._decoder import causal, heads, window_of, windows
from tonnage.families._experts import even, routed, scored, stacked, tables, turned
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``BeamForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 8)
    H = k.size("head_dim", 128)
    norm, head, act, bias = (("D", D),), (("H", H),), k.want("hidden_act", "silu"), k.want("attention_bias", False)
    dropout = k.want("attention_dropout", 0.0)
    seen = windows(k, L, window_of(k, 512), lambda i: (i + 1) % 6 != 0 and i != L - 1)
    kinds = ["full_attention" if window is None else "sliding_attention" for window in seen]
    # The modelled code turns whole heads whatever the parameters say of a part.
    widths = {kind: even(H) for kind in turned(k, H, kinds, {"sliding_attention": 1.0})}

    def attention(window: int | None) -> Untraced:
        kind = "full_attention" if window is None else "sliding_attention"
        plain = GroupedQuery(
            name="self_attn",
            D=D,
            N=N,
            K=K,
            H=H,
            bias=bias,
            o_bias=bias,
            q_norm=Norm("self_attn.q_norm", head),
            k_norm=Norm("self_attn.k_norm", head),
            rotary=kind if kind in widths else None,
            window=window,
            dropout=dropout,
        )
        gate = Linear("self_attn.gate_proj", (("D", D),), (("N", N), ("H", H)), "attention")
        shift = Tensor("self_attn.gate_bias", (("N", N),), "attention")
        return Untraced(block=plain, what="attention with a gate", beside=(*gate.weights(), shift))

    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=stacked(
            attention,
            seen,
            scored(k, D, act, experts=256, used=8, width=2560, shared=None, key="num_experts"),
            Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act),
            routed(k, L, min(3, L)),
            lambda name: Norm(name, norm),
            names=(
                "input_layernorm",
                "post_attention_layernorm",
                "pre_feedforward_layernorm",
                "post_feedforward_layernorm",
            ),
        ),
        norm=Norm("model.norm", norm),
        rotary=tables("model", widths),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 8192),
        capped=k.optional("final_logit_softcapping", float, 30.0) is not None,
    ).but(fp32=("mlp.gate.weight",))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/beam/modeling_beam.py",
)
