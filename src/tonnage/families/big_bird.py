"""BigBird: BERT whose attention is sparse in blocks, with the pooler in every class (arXiv:2007.14062)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Block, Layer, Model, Sublayer
from tonnage.arch.sparse.blockwise import Blockwise
from tonnage.arch.sparse.sparse_ends import Blocked, Pooling
from tonnage.families import Family
from tonnage.families._encoder import attention, classifier, encoder, feed_forward, only_encoder, predictions, stem
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.keys import Keys
from tonnage.record import stated


def read(k: Keys) -> Model:
    """Build the model that ``BigBirdForMaskedLM`` builds. ``BigBirdForCausalLM`` holds the same tensors."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 4096)
    only_encoder(k)
    k.refuse("position_embedding_type", "absolute")
    # How the blocks are chosen; the tensors are the same.
    sparse = k.want("attention_type", "block_sparse") == "block_sparse"
    block, random = k.size("block_size", 64), k.size("num_random_blocks", 3)
    k.skip("gradient_checkpointing")
    act, tied = k.want("hidden_act", "gelu_new"), k.want("tie_word_embeddings", True)
    table = stem(k, "bert", D, P=P).but(scaled=k.want("rescale_embeddings", False))
    drops, bias = k.want("hidden_dropout_prob", 0.1), k.want("use_bias", True)
    known = attention(k, D, N, bias=bias)
    attends: Block = counted("BigBird's full attention", known)
    if sparse:
        attends = Blockwise(name="attention", D=D, N=N, H=known.H, block=block, random=random, bias=bias)
    layer = Layer(
        sublayers=(
            Sublayer(block=attends, of_sum=layer_norm("attention.output.LayerNorm", D), dropout=drops, named=True),
            Sublayer(
                block=feed_forward(k, D, act="gelu_new"), of_sum=layer_norm("output.LayerNorm", D), dropout=drops,
                named=True,
            ),
        )
    )  # fmt: skip
    return encoder(
        k,
        "bert",
        Blocked(**stated(table), block=block) if sparse else table,
        (layer,) * k.need("num_hidden_layers"),
        Pooling(**stated(predictions("bert", D, k.need("vocab_size"), act, tied=tied)), pools=D),
        positions=P,
        classifier=classifier(D, act=act),
        extra=tuple(matrix("bert.pooler", ("D", D), ("D", D), "pooler").weights()),
    ).but(eager_only=True)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/big_bird/"
    "modeling_big_bird.py",
)
