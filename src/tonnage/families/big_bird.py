"""BigBird: BERT whose attention is sparse in blocks, with the pooler in every class (arXiv:2007.14062)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._encoder import attention, classifier, encoder, feed_forward, only_encoder, predictions, stem
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``BigBirdForMaskedLM`` builds. ``BigBirdForCausalLM`` holds the same tensors."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 4096)
    only_encoder(k)
    k.refuse("position_embedding_type", "absolute")
    # How the blocks are chosen; the tensors are the same.
    k.skip("attention_type", "block_size", "num_random_blocks", "rescale_embeddings", "gradient_checkpointing")
    act, tied = k.want("hidden_act", "gelu_new"), k.want("tie_word_embeddings", True)
    layer = Layer(
        sublayers=(
            Sublayer(
                block=counted("BigBird's sparse attention", attention(k, D, N, bias=k.want("use_bias", True))),
                of_sum=layer_norm("attention.output.LayerNorm", D),
            ),
            Sublayer(block=feed_forward(k, D, act="gelu_new"), of_sum=layer_norm("output.LayerNorm", D)),
        )
    )
    return encoder(
        k,
        "bert",
        stem(k, "bert", D, P=P),
        (layer,) * k.need("num_hidden_layers"),
        predictions("bert", D, k.need("vocab_size"), act, tied=tied),
        positions=P,
        classifier=classifier(D, act=act),
        extra=tuple(matrix("bert.pooler", ("D", D), ("D", D), "pooler").weights()),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/big_bird/"
    "modeling_big_bird.py",
)
