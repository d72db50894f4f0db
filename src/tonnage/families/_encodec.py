"""EnCodec, a codec of sound: SEANet with an LSTM on both sides of codebooks (arXiv:2210.13438)."""

from __future__ import annotations

from math import ceil, prod
from typing import Final, Literal

from tonnage.errors import ConfigError
from tonnage.families._seanet import Tensors, decoder, encoder, net
from tonnage.families._towers import repeated, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

BANDWIDTHS: Final = (1.5, 3.0, 6.0, 12.0, 24.0)


def encodec(k: Keys, path: str) -> Tensors:
    """``EncodecModel`` below ``path``."""
    D, sound, rate = k.size("hidden_size", 128), k.size("audio_channels", 1), k.size("sampling_rate", 24000)
    norm: Literal["", "weight_norm", "time_group_norm"]
    norm = "weight_norm" if k.want("norm_type", "weight_norm") == "weight_norm" else "time_group_norm"
    k.refuse("norm_type", "weight_norm", "time_group_norm")
    sea = net(k, filters=32, ratios=(8, 5, 4, 2), last=7, shortcut=True)
    sea = sea.but(norm=norm, lstm=k.want("num_lstm_layers", 2))
    k.skip("normalize", "chunk_length_s", "overlap")
    rows, width = k.size("codebook_size", 1024), k.optional("codebook_dim") or D
    if rows & (rows - 1):
        key = f"{k.path}codebook_size"
        raise ConfigError(f"{key} = {rows} is not a power of two", key=key, value=rows, file=k.file)
    rates = k.optional("target_bandwidths", list) or list(BANDWIDTHS)
    if not all(isinstance(b, int | float) and not isinstance(b, bool) and 0 < b < 1e6 for b in rates):
        key = f"{k.path}target_bandwidths"
        raise ConfigError(f"{key} must be a list of positive numbers", key=key, value=rates, file=k.file)
    frames = ceil(rate / prod(sea.ratios))
    books = int(1000 * rates[-1] // (frames * (rows - 1).bit_length()))
    codes, book = (("V", rows),), (("V", rows), ("D", width))
    return (
        *tower("audio", f"{path}.encoder", *encoder("layers", sea, D, sound)),
        *tower("audio", f"{path}.decoder", *decoder("layers", sea, D, sound)),
        *repeated(
            "audio",
            f"{path}.quantizer.layers",
            books,
            Tensor("codebook.inited", (("X", 1),), "buffer"),
            Tensor("codebook.cluster_size", codes, "buffer"),
            Tensor("codebook.embed", book, "buffer"),
            Tensor("codebook.embed_avg", book, "buffer"),
        ),
    )
