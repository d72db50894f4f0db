"""Rules of "Memory requirement of a 1 B parameter model": so many bytes a parameter, for storing and for training."""

from __future__ import annotations


def weights_bytes(parameters: int) -> int:
    r"""Weights in fp32.

    .. math:: 4 N

    Args:
        parameters: of the model. [parameter]

    Returns:
        Four bytes for each. [byte]

    Leaves out: buffers, and everything that running the model takes.

    >>> weights_bytes(10**9)
    4000000000

    Reference: "Memory requirement of a 1 B parameter model".
    """
    return 4 * parameters


def training_bytes(parameters: int) -> int:
    r"""Weights and about 20 further bytes a parameter: optimizer state, gradients, activations, temporary variables.

    .. math:: (4 + 20) N

    Args:
        parameters: of the model. [parameter]

    Returns:
        Six times the weights. [byte]

    Leaves out: batch and sequence, with which activations grow; optimizers with more or less state than Adam.

    >>> training_bytes(10**9)
    24000000000

    Reference: "Memory requirement of a 1 B parameter model".
    """
    return (4 + 20) * parameters


def storing_bytes(parameters: int) -> int:
    r"""A stored model: its weights in fp32 and nothing else.

    .. math:: 4 N

    Args:
        parameters: of the model. [parameter]

    Returns:
        What a checkpoint takes. [byte]

    Leaves out: the header of the file, optimizer state in checkpoints of a training run.

    >>> training_bytes(10**9) // storing_bytes(10**9)
    6

    Reference: "Memory requirement of a 1 B parameter model".
    """
    return weights_bytes(parameters)


def quantized_bytes(parameters: int, bits: int) -> int:
    r"""Weights in fewer bits.

    .. math:: N b / 8

    Args:
        parameters: of the model. [parameter]
        bits: of each. [bit]

    Returns:
        The weights, rounded up to a whole byte. [byte]

    Leaves out: scales and zero points, and what a scheme leaves in more bits.

    >>> quantized_bytes(10**9, 16), quantized_bytes(10**9, 8)
    (2000000000, 1000000000)

    Reference: "Memory requirement of a 1 B parameter model".
    """
    return -(-parameters * bits // 8)
