"""What older releases of transformers computed otherwise: the loss of the next token.

Up to 4.48 it was of all logits but the last token's, which of several sequences are copied. In 4.45 a model's own code
cast its logits to fp32 first, and some did not; from then on, type by type, ``ForCausalLMLoss`` did, beside logits that
stay as they are. Since 4.49 the labels are moved instead.

Left out: recurrent models, whose code cut their logits longer. Reference: https://github.com/huggingface/transformers/
blob/v4.48.1/src/transformers/loss/loss_utils.py and the models' own code in 4.45.2, 4.46.3, 4.47.1 and 4.48.1.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.releases import Version

MOVES_LABELS: Final[Version] = (4, 49)
PLAIN: Final = frozenset(
    [
        "bloom", "ctrl", "dbrx", "falcon", "gpt2", "gpt_bigcode", "gpt_neox", "gpt_neox_japanese", "mpt", "openai-gpt",
        "opt", "persimmon", "stablelm",
    ]
)  # fmt: skip
"""Types whose own code compared logits as they are."""

CAST_BY_LOSS: Final = {
    "mistral": (4, 48), "granite": (4, 48), "starcoder2": (4, 47), "codegen": MOVES_LABELS, "gpt_neo": MOVES_LABELS,
    "gptj": MOVES_LABELS, "granitemoe": MOVES_LABELS, "jetmoe": MOVES_LABELS, "recurrent_gemma": MOVES_LABELS,
}  # fmt: skip
"""The release since which the loss function casts logits, where it is not 4.46."""

RECURRENT: Final = frozenset(["mamba", "mamba2", "falcon_mamba", "rwkv"])


def as_of(model: Model, version: Version) -> Model:
    """The model with the loss that a release of transformers computes."""
    head = model.head
    if version >= MOVES_LABELS or not model.causal or head is None or head.sliced or model.model_type in RECURRENT:
        return model
    if model.model_type in PLAIN:
        return model.but(head=head.but(sliced="plain"))
    by_loss = version >= CAST_BY_LOSS.get(model.model_type, (4, 46))
    return model.but(head=head.but(sliced="loss" if by_loss else "model"))
