"""Beside which packed weights adapters are trained: what transformers 5.23.0 and peft 0.21.2 say, and what is modelled.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/ quantizers/ (``is_trainable`` of
each quantizer), trainer_utils.py (``validate_quantization_for_training``);
https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/lora/ aqlm.py, awq.py, bnb.py, eetq.py, gptq.py, hqq.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from tonnage.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from tonnage.quant import Recipe

NEVER: Final = {
    **dict.fromkeys(
        ("gguf", "fbgemm_fp8", "higgs", "nvfp4", "quark", "spqr", "vptq", "auto-round"),
        "transformers' Trainer refuses it: this quantization method does not support training",
    ),
    "mxfp4": "transformers does not train it: Mxfp4Config(dequantize=True) loads the weights in 16 bit",
    "bitnet": "transformers trains it with AutoBitLinear online alone, over weights that are not packed",
    "modelopt": "transformers has no quantizer that loads it",
    "mlx": "it is trained by MLX, not by peft",
}
"""By the method: what the library refuses."""

KERNELS: Final = {
    "gptq": "peft adapts it; what gptqmodel's kernels take backward is not modelled",
    "awq": "peft adapts it with gptqmodel from 5.0.0 on, whose kernels' backward pass is not modelled",
    "aqlm": "peft adapts it with aqlm from 1.0.2 on, whose kernels' backward pass is not modelled",
    "eetq": "peft adapts it; what its kernels take backward is not modelled",
    "hqq": "peft adapts it; how its matrices are unpacked for each product is not modelled",
    "quanto": "transformers trains beside it; how its matrices are unpacked for each product is not modelled",
    "fp8": "transformers trains beside it; what its kernels take backward is not modelled",
    "compressed-tensors": "transformers trains beside it without the fp8 kernel; the unpacking is not modelled",
    "torchao": "transformers trains beside 8 bit weights alone; the unpacking is not modelled",
}
"""By the method: what the library takes."""

ALL: Final = "16-bit weights (--quant none), or --quant nf4 or nf4-dq"


BYTES: Final = "multiplies bytes"
OUTLIERS: Final = (
    "LLM.int8() of inputs without outliers; each column with a value beyond 6 is copied, and the copy held as the "
    "input is: a line of its own has the range"
)


def check(recipe: Recipe, said: str | None) -> None:
    """Refuse packed weights beside which nothing is trained, or not as it is modelled.

    Args:
        recipe: how the frozen weights are packed.
        said: the workload's ``quant``.

    Raises:
        InputError: the library refuses it.
        UnsupportedError: the library trains it, and its products are not modelled.
    """
    if recipe.trains in ("unpacks", BYTES):
        return
    beside = f"training beside weights packed by {recipe.title}"
    if recipe.method in NEVER:
        raise InputError(f"{beside}: {NEVER[recipe.method]}", key="quant", value=said, hint=ALL)
    why = KERNELS.get(recipe.method, "its backward pass is not modelled")
    raise UnsupportedError(f"{beside}: {why}", key="quant", value=said, hint=ALL)


APART: Final = {
    "hra": "its product is with the matrix as it lies there, packed: shapes cannot be multiplied",
    "loha": "it adds to the matrix as it lies there, packed: shapes cannot be multiplied",
    "lokr": "it takes its shapes from the matrix as it lies there, packed",
    "osf": "it decomposes the matrix as it lies there: only floating point can require gradients",
    "tinylora": "it decomposes the matrix as it lies there: only floating point can require gradients",
    "unilora": "it casts its scales, which are below 1, to the packed matrix's uint8, so that nothing is trained",
    "adaption-prompt": "its attention has no matrices by the names that the quantizer asks for",
}
"""By the adapter: what peft 0.21.2 does beside matrices of 4 bit, tried with bitsandbytes 0.50.2."""

WIDE: Final = (
    "its outputs are fp32 beside others in 16 bit, which attention refuses without autocast; under autocast it is not "
    "modelled"
)
OPEN: Final = {"road": WIDE, "randlora": WIDE}
"""By the adapter: what else keeps it from being answered."""


def stands_beside(adapter: str) -> NoReturn:
    """Refuse an adapter beside packed weights.

    Raises:
        InputError: the library fails.
        UnsupportedError: it does not, and the pass is not modelled.
    """
    hint = "--adapter lora, or no --quant"
    if adapter in APART:
        raise InputError(
            f"adapter = {adapter} beside packed weights: peft fails, {APART[adapter]}", key="adapter", value=adapter,
            hint=hint,
        )  # fmt: skip
    why = f": {OPEN[adapter]}" if adapter in OPEN else " is not modelled"
    raise UnsupportedError(f"adapter = {adapter} beside packed weights{why}", key="adapter", value=adapter, hint=hint)
