"""GPT-BigCode (SantaCoder, StarCoder): GPT-2's structure with one key and value head for all queries."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem, Table
from tonnage.arch.feedforward import Plain
from tonnage.arch.layers import Norm
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.families import Family
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``GPTBigCodeForCausalLM`` builds."""
    D, N = k.need("hidden_size"), k.need("num_attention_heads")
    V, L, P = k.need("vocab_size"), k.need("num_hidden_layers"), k.size("max_position_embeddings", 1024)
    dropout = k.want("resid_pdrop", 0.1)
    norm = (("D", D),)
    k.refuse("add_cross_attention")
    k.skip("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "scale_attn_weights", "num_key_value_heads")
    # Left over from the server that the first models were made for.
    k.skip("inference_runner", "max_batch_size", "max_sequence_length", "pad_key_length", "pre_allocate_kv_cache")
    k.skip("validate_runner_input", "n_ctx")
    multi = k.want("multi_query", True)
    attention = GroupedQuery(
        name="attn",
        D=D,
        N=N,
        K=1 if multi else N,
        H=k.divides("n_embd", "n_head", D, N),
        fused="c_attn",
        fused_order="split" if multi else "chunk",
        o="c_proj",
        bias=True,
        o_bias=True,
        rotary=None,
        dropout=k.want("attn_pdrop", 0.1),
        o_dropout=dropout,
    )
    mlp = Plain(
        name="mlp",
        D=D,
        F=k.optional("n_inner") or 4 * D,
        act=k.want("activation_function", "gelu_pytorch_tanh"),
        up="c_fc",
        down="c_proj",
        dropout=dropout,
    )
    layer = Layer(
        sublayers=(
            Sublayer(block=attention, before=Norm("ln_1", norm, "layer", bias=True), holds=True),
            Sublayer(block=mlp, before=Norm("ln_2", norm, "layer", bias=True), holds_input=True),
        )
    )
    tied = k.want("tie_word_embeddings", True)
    return Model(
        model_type="gpt_bigcode",
        stacks=(
            Stack(
                name="decoder",
                path="transformer.h",
                stem=Stem(
                    name="transformer.wte",
                    V=V,
                    D=D,
                    tables=(Table(name="transformer.wpe", rows=P, width=D),),
                    dropout=k.want("embd_pdrop", 0.1),
                    buffers=(Tensor("transformer.bias", (("P", P), ("P", P)), "buffer", dtype="bool"),),
                ),
                layers=(layer,) * L,
                norm=Norm("transformer.ln_f", norm, "layer", bias=True),
            ),
        ),
        head=Head(name="lm_head", D=D, V=V, alias_of="transformer.wte.weight" if tied else None),
        positions=P,
        table=True,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gpt_bigcode/"
    "modeling_gpt_bigcode.py",
    attributes={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
)
