"""FNet: BERT with Fourier transforms in the place of attention (arXiv:2105.03824)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._encoder import encoder, feed_forward, pooler, predictions, stem
from tonnage.families._pieces import counted, layer_norm
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``FNetForMaskedLM`` builds, its pooler included."""
    base = "fnet"
    D, P = k.need("hidden_size"), k.size("max_position_embeddings", 512)
    k.skip("use_tpu_fourier_optimizations", "tpu_short_seq_length")
    act, tied = k.want("hidden_act", "gelu_new"), k.want("tie_word_embeddings", True)
    layer = Layer(
        sublayers=(
            Sublayer(block=counted("a Fourier transform"), of_sum=layer_norm("fourier.output.LayerNorm", D)),
            Sublayer(block=feed_forward(k, D, act=act), of_sum=layer_norm("output.LayerNorm", D)),
        )
    )
    return encoder(
        k,
        base,
        stem(k, base, D, P=P, types=4, width=D, widen=f"{base}.embeddings.projection"),
        (layer,) * k.need("num_hidden_layers"),
        predictions(base, D, k.need("vocab_size"), act, tied=tied),
        positions=P,
        extra=pooler(base, D),
        causal=False,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/fnet/modeling_fnet.py",
)
