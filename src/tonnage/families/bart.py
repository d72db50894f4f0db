"""BART and its relatives: encoder and decoder with learned or fixed positions and plain feed-forward blocks.

The causal class of each is its decoder alone, cross attention included. ``STYLES`` says what differs.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.families import Family
from tonnage.families._pieces import matrix
from tonnage.families._seq2seq import M2M_100, Builder, Style
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def _sparse(k: Keys, D: int, N: int) -> Part:
    """BigBird's attention: its matrices have no biases but where ``use_bias`` gives them some."""
    bias = k.want("use_bias", False)
    return GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=N,
        H=k.divides("d_model", "encoder_attention_heads", D, N),
        q="self.query",
        k="self.key",
        v="self.value",
        o="output",
        bias=bias,
        o_bias=bias,
        rotary=None,
        causal=False,
    )


COUNTED_ON: Final = ("each", "all")
COUNTED: Final = ("once", "named")
"""How positions are counted in encoder and decoder: with an offset, and without."""

STYLES: Final[dict[str, Style]] = {
    "bart": Style(offset=2, embedding_norm=True, modelled=True, counted=COUNTED_ON),
    "bigbird_pegasus": Style(
        act="gelu_new",
        embedding_norm=True,
        pre_norm=True,
        bias=None,
        ties_decoder=False,
        encoder=_sparse,
        rows=4096,
    ),
    "blenderbot": Style(last_norm=True, pre_norm=True, rows=128, modelled=True, counted=COUNTED),
    "blenderbot-small": Style(embedding_norm=True, rows=512, modelled=True, counted=COUNTED, scales="code"),
    "m2m_100": M2M_100,
    "mbart": Style(offset=2, embedding_norm=True, last_norm=True, pre_norm=True, modelled=True, counted=COUNTED_ON),
    "mvp": Style(offset=2, embedding_norm=True, scales="code"),
    "pegasus": Style(last_norm=True, pre_norm=True, table="fixed", modelled=True, counted=COUNTED, scales="code"),
    "plbart": Style(attention_dropout=0.1, offset=2, embedding_norm=True, modelled=True, counted=COUNTED_ON),
}

UNUSED: Final = (
    "add_bias_logits", "add_final_layer_norm", "normalize_before", "normalize_embedding", "static_position_embeddings",
    "extra_pos_embeddings", "force_bos_token_to_be_generated", "classif_dropout", "gradient_checkpointing", "save_step",
    "do_blenderbot_90_layernorm", "output_past", "layernorm_variant", "fp16", "replacing_rate",
    "student_decoder_layers", "student_encoder_layers", "attention_type", "block_size", "num_random_blocks",
    "unk_token_id",
)  # fmt: skip
"""Keys of older releases that no code reads, and those that choose blocks of sparse attention."""


def builder(k: Keys) -> Builder:
    """The builder for the config's type."""
    k.skip(*UNUSED)
    return Builder(k, STYLES[str(k.config["model_type"])])


def read(k: Keys) -> Model:
    """Build the causal class, where there is one: ``BartForCausalLM`` is the decoder alone."""
    if not STYLES[str(k.config["model_type"])].alone:
        return read_both(k)
    _prompts(k, 0)
    return builder(k).decoder_alone()


def read_both(k: Keys) -> Model:
    """Build ``BartForConditionalGeneration``."""
    made = builder(k)
    return made.both(extra=_prompts(k, made.D))


def _prompts(k: Keys, D: int) -> tuple[Tensor, ...]:
    """MVP's prompts: a small network makes keys and values of every layer of the decoder.

    The modelled code hands the switch to the encoder in the wrong place, so that the encoder has none.
    """
    used, length, inner = k.want("use_prompt", False), k.size("prompt_length", 100), k.size("prompt_mid_dim", 800)
    if not used or not D:
        return ()
    found: list[Tensor] = []
    for name in ("self_attn_prompt", "cross_attn_prompt"):
        path = f"model.decoder.{name}"
        wide = k.need("decoder_layers") * 2 * D
        found.append(Tensor(f"{path}.prompt_embedding.weight", (("P", length), ("D", D)), "position"))
        for part in (
            matrix(f"{path}.prompt_trans.0", ("D", D), ("F", inner), "attention"),
            matrix(f"{path}.prompt_trans.2", ("F", inner), ("X", wide), "attention"),
        ):
            found += part.weights()
    return tuple(found)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/bart/modeling_bart.py",
    attributes={
        "d_model": "hidden_size",
        "encoder_attention_heads": "num_attention_heads",
        "encoder_layers": "num_hidden_layers",
    },
    classes={"seq2seq": read_both, "none": read_both, "classify": read_both},
)
