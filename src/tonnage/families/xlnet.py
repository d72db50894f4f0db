"""XLNet: attention relative to positions, whose memory is the layers' earlier inputs (arXiv:1906.08237)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head, Stem
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.arch.parts import Memory
from tonnage.errors import ConfigError, UnsupportedError
from tonnage.families import Family
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.keys import Keys
from tonnage.tensors import Axes, Tensor


def read(k: Keys) -> Model:
    """Build the model that ``XLNetLMHeadModel`` builds."""
    D, N, V = k.need("hidden_size"), k.need("num_attention_heads"), k.need("vocab_size")
    H = k.divides("hidden_size", "num_attention_heads", D, N)
    if (k.optional("d_head") or H) != H:
        raise ConfigError(f"d_head must be d_model // n_head = {H}", key="d_head", value=k.config["d_head"])
    F, dropout = k.size("d_inner", 4096), k.want("dropout", 0.1)
    k.skip("attn_type", "bi_data", "clamp_len", "reuse_len", "same_length", "use_mems_train", "ff_activation")
    k.skip("end_n_top", "start_n_top", "summary_last_dropout", "untie_r", "init", "init_range", "mem_len", "use_mems")
    # A memory of no stated length keeps all tokens.
    memory = (Memory(D, k.optional("mem_len", int, 512) or None),) if k.want("use_mems_eval", True) else ()
    tied = k.want("tie_word_embeddings", True)
    heads: Axes = (("N", N), ("H", H))
    wide: Axes = (("D", D), *heads)
    tensors = [Tensor(f"rel_attn.{name}", wide, "attention") for name in ("q", "k", "v", "o", "r")]
    tensors += [Tensor(f"rel_attn.{name}", heads, "attention") for name in ("r_r_bias", "r_s_bias", "r_w_bias")]
    tensors.append(Tensor("rel_attn.seg_embed", (("X", 2), *heads), "attention"))
    attention = counted("XLNet's two streams of attention", *tensors, *memory)
    mlp = counted(
        "XLNet",
        matrix("ff.layer_1", ("D", D), ("F", F), "feed_forward"),
        matrix("ff.layer_2", ("F", F), ("D", D), "feed_forward"),
    )
    layer = Layer(
        sublayers=(
            Sublayer(block=attention, of_sum=layer_norm("rel_attn.layer_norm", D), dropout=dropout),
            Sublayer(block=mlp, of_sum=layer_norm("ff.layer_norm", D), dropout=dropout),
        )
    )
    table = "transformer.word_embedding"
    return Model(
        model_type="xlnet",
        stacks=(
            Stack(
                name="decoder",
                path="transformer.layer",
                stem=Stem(name=table, V=V, D=D, dropout=dropout),
                layers=(layer,) * k.need("num_hidden_layers"),
            ),
        ),
        head=Head(name="lm_loss", D=D, V=V, bias=True, alias_of=f"{table}.weight" if tied else None),
        positions=None,
        extra=(Tensor("transformer.mask_emb", (("X", 1), ("B", 1), ("D", D)), "embedding"),),
    )


def classifies(k: Keys) -> Model:
    """Build what stands before the classifier: a summary of the sequence."""
    if k.want("summary_proj_to_labels", False):
        raise UnsupportedError(
            "a classifier with summary_proj_to_labels = true is not modelled", key="summary_proj_to_labels", file=k.file
        )
    model = read(k)
    D = ("D", model.width)
    dense = matrix("sequence_summary.summary", D, D, "head") if k.want("summary_use_proj", True) else None
    return model.but(classifier=Head(name="logits_proj", D=D[1], V=1, bias=True, dense=dense, act="tanh"))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/xlnet/modeling_xlnet.py",
    classes={"classify": classifies},
    attributes={
        "hidden_size": "d_model",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
        "vocab_size": "n_token",
    },
)
