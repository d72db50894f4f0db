"""CANINE: an encoder of characters, hashed into several tables and joined before the deep layers (arXiv:2103.06874)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Stem, Table
from tonnage.arch.model import Layer, Model
from tonnage.families import Family
from tonnage.families._encoder import attention, encoder, only_encoder, pooler, unrun
from tonnage.families._pieces import layer_norm
from tonnage.families._towers import convolution, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

BASE: Final = "canine"


def read(k: Keys) -> Model:
    """Build the model that ``CanineModel`` builds."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 16384)
    only_encoder(k)
    k.skip("local_transformer_stride")
    layer = unrun(k, D, "an encoder of characters", attention(k, D, N))
    tables, rows = k.size("num_hash_functions", 8), k.size("num_hash_buckets", 16384)
    part = k.divides("hidden_size", "num_hash_functions", D, tables)
    path = f"{BASE}.char_embeddings"
    stem = Stem(
        name="",
        V=rows,
        D=D,
        tables=(
            Table(name=f"{path}.char_position_embeddings", rows=rows, width=D),
            Table(name=f"{path}.token_type_embeddings", rows=k.size("type_vocab_size", 16), width=D),
        ),
        norm=layer_norm(f"{path}.LayerNorm", D),
        dropout=k.want("hidden_dropout_prob", 0.1),
        buffers=(Tensor(f"{path}.position_ids", (("X", 1), ("P", P)), "buffer", dtype="int64"),),
    )
    down, up = k.size("downsampling_rate", 4), k.size("upsampling_kernel_size", 4)
    extra = (
        *(
            Tensor(f"{path}.HashBucketCodepointEmbedder_{i}.weight", (("V", rows), ("D", part)), "embedding")
            for i in range(tables)
        ),
        *_shallow("initial_char_encoder", layer),
        *_joined("chars_to_molecules", D, D, down),
        *_joined("projection", 2 * D, D, up),
        *_shallow("final_char_encoder", layer),
    )
    layers = (layer,) * k.need("num_hidden_layers")
    return encoder(k, BASE, stem, layers, None, positions=P, pooler=pooler(BASE, D), extra=extra)


def _shallow(name: str, layer: Layer) -> tuple[Tensor, ...]:
    """One layer over characters."""
    return tuple(t.renamed(f"{BASE}.{name}.layer.0.{t.name}") for t in layer.weights())


def _joined(name: str, ins: int, outs: int, kernel: int) -> tuple[Tensor, ...]:
    """A convolution over characters, and a norm."""
    norm = layer_norm("LayerNorm", outs)
    return tower("embedding", f"{BASE}.{name}", *convolution("conv", ins, outs, kernel), norm)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/canine/modeling_canine.py",
)
