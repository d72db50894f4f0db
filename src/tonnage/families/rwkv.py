"""RWKV-4: sums with a decay in the place of attention; no positions, no cache that grows."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head, Stem
from tonnage.arch.layers import Norm
from tonnage.arch.mixers.elementwise import ChannelMix, TimeMix
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.arch.parts import Parts
from tonnage.families import Family
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``RwkvForCausalLM`` builds."""
    D, V, L = k.need("hidden_size"), k.need("vocab_size"), k.need("num_hidden_layers")
    mix = TimeMix(name="attention", D=D, I=k.optional("attention_hidden_size") or D)
    channel = ChannelMix(name="feed_forward", D=D, F=k.optional("intermediate_size") or 4 * D)
    # The trained length: any length can be run.
    k.skip("context_length", "max_position_embeddings", "rescale_every")

    def norm(name: str) -> Norm:
        return Norm(name, (("D", D),), "layer", bias=True)

    mixes = Sublayer(block=mix, before=norm("ln1")), Sublayer(block=channel, before=norm("ln2"))
    before = Sublayer(block=Parts(what="the norm of RWKV's embedding", parts=(norm("pre_ln"),)))
    first = Layer(sublayers=(before, *mixes), kind="first layer")
    other = Layer(sublayers=mixes)
    tied = k.want("tie_word_embeddings", False)
    return Model(
        model_type="rwkv",
        stacks=(
            Stack(
                name="decoder",
                path="rwkv.blocks",
                stem=Stem(name="rwkv.embeddings", V=V, D=D),
                layers=(first,) + (other,) * (L - 1),
                norm=norm("rwkv.ln_out"),
            ),
        ),
        head=Head(name="head", D=D, V=V, alias_of="rwkv.embeddings.weight" if tied else None),
        positions=None,
        eager_only=True,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/rwkv/modeling_rwkv.py",
    attributes={"context_length": "max_position_embeddings"},
)
