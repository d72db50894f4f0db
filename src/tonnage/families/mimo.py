"""MiMo 7B: Qwen2's structure with a layer that predicts a further token, which its checkpoint stores (2505.07608)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family, family_of
from tonnage.families._experts import ahead
from tonnage.keys import Keys

NAMES: Final = ("token_layernorm", "hidden_layernorm", "input_proj")
"""Norms of the two inputs of the layer that predicts a further token, and their projection."""


def read(k: Keys) -> Model:
    """Build the model that the released ``MiMoForCausalLM`` builds, which runs without the further layers."""
    # Its attention has Qwen2's biases whatever this says.
    k.skip("attention_bias")
    model = family_of("qwen2").read(k)
    last, D, V = model.decoder.layers[-1], model.width, model.vocabulary
    further = range(k.want("num_nextn_predict_layers", 0))
    stored = (
        ahead(last, i, D, V, tables=False, names=NAMES, last="final_layernorm", path=f"model.mtp_layers.{i}.")
        for i in further
    )
    return model.but(apart=tuple(t for layer in stored for t in layer))


FAMILY: Final = Family(
    read=read,
    source="https://huggingface.co/XiaomiMiMo/MiMo-7B-Base/blob/main/modeling_mimo.py",
)
