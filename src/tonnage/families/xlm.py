"""XLM and FlauBERT: an encoder whose parts stand in lists of their own, with an embedding of languages."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem, Table
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.errors import UnsupportedError
from tonnage.families import Family
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.keys import Keys
from tonnage.tensors import Tensor

UNUSED: Final = (
    "embed_init_std", "end_n_top", "start_n_top", "gelu_activation", "init_std", "lang_id", "layerdrop", "max_vocab",
    "min_count", "bos_index", "eos_index", "pad_index", "mask_index", "unk_index", "id2lang", "lang2id",
    "sinusoidal_embeddings", "share_inout_emb", "encoder_only", "asm_cutoffs", "asm_div_value", "amp", "bptt", "clip",
)  # fmt: skip
"""Numbers of tokens, initialisation, training and question answering."""


def read(k: Keys) -> Model:
    """Build the model that ``XLMWithLMHeadModel`` builds."""
    D, N, V = k.need("hidden_size"), k.need("num_attention_heads"), k.need("vocab_size")
    P, languages = k.size("max_position_embeddings", 512), k.size("n_langs", 1)
    k.refuse("asm")
    k.refuse("is_encoder", True)
    k.skip("is_encoder", *UNUSED)
    causal, dropout = k.want("causal", False), k.want("dropout", 0.1)
    pre_norm = k.want("pre_norm", False)
    tied = k.want("tie_word_embeddings", True)
    attention = GroupedQuery(
        name="attentions.#",
        D=D,
        N=N,
        K=N,
        H=k.divides("hidden_size", "num_attention_heads", D, N),
        q="q_lin",
        k="k_lin",
        v="v_lin",
        o="out_lin",
        bias=True,
        o_bias=True,
        rotary=None,
        causal=causal,
        dropout=k.want("attention_dropout", 0.1),
    )
    ends = (
        matrix("ffns.#.lin1", ("D", D), ("F", 4 * D), "feed_forward"),
        matrix("ffns.#.lin2", ("F", 4 * D), ("D", D), "feed_forward"),
    )
    first, second = layer_norm("layer_norm1.#", D), layer_norm("layer_norm2.#", D)
    blocks = counted("XLM", attention), counted("XLM", *ends)
    subs = (
        (Sublayer(block=blocks[0], before=first), Sublayer(block=blocks[1], before=second))
        if pre_norm
        else (Sublayer(block=blocks[0], of_sum=first), Sublayer(block=blocks[1], of_sum=second))
    )
    base = "transformer"
    tables: tuple[Table, ...] = (Table(name=f"{base}.position_embeddings", rows=P, width=D, buffered=True),)
    if k.want("use_lang_emb", True) and languages > 1:
        tables += (Table(name=f"{base}.lang_embeddings", rows=languages, width=D, buffered=True),)
    stem = Stem(
        name=f"{base}.embeddings",
        V=V,
        D=D,
        tables=tables,
        norm=layer_norm(f"{base}.layer_norm_emb", D),
        dropout=dropout,
        buffers=(Tensor(f"{base}.position_ids", (("X", 1), ("P", P)), "buffer", dtype="int64"),),
    )
    layers = (Layer(sublayers=subs),) * k.need("num_hidden_layers")
    alias = f"{base}.embeddings.weight" if tied else None
    return Model(
        model_type=str(k.config["model_type"]),
        stacks=(Stack(name="encoder", path=base, stem=stem, layers=layers, lists=True),),
        head=Head(name="pred_layer.proj", D=D, V=V, bias=True, alias_of=alias),
        positions=P,
        table=True,
        causal=causal,
    )


def classifies(k: Keys) -> Model:
    """Build what stands before the classifier, whose only matrix is the summary's."""
    for key in ("summary_use_proj", "summary_proj_to_labels"):
        if not k.want(key, True):
            raise UnsupportedError(
                f"a classifier with {key} = false is not modelled", key=key, value=False, file=k.file
            )
    model = read(k)
    return model.but(classifier=Head(name="sequence_summary.summary", D=model.width, V=1, bias=True))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/xlm/modeling_xlm.py",
    classes={"classify": classifies},
    attributes={
        "hidden_size": "emb_dim",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
        "vocab_size": "n_words",
    },
)
