"""Diffusion Gemma: Gemma 4's layers with experts, once as encoder and once as decoder, which share their tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._composite import filled
from tonnage.families._gemma4_towers import vision
from tonnage.families._language import headed, language, unpassed
from tonnage.families._pieces import matrix
from tonnage.families._towers import tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

TEXT: Final[dict[str, Any]] = {
    "vocab_size": 262144,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
}
ALWAYS: Final[dict[str, Any]] = {
    "enable_moe_block": True,
    "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
}
"""What Gemma 4 leaves to its config and this type has."""

DECODER: Final = "model.decoder"
ENCODER: Final = "model.encoder"


def read(k: Keys) -> Model:
    """Build ``DiffusionGemmaForBlockDiffusion``."""
    # The type has no keys for what the other leaves open.
    k.skip("canvas_length")
    tied = k.want("tie_word_embeddings", True)
    text = language(k, DECODER, "diffusion_gemma_text", like="gemma4_text", always={**TEXT, **ALWAYS})
    D, F = text.model.width, int(text.config["intermediate_size"])
    conditioning = tower(
        "feed_forward",
        f"{DECODER}.self_conditioning",
        Tensor("pre_norm.weight", (("D", D),), "norm"),
        matrix("gate_proj", ("D", D), ("F", F), "feed_forward", bias=False),
        matrix("up_proj", ("D", D), ("F", F), "feed_forward", bias=False),
        matrix("down_proj", ("F", F), ("D", D), "feed_forward", bias=False),
    )
    images = filled(k, "vision_config", {}, lambda inner: vision(inner, D))
    extra = (
        *conditioning,
        *_encoder(text.model, tied),
        *(t.renamed(t.name.replace("model.", f"{ENCODER}.", 1)) for t in images),
    )
    model = headed(text.model, tied, extra=extra)
    return unpassed(model, "Diffusion Gemma, which draws a canvas of tokens").but(model_type="diffusion_gemma")


def _encoder(model: Model, shares: bool) -> Iterator[Tensor]:
    """The decoder's tensors under the encoder's names; buffers are its own."""
    for stack in model.stacks:
        for t in stack.weights():
            name = t.name.replace(DECODER, f"{ENCODER}.language_model", 1)
            # The class lists weights; biases stay apart.
            alias = t.name if shares and t.role != "buffer" and not t.name.endswith(".bias") else None
            yield Tensor(name, t.axes, t.role, t.dims, None, alias, t.dtype)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/diffusion_gemma/"
    "modeling_diffusion_gemma.py",
)
