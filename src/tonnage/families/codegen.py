"""CodeGen: GPT-J's structure with queries, values and keys in one matrix."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem
from tonnage.arch.feedforward import Plain
from tonnage.arch.layers import Norm
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``CodeGenForCausalLM`` builds. Its heads lie in the packed matrix in four groups."""
    D, N = k.need("hidden_size"), k.need("num_attention_heads")
    V, L, P = k.need("vocab_size"), k.need("num_hidden_layers"), k.size("max_position_embeddings", 2048)
    H, turned = k.divides("n_embd", "n_head", D, N), k.size("rotary_dim", 64)
    if turned > H or N % 4:
        key, value = ("rotary_dim", turned) if turned > H else ("n_head", N)
        raise ConfigError(f"{key} = {value} does not fit {N} heads of {H} in four groups", key=key, value=value)
    dropout = k.want("resid_pdrop", 0.0)
    norm = (("D", D),)
    k.skip("n_ctx", "rotary", "scale_attn_weights")
    attention = GroupedQuery(
        name="attn",
        D=D,
        N=N,
        K=N,
        H=H,
        fused="qkv_proj",
        fused_order="blocks",
        o="out_proj",
        rotary=None,
        rotary_width=turned,
        angles=P,
        wide_angles=True,
        dropout=k.want("attn_pdrop", 0.0),
        o_dropout=dropout,
        eager="fp32-scores",
        buffers=(Tensor("attn.embed_positions", (("P", P), ("X", turned)), "buffer", dtype="fp32"),),
    )
    mlp = Plain(
        name="mlp",
        D=D,
        F=k.optional("n_inner") or 4 * D,
        act=k.want("activation_function", "gelu_new"),
        up="fc_in",
        down="fc_out",
        dropout=dropout,
    )
    layer = Layer(
        sublayers=(Sublayer(block=attention), Sublayer(block=mlp)),
        norm=Norm("ln_1", norm, "layer", bias=True),
        parallel=True,
        carries=True,
    )
    tied = k.want("tie_word_embeddings", False)
    return Model(
        model_type="codegen",
        stacks=(
            Stack(
                name="decoder",
                path="transformer.h",
                stem=Stem(name="transformer.wte", position_ids="row", V=V, D=D, dropout=k.want("embd_pdrop", 0.0)),
                layers=(layer,) * L,
                norm=Norm("transformer.ln_f", norm, "layer", bias=True),
            ),
        ),
        head=Head(name="lm_head", D=D, V=V, bias=True, alias_of="transformer.wte.weight" if tied else None),
        positions=P,
        table=True,
        eager_only=True,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/codegen/"
    "modeling_codegen.py",
    attributes={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
)
