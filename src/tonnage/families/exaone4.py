"""EXAONE 4.0: norms behind attention and feed-forward and of heads; every fourth layer sees all and turns nothing."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.model import Layer, Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_after, normed_heads, turned_in_windows
from tonnage.families._decoder import every, window_of, windows
from tonnage.families._experts import ahead
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Exaone4ForCausalLM`` builds. Without a window every layer sees all and turns.

    A checkpoint may store a layer that predicts a further token beside it.
    """
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token = normed_heads(attention(k, D, K=32, bias=False, o_bias=False))
    mlp = gated(k, D)
    window = window_of(k, 4096)
    if window is None or k.config.get("layer_types") is not None:
        k.skip("sliding_window_pattern")
        pattern = 1
    else:
        pattern = every(k, "sliding_window_pattern", 4)
    seen = windows(k, L, window, lambda i: (i + 1) % pattern != 0)

    @cache
    def layer(seen: int | None) -> Layer:
        block = turned_in_windows(token, seen, everywhere=window is None)
        return normed_after(block, mlp, D, kind="full layer" if seen is None else "sliding layer")

    model = decoder(k, D, tuple(map(layer, seen)), width=token.H, positions=2048)
    # EXAONE 4.5 stores a layer that predicts a further token; what it is called is not known.
    k.skip("mtp_loss_scaling_factor", "mtp_share_layers")
    further = range(k.want("num_nextn_predict_layers", 0))
    last = model.decoder.layers[-1]
    stored = (ahead(last, i, D, model.vocabulary, tables=False, path=f"mtp.layers.{i}.") for i in further)
    return model.but(apart=tuple(t for layer in stored for t in layer))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/exaone4/"
    "modeling_exaone4.py",
)
