"""Flint: sinks, positions in sliding layers only, sigmoid experts beside a shared one, two dense layers first."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, NormStyle, Rotary
from tonnage.arch.model import Model
from tonnage.arch.untraced import Untraced
from tonnage.families import Family
from tonnage.families._decoder import causal, chosen, every, heads, window_of, windows
from tonnage.families._experts import shared_expert, stacked
from tonnage.keys import Keys

STYLE: Final[NormStyle] = "rms-fp32-weight"


def read(k: Keys) -> Model:
    """Build the model that ``FlintForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 4)
    H = k.size("head_dim", 128)
    head, act, dropout = (("H", H),), k.want("hidden_act", "silu"), k.want("attention_dropout", 0.0)
    bias, window = k.want("attention_bias", False), window_of(k, 513)
    seen = windows(k, L, window, lambda i: not (i < 2 or i % 4 == 1 or i == L - 1))
    E = k.size("num_experts", 256)
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 6),
        F=k.size("moe_intermediate_size", 512),
        act=act,
        routing="own",
        normalised=k.want("norm_topk_prob", True),
        shared=shared_expert(D, k.size("shared_expert_intermediate_size", 1024), act, name="mlp.shared_expert"),
    )
    step, dense = every(k, "decoder_sparse_step", 1), k.optional("mlp_only_layers", list)
    dense = [0, 1] if dense is None else dense

    def attention(window: int | None) -> Untraced:
        plain = GroupedQuery(
            name="self_attn",
            D=D,
            N=N,
            K=K,
            H=H,
            bias=bias,
            o_bias=bias,
            q_norm=Norm("self_attn.q_norm", head, STYLE),
            k_norm=Norm("self_attn.k_norm", head, STYLE),
            rotary=None if window is None else "default",
            window=window,
            sinks=True,
            eager="sinks",
            dropout=dropout,
        )
        return Untraced(block=plain, what="attention with sinks in fp32")

    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=stacked(
            attention,
            seen,
            experts,
            Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act),
            tuple(i not in dense and (i + 1) % step == 0 for i in range(L)),
            lambda name: Norm(name, (("D", D),), STYLE),
        ),
        norm=Norm("model.norm", (("D", D),), STYLE),
        rotary=(Rotary("model.rotary_emb", H),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 262144),
        eager_only=True,
        masks=(None, window) if window is not None else (),
    ).but(fp32=("gate.weight", "sinks"))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/flint/modeling_flint.py",
)
