"""SEANet, the convolutions on both sides of a codec of sound: EnCodec's and Mimi's (arXiv:2210.13438)."""

from __future__ import annotations

from typing import Literal

from tonnage.families._omni import upward
from tonnage.families._pieces import layer_norm
from tonnage.families._towers import convolution, sizes
from tonnage.keys import Keys
from tonnage.record import Record
from tonnage.tensors import Tensor

Tensors = tuple[Tensor, ...]


class Net(Record):
    """What both sides share.

    Args:
        filters: channels next to the sound.
        ratios: by which the decoder raises the rate, one after the other.
        blocks: residual blocks at every rate.
        kernel: of the first convolution.
        last: of the last one.
        inner: of a residual block.
        compress: how many times narrower it is inside.
        shortcut: its input goes through a convolution as well.
        lstm: layers of an LSTM next to the codebooks; 0 for none.
        norm: weights as a direction and a length for every channel, or a norm behind each convolution.
    """

    filters: int
    ratios: tuple[int, ...]
    blocks: int
    kernel: int
    last: int
    inner: int
    compress: int
    shortcut: bool
    lstm: int = 0
    norm: Literal["", "weight_norm", "time_group_norm"] = ""


def net(k: Keys, *, filters: int, ratios: tuple[int, ...], last: int, shortcut: bool) -> Net:
    """As EnCodec's configs describe it; the arguments are defaults."""
    k.skip("dilation_growth_rate", "use_causal_conv", "pad_mode", "trim_right_ratio")
    return Net(
        filters=k.size("num_filters", filters),
        ratios=sizes(k, "upsampling_ratios", ratios),
        blocks=k.size("num_residual_layers", 1),
        kernel=k.size("kernel_size", 7),
        last=k.size("last_kernel_size", last),
        inner=k.size("residual_kernel_size", 3),
        compress=k.size("compress", 2),
        shortcut=k.want("use_conv_shortcut", shortcut),
    )


def kept(name: str, ins: int, outs: int, kernel: int, *, bias: bool = True, norm: str = "") -> Tensors:
    """A convolution that keeps its step, reach and padding as buffers."""
    numbers = ("stride", "kernel_size", "padding_total")
    return (
        *_normed(convolution(f"{name}.conv", ins, outs, kernel, bias=bias), name, outs, norm),
        *(Tensor(f"{name}.{part}", (), "buffer", dtype="int64") for part in numbers),
    )


def _normed(tensors: Tensors, name: str, outs: int, norm: str) -> Tensors:
    """A convolution's tensors, its weight (the first) taken apart where ``norm`` says so."""
    if norm == "time_group_norm":
        return (*tensors, *layer_norm(f"{name}.norm", outs).weights())
    if norm != "weight_norm":
        return tensors
    weight, *others = tensors
    path = f"{name}.conv.parametrizations.weight"
    length = (weight.axes[0], ("X", 1), ("C", 1))
    return Tensor(f"{path}.original0", length, "audio"), weight.renamed(f"{path}.original1"), *others


def _residual(name: str, net: Net, C: int) -> Tensors:
    inner = C // net.compress
    return (
        *kept(f"{name}.block.1", C, inner, net.inner, norm=net.norm),
        *kept(f"{name}.block.3", inner, C, 1, norm=net.norm),
        *(kept(f"{name}.shortcut", C, C, 1, norm=net.norm) if net.shortcut else ()),
    )


def _lstm(name: str, C: int, layers: int) -> Tensors:
    """``nn.LSTM``: four gates in each tensor."""
    gates = (("X", 4), ("D", C))
    return tuple(
        Tensor(f"{name}.lstm.{part}_l{i}", (*gates, ("C", C)) if "weight" in part else gates, "audio", dims)
        for i in range(layers)
        for part, dims in (("weight_ih", (2, 1)), ("weight_hh", (2, 1)), ("bias_ih", (2,)), ("bias_hh", (2,)))
    )


def encoder(path: str, net: Net, D: int, sound: int) -> Tensors:
    """From ``sound`` channels to ``D``."""
    index, C = 1, net.filters
    parts = [*kept(f"{path}.0", sound, C, net.kernel, norm=net.norm)]
    for ratio in reversed(net.ratios):
        for _ in range(net.blocks):
            parts += _residual(f"{path}.{index}", net, C)
            index += 1
        parts += kept(f"{path}.{index + 1}", C, 2 * C, 2 * ratio, norm=net.norm)
        index, C = index + 2, 2 * C
    if net.lstm:
        parts += _lstm(f"{path}.{index}", C, net.lstm)
        index += 1
    return (*parts, *kept(f"{path}.{index + 1}", C, D, net.last, norm=net.norm))


def decoder(path: str, net: Net, D: int, sound: int) -> Tensors:
    """From ``D`` channels to ``sound``."""
    index, C = 1, net.filters << len(net.ratios)
    parts = [*kept(f"{path}.0", D, C, net.kernel, norm=net.norm)]
    if net.lstm:
        parts += _lstm(f"{path}.{index}", C, net.lstm)
        index += 1
    for ratio in net.ratios:
        name = f"{path}.{index + 1}"
        parts += _normed(upward(f"{name}.conv", C, C // 2, 2 * ratio), name, C // 2, net.norm)
        index, C = index + 2, C // 2
        for _ in range(net.blocks):
            parts += _residual(f"{path}.{index}", net, C)
            index += 1
    return (*parts, *kept(f"{path}.{index + 1}", net.filters, sound, net.last, norm=net.norm))
