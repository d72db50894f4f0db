"""ProphetNet: an encoder-decoder that predicts several tokens at once, with relative positions (arXiv:2001.04063)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem, Table
from tonnage.arch.feedforward import Plain
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.families import Family
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.families._seq2seq import Side
from tonnage.keys import Keys
from tonnage.tensors import Tensor

WORDS: Final = "prophetnet.word_embeddings"


class _Parts:
    """What both stacks are made of."""

    def __init__(self, k: Keys) -> None:
        self.k = k
        self.D, self.V = k.need("hidden_size"), k.need("vocab_size")
        self.P = k.size("max_position_embeddings", 512)
        self.act, self.dropout = k.want("activation_function", "gelu"), k.want("dropout", 0.1)
        self.attention_dropout = k.want("attention_dropout", 0.1)
        self.buckets, self.ngram = k.size("num_buckets", 32), k.size("ngram", 2)
        self.crosses = k.want("add_cross_attention", True)
        self.tied = k.want("tie_word_embeddings", True)
        k.skip("activation_dropout", "disable_ngram_loss", "eps", "relative_max_distance", "encoder_layerdrop")
        k.skip("decoder_layerdrop", "gradient_checkpointing", "num_hidden_layers", "disable_ngram_loss")

    def attention(self, side: Side, name: str, **fields: Any) -> GroupedQuery:
        """Four matrices with biases."""
        key = f"num_{side}_attention_heads"
        N = self.k.need(key)
        H = self.k.divides("hidden_size", key, self.D, N)
        names = {"q": "query_proj", "k": "key_proj", "v": "value_proj", "o": "out_proj"}
        given = {**names, "dropout": self.attention_dropout, "rotary": None, "bias": True, "o_bias": True, **fields}
        return GroupedQuery(name=name, D=self.D, N=N, K=N, H=H, **given)

    def sub(self, block: Any, norm: str) -> Sublayer:
        """A block whose sum is normed."""
        return Sublayer(block=block, of_sum=layer_norm(norm, self.D), dropout=self.dropout)

    def layer(self, side: Side, *, alone: bool = False) -> Layer:
        """Attention, in the decoder over the encoder too, and the feed-forward block."""
        F, D = self.k.need(f"{side}_ffn_dim"), self.D
        mlp = Plain(name="feed_forward", D=D, F=F, act=self.act, up="intermediate", down="output")
        own = self.attention(side, "self_attn", causal=side == "decoder")
        parts: tuple[Any, ...] = ()
        if side == "decoder":
            wide = self.buckets * own.N
            parts = (matrix("self_attn.relative_pos_embeddings", ("D", D), ("X", wide), "position"),)
        subs = [self.sub(counted("ProphetNet's streams of attention", own, *parts), "self_attn_layer_norm")]
        if side == "decoder" and self.crosses:
            cross = self.attention(side, "cross_attn", causal=False, cross=True)
            kept = cross.matrices() if alone else (cross,)
            subs.append(self.sub(counted("ProphetNet", *kept), "cross_attn_layer_norm"))
        return Layer(sublayers=(*subs, self.sub(mlp, "feed_forward_layer_norm")))

    def stack(self, side: Side, *, alone: bool = False) -> Stack:
        """Embedding, positions, in the decoder those of the tokens ahead, layers."""
        path, D = f"prophetnet.{side}", self.D
        tables: tuple[Table, ...] = (Table(name=f"{path}.position_embeddings", rows=self.P, width=D),)
        if side == "decoder":
            tables += (Table(name=f"{path}.ngram_embeddings", rows=self.ngram, width=D),)
        stem = Stem(
            name=f"{path}.word_embeddings",
            V=self.V,
            D=D,
            tables=tables,
            norm=layer_norm(f"{path}.embeddings_layer_norm", D),
            dropout=self.dropout,
            alias_of=f"{WORDS}.weight" if self.tied else None,
        )
        layers = (self.layer(side, alone=alone),) * self.k.need(f"num_{side}_layers")
        return Stack(name=side, path=f"{path}.layers", stem=stem, layers=layers)

    def model(self, *stacks: Stack) -> Model:
        """The model around its stacks; the table stands beside them."""
        D, V = self.D, self.V
        return Model(
            model_type="prophetnet",
            stacks=stacks,
            head=Head(name="lm_head", D=D, V=V, alias_of=f"{WORDS}.weight" if self.tied else None),
            positions=self.P,
            table=True,
            causal=len(stacks) == 1,
            extra=(Tensor(f"{WORDS}.weight", (("V", V), ("D", D)), "embedding"),),
        )


def read(k: Keys) -> Model:
    """Build ``ProphetNetForCausalLM``, the decoder alone."""
    parts = _Parts(k)
    k.skip("num_encoder_layers", "num_encoder_attention_heads", "encoder_ffn_dim")
    return parts.model(parts.stack("decoder", alone=True))


def read_both(k: Keys) -> Model:
    """Build ``ProphetNetForConditionalGeneration``."""
    parts = _Parts(k)
    return parts.model(parts.stack("encoder"), parts.stack("decoder"))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/prophetnet/"
    "modeling_prophetnet.py",
    attributes={"num_encoder_attention_heads": "num_attention_heads"},
    classes={"seq2seq": read_both, "none": read_both},
)
