"""VibeVoice's tokenizer of sound: ConvNeXt blocks between convolutions that lower the rate, or raise it again."""

from __future__ import annotations

from collections.abc import Iterator

from tonnage.arch.layers import Norm
from tonnage.arch.parts import Part
from tonnage.errors import ConfigError
from tonnage.families._pieces import matrix
from tonnage.families._towers import convolution, repeated, sizes, tower
from tonnage.keys import Keys
from tonnage.record import Record
from tonnage.tensors import Tensor


class Coder(Record):
    """Sizes of the tokenizer.

    Args:
        width: of a latent.
        channels: of the wave.
        C: filters of the first convolution; each step doubles them.
        kernel: of the convolutions that keep the rate.
        ratios: by which the others lower it.
        depths: blocks at every rate.
        wide: how many times wider a block's feed-forward part is.
    """

    width: int
    channels: int
    C: int
    kernel: int
    ratios: tuple[int, ...]
    depths: tuple[int, ...]
    wide: int

    def encoder(self, path: str) -> tuple[Tensor, ...]:
        """``VibeVoiceAcousticTokenizerEncoderModel``."""
        C, kernel, widest = self.C, self.kernel, self.C << len(self.ratios)
        found = self._stage(f"{path}.stem", C, self.depths[0], *convolution("conv.conv", self.channels, C, kernel))
        for index, (ratio, depth) in enumerate(zip(self.ratios, self.depths[1:], strict=True)):
            ins = C << index
            down = convolution("conv.conv", ins, 2 * ins, 2 * ratio)
            found += self._stage(f"{path}.conv_layers.{index}", 2 * ins, depth, *down)
        return found + tower("audio", path, *convolution("head.conv", widest, self.width, kernel))

    def decoder(self, path: str) -> tuple[Tensor, ...]:
        """``VibeVoiceAcousticTokenizerDecoderModel``: the same the other way round."""
        C, kernel, widest = self.C, self.kernel, self.C << len(self.ratios)
        first, *others = reversed(self.depths)
        found = self._stage(f"{path}.stem", widest, first, *convolution("conv.conv", self.width, widest, kernel))
        for index, (ratio, depth) in enumerate(zip(reversed(self.ratios), others, strict=True)):
            outs = widest >> (index + 1)
            up = (
                Tensor("convtr.convtr.weight", (("X", 2 * outs), ("D", outs), ("C", 2 * ratio)), "audio"),
                Tensor("convtr.convtr.bias", (("D", outs),), "audio"),
            )
            found += self._stage(f"{path}.conv_layers.{index}", outs, depth, *up)
        return found + tower("audio", path, *convolution("head.conv", C, self.channels, kernel))

    def _stage(self, path: str, D: int, depth: int, *first: Part | Tensor) -> tuple[Tensor, ...]:
        blocks = repeated("audio", f"{path}.stage", depth, *_block(D, self.wide, self.kernel))
        return tower("audio", path, *first) + blocks


def coder(k: Keys) -> Coder:
    """The tokenizer that a config describes."""
    found = Coder(
        width=k.size("hidden_size", 64),
        channels=k.size("channels", 1),
        C=k.size("num_filters", 32),
        kernel=k.size("kernel_size", 7),
        ratios=sizes(k, "downsampling_ratios", (2, 2, 4, 5, 5, 8)),
        depths=sizes(k, "depths", (3, 3, 3, 3, 3, 3, 8)),
        wide=k.size("ffn_expansion", 4),
    )
    if len(found.depths) != len(found.ratios) + 1:
        key = f"{k.path}depths"
        raise ConfigError(f"{key} must be one more than downsampling_ratios", key=key, value=list(found.depths))
    k.skip("layer_scale_init_value", "hidden_act", "vae_std")
    return found


def encoder(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """Width of its latents and tensors of the part that hears."""
    found = coder(k)
    return found.width, found.encoder(path)


def _block(D: int, wide: int, kernel: int) -> Iterator[Part | Tensor]:
    """A ConvNeXt block."""
    width, inner = ("D", D), ("F", wide * D)
    yield from (Tensor(name, (width,), "audio") for name in ("gamma", "ffn_gamma"))
    yield from (Norm(name, (width,)) for name in ("norm", "ffn_norm"))
    yield matrix("ffn.linear1", width, inner, "audio")
    yield matrix("ffn.linear2", inner, width, "audio")
    yield from convolution("mixer.conv", 1, D, kernel)
