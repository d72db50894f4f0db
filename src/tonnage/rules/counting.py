"""Rules of "Parameters and memory requirements, a deep dive": parameters from dimensions."""

from __future__ import annotations

from typing import NoReturn

from tonnage.errors import UnsupportedError


def embedding_parameters(vocabulary: int, width: int) -> int:
    r"""The table of token embeddings.

    .. math:: V d

    Args:
        vocabulary: rows. [token]
        width: of the residual stream. [element]

    Returns:
        Its elements. [parameter]

    Leaves out: rows added as padding, tables of positions.

    >>> embedding_parameters(50_000, 768)
    38400000

    Reference: "Parameters and memory requirements, a deep dive".
    """
    return vocabulary * width


def attention_parameters(width: int) -> int:
    r"""Four square matrices: queries, keys, values, output.

    .. math:: 4 d^2

    Args:
        width: of the residual stream. [element]

    Returns:
        Parameters of one block. [parameter]

    Leaves out: biases; key/value heads shared by several queries; heads whose widths do not add up to ``width``.

    >>> attention_parameters(768)
    2359296

    Reference: "Parameters and memory requirements, a deep dive".
    """
    return 4 * width * width


def feed_forward_parameters(width: int, feed_forward: int) -> int:
    r"""Two matrices and their biases.

    .. math:: 2 d f + d + f

    Args:
        width: of the residual stream. [element]
        feed_forward: inner width, usually four times as much. [element]

    Returns:
        Parameters of one block. [parameter]

    Leaves out: the third matrix of gated blocks, experts.

    >>> feed_forward_parameters(768, 3072)
    4722432

    Reference: "Parameters and memory requirements, a deep dive".
    """
    return 2 * width * feed_forward + width + feed_forward


def norm_parameters(width: int, norms: int = 2) -> int:
    r"""Layer norms of a layer, scale and shift each.

    .. math:: n \cdot 2 d

    Args:
        width: of the residual stream. [element]
        norms: in a layer. [1]

    Returns:
        Parameters of a layer's norms. [parameter]

    Leaves out: norms without a shift (RMS), norms of queries and keys, the norm behind the last layer.

    >>> norm_parameters(768)
    3072

    Reference: "Parameters and memory requirements, a deep dive".
    """
    return norms * 2 * width


def layer_parameters(width: int, feed_forward: int) -> int:
    r"""One layer: attention, feed-forward and two norms.

    .. math:: 4 d^2 + (2 d f + d + f) + 4 d

    Args:
        width: of the residual stream. [element]
        feed_forward: inner width. [element]

    Returns:
        Parameters of a layer. [parameter]

    Leaves out: what its three parts leave out.

    >>> layer_parameters(768, 3072), layer_parameters(12288, 4 * 12288)
    (7084800, 1812049920)

    Reference: "Parameters and memory requirements, a deep dive".
    """
    return attention_parameters(width) + feed_forward_parameters(width, feed_forward) + norm_parameters(width)


def stack_parameters(width: int, feed_forward: int, layers: int) -> int:
    r"""All layers, without what stands around them.

    .. math:: L (4 d^2 + (2 d f + d + f) + 4 d)

    Args:
        width: of the residual stream. [element]
        feed_forward: inner width. [element]
        layers: how many. [layer]

    Returns:
        Parameters of the layers. [parameter]

    Leaves out: embeddings, positions, head.

    >>> stack_parameters(768, 3072, 12), stack_parameters(12288, 4 * 12288, 96)
    (85017600, 173956792320)

    Reference: "Parameters and memory requirements, a deep dive".
    """
    return layers * layer_parameters(width, feed_forward)


def total_parameters(vocabulary: int, width: int, feed_forward: int, layers: int, output: bool = False) -> int:
    r"""A whole decoder: layers, embedding, and the output matrix where it is not the embedding.

    .. math:: L \cdot layer + V d \; (+ V d)

    Args:
        vocabulary: rows of the embedding. [token]
        width: of the residual stream. [element]
        feed_forward: inner width. [element]
        layers: how many. [layer]
        output: whether the head has a matrix of its own. [1]

    Returns:
        Parameters of the model. [parameter]

    Leaves out: biases of attention, tables of positions, the norm behind the last layer.

    >>> total_parameters(50_000, 768, 3072, 12)
    123417600

    Reference: "Parameters and memory requirements, a deep dive".
    """
    tables = 2 if output else 1
    return stack_parameters(width, feed_forward, layers) + tables * embedding_parameters(vocabulary, width)


def encoder_decoder_parameters(
    vocabulary: int, width: int, feed_forward: int, encoder_layers: int, decoder_layers: int, output: bool = False
) -> int:
    r"""Encoder and decoder over one embedding.

    Where there is an encoder, a decoder layer has a second attention, across to it, and a third norm.

    .. math:: L_e \cdot layer + L_d (layer + 4 d^2 + 2 d) + V d \; (+ V d)

    Args:
        vocabulary: rows of the embedding. [token]
        width: of the residual stream. [element]
        feed_forward: inner width. [element]
        encoder_layers: layers of the encoder, 0 for none. [layer]
        decoder_layers: layers of the decoder, 0 for none. [layer]
        output: whether the head has a matrix of its own. [1]

    Returns:
        Parameters of the model. [parameter]

    Leaves out: what one layer leaves out; relative positions.

    >>> encoder_decoder_parameters(50_000, 768, 3072, 0, 12) == total_parameters(50_000, 768, 3072, 12)
    True

    Reference: "Parameters and memory requirements, a deep dive".
    """
    layers = encoder_layers + decoder_layers
    cross = attention_parameters(width) + norm_parameters(width, 1) if encoder_layers else 0
    return total_parameters(vocabulary, width, feed_forward, layers, output) + decoder_layers * cross


def parameters_ratio(gain: float, alpha: float = 0.07) -> float:
    r"""How many times the parameters a gain in performance takes, where performance grows as a power of them.

    .. math:: g^{1 / \alpha}

    Args:
        gain: wanted performance over the present one; 1.1 is 10 % better. [1]
        alpha: exponent of the power law. [1]

    Returns:
        Wanted parameters over the present ones. [1]

    Leaves out: data and compute, which have to grow as well; that the law is one of the loss.

    >>> round(parameters_ratio(1.1), 1), f"{parameters_ratio(10):.0e}"
    (3.9, '2e+14')

    Reference: "Parameters and memory requirements, a deep dive", after Kaplan et al. 2020, arXiv:2001.08361.
    """
    return float(gain ** (1 / alpha))


def closed_model_parameters(name: str) -> NoReturn:
    """Parameters of a model whose sizes are not published: refused, no count is invented.

    Args:
        name: of the model. [text]

    Returns:
        Nothing. [parameter]

    Raises:
        UnsupportedError: always.

    Leaves out: everything, on purpose.

    >>> closed_model_parameters("somebody's largest")
    Traceback (most recent call last):
    tonnage.errors.UnsupportedError: the dimensions of somebody's largest are not published, so ...

    Reference: "Parameters and memory requirements, a deep dive".
    """
    raise UnsupportedError(
        f"the dimensions of {name} are not published, so they are not counted", key="model", value=name,
        hint="a hypothetical model can be: tonnage params --hidden 12288 --layers 96 --heads 96 --vocab 50257",
    )  # fmt: skip
