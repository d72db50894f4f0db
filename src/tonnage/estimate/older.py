"""What older releases of transformers computed otherwise: the loss of the next token, and experts.

Up to 4.48 it was of all logits but the last token's, which of several sequences are copied. In 4.45 a model's own code
cast its logits to fp32 first, and some did not; from then on, type by type, ``ForCausalLMLoss`` did, beside logits that
stay as they are. Since 4.49 the labels are moved instead.

Left out: experts before 5.0, each a module with matrices of its own, which ran one after the other and were packed by
what packs linear modules: refused beside packed weights, else told. Recurrent models, whose code cut their logits
longer. Reference: https://github.com/huggingface/transformers/blob/v4.48.1/src/transformers/loss/loss_utils.py and the
models' own code in 4.45.2, 4.46.3, 4.47.1 and 4.48.1.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.errors import UnsupportedError
from tonnage.releases import Version, shown
from tonnage.workload.training import Train

MOVES_LABELS: Final[Version] = (4, 49)
STACKS_EXPERTS: Final[Version] = (5, 0)
NON_REENTRANT: Final[Version] = (5, 0)
NESTS: Final = (
    "checkpoints of encoders and decoders ran a backward pass of their own in transformers {version}: answered as "
    "those of 5.23, which do not"
)
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
    if version < STACKS_EXPERTS and model.subclassed:
        # ``replace_with_bnb_linear`` took every linear module.
        model = model.but(subclassed=())
    head = model.head
    if version >= MOVES_LABELS or not model.causal or head is None or head.sliced or model.model_type in RECURRENT:
        return model
    if model.model_type in PLAIN:
        return model.but(head=head.but(sliced="plain"))
    by_loss = version >= CAST_BY_LOSS.get(model.model_type, (4, 46))
    return model.but(head=head.but(sliced="loss" if by_loss else "model"))


def told(model: Model, w: Train, version: Version) -> tuple[str, ...]:
    """What a release did otherwise and is not answered so; it forbids "fits".

    Raises:
        UnsupportedError: experts that it packed one by one.
    """
    if version < NON_REENTRANT and len(model.stacks) > 1 and w.recompute == "full":
        return (NESTS.format(version=shown(version)),)
    if version >= STACKS_EXPERTS or not any(t.role == "expert" for _, inventory in model.groups() for t in inventory):
        return ()
    if w.quant not in (None, "none") or (w.quant is None and model.quantization is not None):
        raise UnsupportedError(
            f"packed weights of {model.model_type} on transformers {shown(version)}, whose experts were modules of "
            "their own, are not modelled", key="stack_version", value=shown(version),
            hint=f"--stack-version {shown(STACKS_EXPERTS)}, where they are stacked and stay as they are",
        )  # fmt: skip
    return (f"experts of transformers {shown(version)} ran one after the other: answered as those of 5.23",)
