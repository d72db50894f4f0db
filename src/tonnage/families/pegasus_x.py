"""PEGASUS-X: PEGASUS whose encoder attends to blocks and to a few global tokens (arXiv:2208.04347)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.arch.parts import Parts
from tonnage.families import Family
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.families._seq2seq import Builder, Style
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def _blocked(k: Keys, D: int, N: int) -> Parts:
    """Four matrices without biases, and the norm of the global tokens."""
    k.divides("d_model", "encoder_attention_heads", D, N)
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    parts = (matrix(f"self_attn.{name}", ("D", D), ("D", D), "attention", bias=False) for name in names)
    return counted("PEGASUS-X's attention", *parts, layer_norm("global_self_attn_layer_norm", D))


STYLE: Final = Style(
    last_norm=True,
    pre_norm=True,
    bias=False,
    table="none",
    logits_bias=False,
    encoder=_blocked,
    rows=16384,
    alone=False,
)


def read(k: Keys) -> Model:
    """Build ``PegasusXForConditionalGeneration``."""
    k.skip("block_size", "stagger_local_blocks", "gradient_checkpointing", "static_position_embeddings")
    k.skip("extra_pos_embeddings", "normalize_before", "normalize_embedding", "add_final_layer_norm", "add_bias_logits")
    k.skip("force_bos_token_to_be_generated", "output_past", "classif_dropout", "save_step")
    made = Builder(k, STYLE)
    tokens = (("P", k.size("num_global_tokens", 32)), ("D", made.D))
    return made.both(extra=(Tensor("model.encoder.embed_global.weight", tokens, "embedding"),))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/pegasus_x/"
    "modeling_pegasus_x.py",
    attributes={
        "d_model": "hidden_size",
        "encoder_attention_heads": "num_attention_heads",
        "encoder_layers": "num_hidden_layers",
    },
)
