"""Rules of "Parameters and memory requirements, a deep dive": bytes of running and training, and what lowers them."""

from __future__ import annotations

from tonnage.placement.zero import flat_shard
from tonnage.rules.counting import total_parameters


def model_bytes(parameters: int, bits: int = 32) -> int:
    r"""The weights alone.

    .. math:: N b / 8

    Args:
        parameters: of the model. [parameter]
        bits: of each. [bit]

    Returns:
        Model memory. [byte]

    Leaves out: buffers, everything that running takes.

    >>> model_bytes(123_417_600), model_bytes(123_417_600, 16)
    (493670400, 246835200)

    Reference: "Parameters and memory requirements, a deep dive".
    """
    return -(-parameters * bits // 8)


def inference_working_bytes(parameters: int) -> int:
    r"""Twice the model memory.

    .. math:: 2 \cdot 4 N

    Args:
        parameters: of the model. [parameter]

    Returns:
        Working memory at inference, in fp32. [byte]

    Leaves out: batch and context: the cache of keys and values grows with both, the weights with neither.

    >>> inference_working_bytes(123_417_600)
    987340800

    Reference: "Parameters and memory requirements, a deep dive".
    """
    return 2 * model_bytes(parameters)


def training_working_bytes(parameters: int) -> int:
    r"""Four times the model memory.

    .. math:: 4 \cdot 4 N

    Args:
        parameters: of the model. [parameter]

    Returns:
        Working memory of training, in fp32. [byte]

    Leaves out: every activation: weights, gradients and Adam's two moments alone are four times the model memory.

    >>> training_working_bytes(123_417_600)
    1974681600

    Reference: "Parameters and memory requirements, a deep dive".
    """
    return 4 * model_bytes(parameters)


def steady_bytes(parameters: int, batch: int, tokens: int) -> int:
    r"""What a training step holds all the time: fp32 weights 4, Adam 8, gradients 4, and inputs as int64.

    .. math:: 4 N + 8 N + 4 N + 8 B D = 16 N + 8 B D

    Args:
        parameters: of the model. [parameter]
        batch: sequences, ``B``. [sequence]
        tokens: of a sequence, ``D``. [token]

    Returns:
        The steady state. [byte]

    Leaves out: that gradients are freed between steps unless they are kept.

    >>> steady_bytes(123_417_600, 1, 1024)
    1974689792

    Reference: "Parameters and memory requirements, a deep dive".
    """
    return 16 * parameters + 8 * batch * tokens


def activation_bytes(layers: int, batch: int, tokens: int, width: int, vocabulary: int) -> int:
    r"""Activations of a forward pass and its loss, ``E = B S H``.

    .. math:: L (14 E + 4 B S S) + 6 B S V

    Args:
        layers: how many. [layer]
        batch: sequences, ``B``. [sequence]
        tokens: of a sequence, ``S``. [token]
        width: of the residual stream, ``H``. [element]
        vocabulary: rows, ``V``. [token]

    Returns:
        Activations. [byte]

    Leaves out: that every head has scores of its own; the width of the feed-forward block, dropout masks.

    >>> activation_bytes(12, 1, 1024, 768, 50_000)
    489652224

    Reference: "Parameters and memory requirements, a deep dive".
    """
    return layers * _layer_activation_bytes(batch, tokens, width) + 6 * batch * tokens * vocabulary


def _layer_activation_bytes(batch: int, tokens: int, width: int) -> int:
    return 14 * batch * tokens * width + 4 * batch * tokens * tokens


def peak_bytes(parameters: int, layers: int, batch: int, tokens: int, width: int, vocabulary: int) -> int:
    r"""Steady state, activations, and an extra allocation as large as the logits when the backward pass begins.

    .. math:: (16 N + 8 B S) + (L (14 E + 4 B S S) + 6 B S V) + 4 B S V

    Args:
        parameters: of the model. [parameter]
        layers: how many. [layer]
        batch: sequences. [sequence]
        tokens: of a sequence. [token]
        width: of the residual stream. [element]
        vocabulary: rows. [token]

    Returns:
        The peak of a training step. [byte]

    Leaves out: what its parts leave out; workspaces and the allocator.

    >>> peak_bytes(123_417_600, 12, 1, 1024, 768, 50_000)
    2669142016

    Reference: "Parameters and memory requirements, a deep dive".
    """
    extra = 4 * batch * tokens * vocabulary
    activations = activation_bytes(layers, batch, tokens, width, vocabulary)
    return steady_bytes(parameters, batch, tokens) + activations + extra


def mixed_precision_saved_bytes(parameters: int, bits: int) -> int:
    r"""What weights in 16 or 8 bits save over fp32.

    .. math:: N (32 - b) / 8

    Args:
        parameters: of the model. [parameter]
        bits: of each in the smaller format. [bit]

    Returns:
        Bytes saved. [byte]

    Leaves out: that mixed precision as autocast runs it keeps the weights in fp32 and adds casted copies.

    >>> mixed_precision_saved_bytes(123_417_600, 16)
    246835200

    Reference: "Parameters and memory requirements, a deep dive".
    """
    return model_bytes(parameters) - model_bytes(parameters, bits)


def parallel_saved_bytes(parameters: int, devices: int) -> int:
    r"""What spreading the weights over several devices saves on each.

    .. math:: 4 (N - \lceil N / G \rceil)

    Args:
        parameters: of the model. [parameter]
        devices: GPUs or TPUs, ``G``. [device]

    Returns:
        Bytes saved on every device, in fp32. [byte]

    Leaves out: what is replicated, buffers of communication, activations.

    >>> parallel_saved_bytes(123_417_600, 8)
    431961600

    Reference: "Parameters and memory requirements, a deep dive".
    """
    return model_bytes(parameters) - model_bytes(flat_shard(parameters, devices))


def checkpointing_saved_bytes(layers: int, batch: int, tokens: int, width: int) -> int:
    r"""What gradient checkpointing saves: of all layers but one, only the fp32 input is kept.

    .. math:: (L - 1) (14 E + 4 B S S) - 4 L E

    Args:
        layers: how many, each a checkpoint. [layer]
        batch: sequences. [sequence]
        tokens: of a sequence. [token]
        width: of the residual stream. [element]

    Returns:
        Bytes saved; negative where there is nothing to gain. [byte]

    Leaves out: the time of a second forward pass; the logits, which are not checkpointed.

    >>> checkpointing_saved_bytes(12, 1, 1024, 768)
    129499136

    Reference: "Parameters and memory requirements, a deep dive".
    """
    return (layers - 1) * _layer_activation_bytes(batch, tokens, width) - 4 * layers * batch * tokens * width


def compression_saved_bytes(parameters: int, kept_percent: int, bits: int) -> int:
    r"""What pruning and quantization save together.

    .. math:: 4 N - k N b / 8

    Args:
        parameters: of the model. [parameter]
        kept_percent: of the weights that pruning leaves, ``k``. [percent]
        bits: of each. [bit]

    Returns:
        Bytes saved over dense fp32. [byte]

    Leaves out: indices of sparse formats; weights that are set to zero and stored all the same save nothing.

    >>> compression_saved_bytes(123_417_600, 50, 8)
    431961600

    Reference: "Parameters and memory requirements, a deep dive".
    """
    return model_bytes(parameters) - model_bytes(parameters * kept_percent // 100, bits)


def distillation_saved_bytes(
    vocabulary: int, width: int, feed_forward: int, layers: int, student_layers: int, output: bool = False
) -> int:
    r"""What a student with fewer layers saves over its teacher.

    .. math:: 4 (N_{teacher} - N_{student})

    Args:
        vocabulary: rows of the embedding. [token]
        width: of the residual stream. [element]
        feed_forward: inner width. [element]
        layers: of the teacher. [layer]
        student_layers: of the student. [layer]
        output: whether the head has a matrix of its own. [1]

    Returns:
        Bytes saved once the student is trained, in fp32. [byte]

    Leaves out: that distilling holds teacher and student at once.

    >>> distillation_saved_bytes(50_000, 768, 3072, 12, 6)
    170035200

    Reference: "Parameters and memory requirements, a deep dive".
    """
    teacher, student = (
        total_parameters(vocabulary, width, feed_forward, depth, output) for depth in (layers, student_layers)
    )
    return model_bytes(teacher) - model_bytes(student)
