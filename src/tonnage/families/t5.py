"""T5: an encoder and a decoder with relative positions, cross attention, plain or gated feed-forward.

mT5 and umT5 are the same, the latter with positions in every layer; LongT5's encoder attends to blocks; in Switch
Transformers some feed-forward blocks are experts; Pop2Piano reads sound, and has a composer's embedding and a head of
its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.capacity import Capped
from tonnage.arch.ends import Head, Stem
from tonnage.arch.feedforward import Gated, Plain
from tonnage.arch.layers import Norm
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.arch.pair import Pair
from tonnage.arch.parts import Part, Parts
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._pieces import FORMATS, counted
from tonnage.keys import Keys
from tonnage.tensors import Tensor

MODELLED: Final = ("t5", "mt5", "umt5", "switch_transformers")
"""Types whose training step is modelled."""


def read(k: Keys) -> Model:
    """Build the model that ``T5ForConditionalGeneration`` loads from a checkpoint.

    The class ties the head to the embedding whatever its config says, but ``from_pretrained`` leaves them apart where
    a checkpoint stores both. ``tie_word_embeddings = false`` marks those checkpoints (T5 1.1, Flan-T5).
    """
    D, V, L = k.need("hidden_size"), k.need("vocab_size"), k.need("num_hidden_layers")
    dropout = k.want("dropout_rate", 0.1)
    k.skip("relative_attention_max_distance", "output_past", "tokenizer_class")
    k.skip("local_radius", "global_block_size", "num_experts", "router_bias", "add_cross_attention")
    parts = _Parts(k, D, dropout)
    switches = parts.switches
    tied = k.want("tie_word_embeddings", True)
    # T5's configuration works it out where it does not say; umT5's code asks for the tie, mT5's never scales.
    stated = bool(k.optional("scale_decoder_outputs", bool, tied))
    scales = tied if parts.kind in ("umt5", "switch_transformers") else stated and parts.kind == "t5"
    composers: tuple[Tensor, ...] = ()
    # T5's stacks share one table whatever its config says; that of Switch Transformers unties all, and uses none.
    shared, word = ("shared.weight", "shared") if tied or not switches else (None, "encoder.embed_tokens")
    if parts.kind == "pop2piano":
        rows, tied = k.size("composer_vocab_size", 21), False
        composers = (Tensor("mel_conditioner.embedding.weight", (("V", rows), ("D", D)), "audio"),)
    unused = "shared" if shared is None else "encoder.embed_tokens"
    # ``_keep_in_fp32_modules``: loaded in fp32 beside fp16, and packed by no scheme.
    kept = ("DenseReluDense.wo",) if parts.kind in ("mt5", "pop2piano", "t5", "umt5") else ()
    return Model(
        model_type=parts.kind,
        stacks=(
            Stack(
                name="encoder",
                path="encoder.block",
                stem=Stem(name=word, V=V, D=D, dropout=dropout),
                layers=parts.layers(L, decoder=False),
                norm=parts.norm("encoder.final_layer_norm"),
                dropout=dropout,
                ones=switches,
            ),
            Stack(
                name="decoder",
                path="decoder.block",
                stem=Stem(name="decoder.embed_tokens", V=V, D=D, dropout=dropout, alias_of=shared),
                layers=parts.layers(k.optional("num_decoder_layers") or L, decoder=True),
                norm=parts.norm("decoder.final_layer_norm"),
                dropout=dropout,
                ones=switches,
            ),
        ),
        head=Head(name="lm_head", D=D, V=V, alias_of="shared.weight" if tied else None, divided=scales),
        positions=k.size("n_positions", 512),
        eager_only=switches,
        extra=(
            Tensor(f"{unused}.weight", (("V", V), ("D", D)), "embedding", alias_of=shared),
            *composers,
        ),
        causal=False,
        pair=Pair(caches=bool(k.config.get("use_cache", True))) if parts.kind in MODELLED else None,
        plain=kept,
        fp32_for_fp16=kept,
    )


class _Parts:
    """What the layers of both stacks are made of."""

    def __init__(self, k: Keys, D: int, dropout: float) -> None:
        self.k = k
        self.kind = str(k.config["model_type"])
        self.D = D
        self.dropout = dropout
        self.N = k.need("num_attention_heads")
        self.H = k.size("d_kv", 64)
        self.F = k.need("d_ff")
        self.buckets = k.size("relative_attention_num_buckets", 32)
        self.switches = self.kind == "switch_transformers"
        if self.switches:
            self.act, self.gated = k.want("dense_act_fn", "relu"), False
        else:
            self.act, self.gated = _activation(k, "gated-gelu" if self.kind in ("mt5", "pop2piano", "umt5") else "relu")
        self.long = self.kind == "longt5" and k.want("encoder_attention_type", "local")
        if self.long not in (False, "local", "transient-global"):
            raise ConfigError(
                f"encoder_attention_type = {self.long!r} is neither local nor transient-global",
                key="encoder_attention_type",
                value=self.long,
            )

    def norm(self, name: str) -> Norm:
        return Norm(name, (("D", self.D),), "rms-t5")

    def layers(self, count: int, *, decoder: bool) -> tuple[Layer, ...]:
        """The first layer holds the table of relative positions, unless each has one; the others are alike."""
        sparse = self._sparse(count, "decoder" if decoder else "encoder")

        @cache
        def layer(holds: bool, routes: bool) -> Layer:
            return self._layer(decoder, self.buckets if holds else None, routes)

        return tuple(layer(not i or self.kind == "umt5", sparse(i)) for i in range(count))

    def _sparse(self, count: int, side: str) -> Callable[[int], bool]:
        """Which layers have experts."""
        if not self.switches:
            return lambda i: False
        wanted = self.k.want(f"num_sparse_{side}_layers", 3)
        stated = self.k.optional(f"{side}_sparse_step")
        step = stated if stated is not None else count // wanted if wanted > 0 else count
        return lambda i: step > 0 and (i % step == 1 or step == 1)

    def _layer(self, decoder: bool, buckets: int | None, routes: bool) -> Layer:
        name = "SelfAttention"
        if self.long and not decoder:
            name = "LocalSelfAttention" if self.long == "local" else "TransientGlobalSelfAttention"
        attention = self._attention(f"layer.0.{name}", decoder, buckets)
        subs = [self._sub(0, self._blocked(attention, buckets) if self.long and not decoder else attention)]
        if decoder:
            subs.append(self._sub(1, self._attention("layer.1.EncDecAttention", False, None, cross=True)))
        last = len(subs)
        path = f"layer.{last}.{'mlp' if self.switches else 'DenseReluDense'}"
        subs.append(self._sub(last, self._experts(path) if routes else self._feed_forward(path)))
        return Layer(sublayers=tuple(subs), kind="layer with experts" if routes else "layer")

    def _blocked(self, attention: GroupedQuery, buckets: int | None) -> Parts:
        """LongT5's attention over blocks, which may also see sums of all blocks."""
        extra: tuple[Part | Tensor, ...] = ()
        if self.long == "transient-global":
            extra = (Norm(f"{attention.name}.global_input_layer_norm", (("D", self.D),), "rms-t5"),)
            if buckets is not None:
                axes = (("X", buckets), ("N", self.N))
                extra += (Tensor(f"{attention.name}.global_relative_attention_bias.weight", axes, "position"),)
        return counted("LongT5's attention", attention, *extra)

    def _experts(self, path: str) -> Capped:
        """Switch Transformers' experts, one for each token."""
        k = self.k
        k.skip("router_ignore_padding_tokens", "add_router_probs")
        # Of configs that were written when experts could be others.
        k.skip("router_type", "feed_forward_proj", "is_gated_act")
        stated = k.want("router_dtype", "float32")
        if stated not in FORMATS:
            raise ConfigError(
                f"router_dtype = {stated!r} is none of {', '.join(FORMATS)}", key="router_dtype", value=stated
            )
        block = self._feed_forward("")
        assert isinstance(block, Plain)
        return Capped(
            name=path,
            D=self.D,
            E=k.size("num_experts", 8),
            capacity=k.size("expert_capacity", 64),
            block=block,
            bias=k.want("router_bias", False),
            router_dtype=FORMATS[stated],
            jitter=k.want("router_jitter_noise", 0.01) > 0,
        )

    def _sub(self, index: int, block: GroupedQuery | Plain | Gated | Parts | Capped) -> Sublayer:
        return Sublayer(
            block=block, before=self.norm(f"layer.{index}.layer_norm"), dropout=self.dropout, rebinds=True,
            bounded=True,
        )  # fmt: skip

    def _attention(self, name: str, causal: bool, buckets: int | None, *, cross: bool = False) -> GroupedQuery:
        return GroupedQuery(
            name=name,
            D=self.D,
            N=self.N,
            K=self.N,
            H=self.H,
            q="q",
            k="k",
            v="v",
            o="o",
            rotary=None,
            causal=causal,
            cross=cross,
            position_bias="own" if self.kind == "umt5" else "relative",
            buckets=buckets,
            dropout=self.dropout,
            eager="relative",
        )

    def _feed_forward(self, name: str) -> Plain | Gated:
        if self.gated:
            return Gated(
                name=name, D=self.D, F=self.F, act=self.act, gate="wi_0", up="wi_1", down="wo",
                inner_dropout=self.dropout, restored=True,
            )  # fmt: skip
        return Plain(
            name=name,
            D=self.D,
            F=self.F,
            act=self.act,
            up="wi",
            down="wo",
            bias=False,
            inner_dropout=self.dropout,
            restored=True,
        )


def _activation(k: Keys, default: str) -> tuple[str, bool]:
    """``feed_forward_proj`` is "relu" or "gated-silu"; "gated-gelu" stands for the written-out gelu."""
    stated = k.want("feed_forward_proj", default)
    # Written beside it by newer versions, and worked out anew when read.
    k.skip("dense_act_fn", "is_gated_act")
    parts = stated.split("-")
    if len(parts) > 2 or (len(parts) == 2 and parts[0] != "gated"):
        raise ConfigError(
            f"feed_forward_proj = {stated!r} is neither an activation function nor gated-<one>",
            key="feed_forward_proj",
            value=stated,
        )
    return "gelu_new" if stated == "gated-gelu" else parts[-1], parts[0] == "gated"


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/t5/modeling_t5.py",
    attributes={"hidden_size": "d_model", "num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"},
)
