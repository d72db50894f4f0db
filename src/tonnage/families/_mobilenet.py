"""MobileNet-V5's encoder as timm builds ``mobilenetv5_300m_enc``: blocks with a bottleneck the other way round.

Reference: https://github.com/huggingface/pytorch-image-models/blob/v1.0.31/timm/models/mobilenetv5.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tonnage.arch.layers import Norm
from tonnage.families._towers import convolution, tower
from tonnage.record import Record
from tonnage.tensors import Tensor


class Block(Record):
    """One block of a stage.

    Args:
        inner: channels within; heads times their width where it attends.
        before: side of the convolution before it widens; 0 for none.
        between: side of the convolution where it is wide; 0 for none.
        head: width of its only key head, where it attends.
        sampled: keys and values are sampled down first.
    """

    inner: int
    before: int = 0
    between: int = 0
    head: int = 0
    sampled: bool = False


FIRST: Final = ((256, 128), (512, 128), (512, 128))
"""Channels within and behind each block of the first stage."""

STAGES: Final = (
    (256, (Block(768, 3, 5), *(Block(1024, side) for side in (5, 3, 5, 3)))),
    (
        640,
        (
            Block(1536, 5, 5),
            *(Block(2560, 5),) * 7,
            Block(640),
            *(Block(768, head=64, sampled=True), Block(1280)) * 14,
        ),
    ),
    (1280, (Block(3840, 5, 5), *(Block(1536, head=96), Block(2560)) * 19)),
)
"""Channels behind a stage, and its blocks."""

OUT: Final = 2048
"""Channels of the output."""


def mobilenet(path: str) -> tuple[Tensor, ...]:
    """The tensors of the encoder below ``path``."""
    found = [*convolution("conv_stem.conv", 3, 64, 3, 3), *_norm("conv_stem.bn", 64)]
    ins = 64
    for index, (inner, outs) in enumerate(FIRST):
        name = f"blocks.0.{index}"
        found += [*convolution(f"{name}.conv_exp", ins, inner, 3, 3, bias=False), *_norm(f"{name}.bn1", inner)]
        found += [*convolution(f"{name}.conv_pwl", inner, outs, 1, 1, bias=False), *_norm(f"{name}.bn2", outs)]
        ins = outs
    for stage, (outs, blocks) in enumerate(STAGES, 1):
        for index, block in enumerate(blocks):
            name = f"blocks.{stage}.{index}"
            found += _attention(name, block, ins) if block.head else _bottleneck(name, block, ins, outs)
            found.append(Tensor(f"{name}.layer_scale.gamma", (("D", outs),), "vision"))
            ins = outs
    # The last two stages side by side, at one resolution.
    joined = STAGES[-2][0] + STAGES[-1][0]
    found += [*_conv("msfa.ffn.pw_exp", joined, 2 * joined), *_conv("msfa.ffn.pw_proj", 2 * joined, OUT)]
    return tower("vision", path, *found, *_norm("msfa.norm", OUT))


def _bottleneck(name: str, block: Block, ins: int, outs: int) -> Iterator[Tensor]:
    if block.before:
        yield from _conv(f"{name}.dw_start", 1, ins, block.before)
    yield from _conv(f"{name}.pw_exp", ins, block.inner)
    if block.between:
        yield from _conv(f"{name}.dw_mid", 1, block.inner, block.between)
    yield from _conv(f"{name}.pw_proj", block.inner, outs)


def _attention(name: str, block: Block, D: int) -> Iterator[Tensor]:
    """Attention with one head of keys and values for all queries."""
    path = f"{name}.attn"
    yield from _norm(f"{name}.norm", D)
    yield from convolution(f"{path}.query.proj", D, block.inner, 1, 1, bias=False)
    for part in ("key", "value"):
        if block.sampled:
            yield from convolution(f"{path}.{part}.down_conv", 1, D, 3, 3, bias=False)
            yield from _norm(f"{path}.{part}.norm", D)
        yield from convolution(f"{path}.{part}.proj", D, block.head, 1, 1, bias=False)
    yield from convolution(f"{path}.output.proj", block.inner, D, 1, 1, bias=False)


def _conv(name: str, ins: int, outs: int, side: int = 1) -> Iterator[Tensor]:
    """A convolution and its norm."""
    yield from convolution(f"{name}.conv", ins, outs, side, side, bias=False)
    yield from _norm(f"{name}.bn", outs)


def _norm(name: str, channels: int) -> Iterator[Tensor]:
    yield from Norm(name, (("D", channels),)).weights()
