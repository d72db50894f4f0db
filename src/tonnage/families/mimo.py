"""MiMo 7B: Qwen2's structure with a layer that predicts a further token, which its checkpoint stores (2505.07608)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tonnage.arch.layers import Linear, Norm
from tonnage.arch.model import Layer, Model
from tonnage.families import Family, family_of
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that the released ``MiMoForCausalLM`` builds, which runs without the further layers."""
    # Its attention has Qwen2's biases whatever this says.
    k.skip("attention_bias")
    model = family_of("qwen2").read(k)
    last = model.decoder.layers[-1]
    further = k.want("num_nextn_predict_layers", 0)
    return model.but(apart=tuple(t for i in range(further) for t in _ahead(last, i, model.width)))


def _ahead(layer: Layer, index: int, D: int) -> Iterator[Tensor]:
    """A layer of the model's own kind behind a projection of both inputs; embedding and head are the model's own."""
    width = (("D", D),)
    own = [t for t in layer.weights() if t.role != "buffer"]
    for name in ("token_layernorm", "hidden_layernorm", "final_layernorm"):
        own += Norm(name, width).weights()
    own += Linear("input_proj", (("X", 2), ("D", D)), width, "feed_forward").weights()
    for t in own:
        yield t.placed(f"model.mtp_layers.{index}.", index)


FAMILY: Final = Family(
    read=read,
    source="https://huggingface.co/XiaomiMiMo/MiMo-7B-Base/blob/main/modeling_mimo.py",
)
