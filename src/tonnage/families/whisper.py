"""Whisper: two convolutions and an encoder over sound, and BART's decoder without biases of keys (arXiv:2212.04356)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head, Table
from tonnage.arch.model import Model
from tonnage.arch.sound import Sound
from tonnage.families import Family
from tonnage.families._seq2seq import Builder, Style
from tonnage.keys import Keys

STYLE: Final = Style(
    last_norm=True,
    pre_norm=True,
    key_bias=False,
    head="proj_out",
    sources="max_source_positions",
    targets="max_target_positions",
    logits_bias=False,
    rows=448,
    modelled=True,
    counted=("", "rows"),
    scales="",
    scales_queries=True,
)
TABLE: Final = "model.decoder.embed_tokens"


def _builder(k: Keys) -> Builder:
    """The builder; keys of augmentation, of the classifier and of alignment change nothing."""
    k.skip("apply_spec_augment", "classifier_proj_size", "median_filter_width", "use_weighted_layer_sum")
    k.skip("mask_feature_length", "mask_feature_min_masks", "mask_feature_prob", "mask_time_length")
    k.skip("mask_time_min_masks", "mask_time_prob", "num_key_value_heads", "alignment_heads", "lang_ids")
    k.skip("max_length", "num_mel_bins", "encoder_layers")
    return Builder(k, STYLE)


def read(k: Keys) -> Model:
    """Build ``WhisperForCausalLM``, the decoder alone."""
    return _builder(k).decoder_alone()


def read_both(k: Keys) -> Model:
    """Build ``WhisperForConditionalGeneration``."""
    made = _builder(k)
    D, channels = made.D, k.size("num_mel_bins", 80)
    path = "model.encoder"
    rows = k.size("max_source_positions", 1500)
    places = Table(name=f"{path}.embed_positions", rows=rows, width=D, frozen=True)
    sound = Sound(name="", V=made.V, D=D, tables=(places,), path=path, channels=channels, dropout=made.dropout)
    head = Head(name="proj_out", D=D, V=made.V, alias_of=f"{TABLE}.weight" if made.tied else None)
    return made.model(
        (
            made.stack("encoder", sound, (made.encoder_layer(),) * k.need("encoder_layers")),
            made.stack(
                "decoder", made.stem("decoder", TABLE), (made.decoder_layer(alone=False),) * k.need("decoder_layers")
            ),
        ),
        head,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/whisper/modeling_whisper.py",
    attributes={
        "d_model": "hidden_size",
        "encoder_attention_heads": "num_attention_heads",
        "encoder_layers": "num_hidden_layers",
    },
    classes={"seq2seq": read_both, "none": read_both},
)
