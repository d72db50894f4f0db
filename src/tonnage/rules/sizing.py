"""Rules of "Calculating the memory of large AI models"."""

from __future__ import annotations

from typing import Final, NoReturn

from tonnage.errors import InputError, UnsupportedError
from tonnage.placement.zero import flat_shard
from tonnage.rules.working import activation_bytes
from tonnage.units import GB

HARDWARE: Final = {"a100-40gb": 40 * GB, "a100-80gb": 80 * GB, "tpu-v4": 32 * GB}
"""Memory of the devices that the text names, as it prints it. [byte]"""


def memory_bytes(parameters: int, bytes_per_value: int = 4) -> int:
    r"""Parameters times bytes a value.

    .. math:: N w

    Args:
        parameters: of the model. [parameter]
        bytes_per_value: of the format, ``w``. [byte]

    Returns:
        The weights. [byte]

    Leaves out: everything else.

    >>> from tonnage.units import GiB
    >>> memory_bytes(175 * 10**9), round(memory_bytes(175 * 10**9) / GiB, 2)
    (700000000000, 651.93)

    Reference: "Calculating the memory of large AI models".
    """
    return parameters * bytes_per_value


def training_multiple_bytes(parameters: int, times: int = 3) -> int:
    r"""Training takes three to four times what inference takes.

    .. math:: t \cdot 4 N

    Args:
        parameters: of the model. [parameter]
        times: 3 or 4, ``t``. [1]

    Returns:
        Training memory in fp32. [byte]

    Leaves out: batch and sequence; Adam with gradients is four times the weights before the first activation.

    >>> memory_bytes(10**10), training_multiple_bytes(10**10), training_multiple_bytes(10**10, 4)
    (40000000000, 120000000000, 160000000000)

    Reference: "Calculating the memory of large AI models".
    """
    return times * memory_bytes(parameters)


def adam_bytes(parameters: int) -> int:
    r"""Optimizer state of Adam: twice the parameter memory.

    .. math:: 2 \cdot 4 N

    Args:
        parameters: that are trained. [parameter]

    Returns:
        Both moments in fp32. [byte]

    Leaves out: master weights of mixed precision, step counters, what the step itself takes.

    >>> adam_bytes(10**10)
    80000000000

    Reference: "Calculating the memory of large AI models".
    """
    return 2 * memory_bytes(parameters)


def activation_growth(
    layers: int, batch: int, tokens: int, width: int, vocabulary: int, times_batch: int = 1, times_tokens: int = 1
) -> float:
    r"""How activations vary with batch and sequence, by the other text's formula for them.

    .. math:: A(b B, s S) / A(B, S)

    Args:
        layers: how many. [layer]
        batch: sequences. [sequence]
        tokens: of a sequence. [token]
        width: of the residual stream. [element]
        vocabulary: rows. [token]
        times_batch: so many times the sequences. [1]
        times_tokens: so many times the tokens. [1]

    Returns:
        Activations over those before. [1]

    Leaves out: kernels that never hold the scores, with which the growth is linear in the tokens as well.

    >>> activation_growth(12, 1, 1024, 768, 50_000, times_batch=2)
    2.0
    >>> round(activation_growth(12, 1, 1024, 768, 50_000, times_tokens=2), 2)
    2.21

    Reference: "Calculating the memory of large AI models".
    """
    before = activation_bytes(layers, batch, tokens, width, vocabulary)
    return activation_bytes(layers, times_batch * batch, times_tokens * tokens, width, vocabulary) / before


def parallel_bytes(parameters: int, devices: int) -> int:
    r"""Weights on each of several devices.

    .. math:: 4 \lceil N / G \rceil

    Args:
        parameters: of the model. [parameter]
        devices: that share them, ``G``. [device]

    Returns:
        The share of one, in fp32. [byte]

    Leaves out: the latency of communication that the text names, its buffers, and what is replicated.

    >>> parallel_bytes(175 * 10**9, 8)
    87500000000

    Reference: "Calculating the memory of large AI models".
    """
    return memory_bytes(flat_shard(parameters, devices))


def saved_share(before_bits: int = 32, after_bits: int = 8) -> float:
    r"""What fewer bits save.

    .. math:: 1 - b / a

    Args:
        before_bits: of a weight, ``a``. [bit]
        after_bits: of a weight, ``b``. [bit]

    Returns:
        The saved part. [1]

    Leaves out: scales, and weights that stay wide; formats that quantize while running store both.

    >>> saved_share()
    0.75

    Reference: "Calculating the memory of large AI models".
    """
    return 1 - after_bits / before_bits


def device_bytes(device: str) -> int:
    """Memory of a device as the text prints it.

    Args:
        device: one that it names. [text]

    Returns:
        The figure read as 10^9. [byte]

    Leaves out: that vendors mean 2^30, and what driver and context keep.

    >>> device_bytes("tpu-v4")
    32000000000

    Reference: "Calculating the memory of large AI models".
    """
    if device not in HARDWARE:
        raise InputError(f"the text does not name {device}", key="device", value=device, nearest=HARDWARE)
    return HARDWARE[device]


def neuromorphic_bytes(device: str) -> NoReturn:
    """Memory on neuromorphic or in-memory hardware: refused, nothing of it is modelled.

    Args:
        device: its name. [text]

    Returns:
        Nothing. [byte]

    Raises:
        UnsupportedError: always.

    Leaves out: everything, on purpose.

    >>> neuromorphic_bytes("some chip")
    Traceback (most recent call last):
    tonnage.errors.UnsupportedError: some chip: neuromorphic and in-memory computing are not modelled; ...

    Reference: "Calculating the memory of large AI models".
    """
    raise UnsupportedError(
        f"{device}: neuromorphic and in-memory computing are not modelled", key="gpu", value=device,
        hint="where weights are the circuit, bytes a parameter do not tell what fits",
    )  # fmt: skip
