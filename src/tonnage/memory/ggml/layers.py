"""llama.cpp's graphs, derived from the kinds of block that a model is made of.

The builders of llama.cpp are one per architecture and differ little: what differs and no kind tells is a row of
``HABITS``. A structure that no builder here knows raises ``Unmodelled``, and its compute buffer is told as a range.

Reference: src/llama-graph.cpp and src/models/*.cpp of ggml-org/llama.cpp v0.5.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tonnage.arch.attention import GroupedQuery, Latent
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated, Plain
from tonnage.arch.layers import HeadNorms, Norm
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.memory.ggml.attention import attention, latent
from tonnage.memory.ggml.feed import experts, gated, plain
from tonnage.memory.ggml.graph import F32, I32, Graph, Node, Unmodelled, held, leaf
from tonnage.memory.ggml.recurrent import recurrent
from tonnage.record import Record


class Habits(Record):
    """What an architecture's builder does that no kind of block tells.

    Args:
        scaled_queries: queries are multiplied by a number before attention (Gemma, Phi).
        sum: how a parallel layer adds up: "attention" (attention, feed-forward, residual), "feed_forward"
            (feed-forward, attention, residual), "residual" (feed-forward, residual, attention).
        residual_left: the sum after the feed-forward block names the residual first (Phi-3, LFM2).
        rows: where rows of tokens without output are dropped: "layer" (in the last), "end" (behind it), "norm" (behind
            the last norm).
        keeps_input: the last layer's output is a result of the graph (gpt-oss).
        gate: how the shared expert's gate is made: "divided" (silu(x) / x) or "sigmoid".
        normalises: whether the chosen experts' weights are divided by their sum, whatever the config says.
        early: a layer's norm runs before its states are read.
        positions: numbers that tell where a token stands (4 with sections for time, height and width).
    """

    scaled_queries: bool = False
    sum: str = "residual"
    residual_left: bool = False
    rows: str = "layer"
    keeps_input: bool = False
    gate: str = "sigmoid"
    normalises: bool | None = None
    early: bool = False
    positions: int = 1


PLAIN: Final = Habits()
HABITS: Final[Mapping[str, Habits]] = {
    "gemma": Habits(scaled_queries=True),
    "gemma2": Habits(scaled_queries=True),
    "gemma3_text": Habits(scaled_queries=True),
    "phi": Habits(scaled_queries=True, sum="attention"),
    "phi3": Habits(scaled_queries=True, residual_left=True),
    "falcon": Habits(sum="feed_forward"),
    "gpt_oss": Habits(rows="end", keeps_input=True),
    "qwen2_moe": Habits(gate="divided", normalises=False),
    "qwen3_moe": Habits(normalises=True),
    "mixtral": Habits(normalises=True),
    "olmoe": Habits(normalises=False),
    "qwen2_vl": Habits(positions=4),
    "qwen2_5_vl": Habits(positions=4),
    "qwen3_vl": Habits(positions=4),
    "qwen3_vl_moe": Habits(positions=4, normalises=True),
    "qwen3_next": Habits(rows="norm", early=True),
    "qwen3_5_text": Habits(rows="norm", early=True, positions=4),
    "qwen3_5_moe_text": Habits(rows="norm", early=True, positions=4),
    "granitemoe": Habits(normalises=True),
    "lfm2": Habits(residual_left=True),
}
"""By model type; every other builder is as ``PLAIN``."""


COMPARED: Final = frozenset(
    (
        "arcee", "bloom", "cohere", "cohere2", "deepseek_v2", "deepseek_v3", "ernie4_5", "exaone4", "falcon", "gemma",
        "gemma2", "gemma3_text", "glm4", "glm4_moe", "glm4_moe_lite", "gpt2", "gpt_neox", "gpt_oss", "granite",
        "granitemoe", "kimi_k25", "lfm2", "llama", "mamba", "mamba2", "minimax_m2", "ministral3", "mistral",
        "mixtral", "mpt", "olmo", "olmo2", "olmo3", "olmoe", "phi", "phi3", "plain", "qwen2", "qwen2_5_vl",
        "qwen2_moe", "qwen2_vl", "qwen3", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_moe", "qwen3_next", "qwen3_vl",
        "qwen3_vl_moe", "seed_oss", "smollm3", "stablelm", "starcoder2",
    )
)  # fmt: skip
"""Types whose graphs were compared with llama.cpp's own, node by node (scripts/llamacpp/)."""


class Batch(Record):
    """What a graph is made for.

    Args:
        tokens: in one pass.
        sequences: among which they are divided.
        outputs: tokens whose logits are asked for.
        cells: of the cache of full attention.
        window_cells: of the cache of windowed attention; None where no layer has one of its own.
        streams: caches side by side: 1 where all sequences share one.
        flash: whether attention is one operation.
        k, v: formats of keys and values.
        slots: of the recurrent state.
    """

    tokens: int
    sequences: int
    outputs: int
    cells: int
    window_cells: int | None
    streams: int
    flash: bool
    k: str
    v: str
    slots: int


Held = Callable[[str, int | None], tuple[int, str]]
"""Device and format of a weight by llama.cpp's name (without ``blk.N.`` and ``.weight``) and layer."""


class Builder:
    """Builds one graph.

    Args:
        model: whose.
        batch: for what.
        where: device and format of every weight.
        cache: device of each layer's cache.
        pinned: device that attention is held to where it is not one operation; None for none.
        norms: device that a layer's norms are held to; None where the scheduler decides.
        factors: whether the file has factors of the rotation's frequencies.
    """

    def __init__(
        self, model: Model, batch: Batch, where: Held, cache: Callable[[int], int], *, pinned: int | None = None,
        norms: Callable[[int], int] | None = None, factors: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.b, self.where, self.cache = model, batch, where, cache
        self.pinned, self.norms, self.factors = pinned, norms, factors
        self.habits = HABITS.get(model.model_type, PLAIN)
        self.graph = Graph()
        self.inputs: dict[str, Node] = {}
        self.views: dict[str, Node] = {}
        self.layer: int | None = None
        blocks = [s.block for layer in model.decoder.layers for s in layer.sublayers]
        self.deep = len({t.name.split(".")[-3] for t in model.extra if "deepstack_merger_list" in t.name})
        self.values = max((values_width(b) for b in blocks), default=0)

    # Inputs and weights.

    def weight(self, name: str, *ne: int) -> Node:
        """A weight of the layer at hand, or of none."""
        home, form = self.where(name, self.layer)
        return held(home, form, *ne)

    def small(self, name: str, *ne: int) -> Node:
        """A weight that is fp32 in every file: norms and biases."""
        return held(self.where(name, self.layer)[0], "fp32", *ne)

    def given(self, name: str, *ne: int, block: tuple[int, int] = F32) -> Node:
        """An input that all layers share."""
        found = self.inputs.get(name)
        if found is None:
            found = self.inputs[name] = leaf(*ne, block=block)
        return found

    @property
    def positions(self) -> Node:
        """Where each token stands."""
        return self.given("positions", self.b.tokens * self.habits.positions, block=I32)

    @property
    def output_rows(self) -> Node:
        """Tokens whose logits are asked for."""
        return self.given("output rows", self.b.outputs, block=I32)

    # The whole.

    def build(self, indices: Sequence[int]) -> Graph:
        """The graph of one pass.

        Args:
            indices: the layers that it runs, in order.

        Raises:
            Unmodelled: a structure that is not known.
        """
        x = self.embedded()
        layers = self.model.decoder.layers
        for index in indices:
            self.layer = index
            x = self.one(layers[index], x, last=index == len(layers) - 1)
            if index < self.deep:
                deep = self.views["deep"]
                x = x.like("ADD", deep.view(deep.ne, deep.nb))
        self.layer = None
        self.head(x)
        return self.graph

    def embedded(self) -> Node:
        """Rows of the table of tokens, and what is added to them."""
        stem, T = self.model.decoder.stem, self.b.tokens
        if stem.width is not None or stem.widen is not None or len(self.model.stacks) > 1:
            raise Unmodelled("a projected embedding")
        # Pictures of some models bring vectors for their first layers too.
        wide = stem.D * (1 + self.deep)
        tokens, vectors = self.given("tokens", T, block=I32), self.given("vectors", wide, T)
        x = self.weight("token_embd", stem.D, stem.rows or stem.V).pick(tokens)
        if self.deep:
            x = x.padded(wide, T)
        # A batch may hold vectors instead of tokens: their input is there in any case.
        self.graph.expand(x)
        self.graph.expand(vectors)
        if self.deep:
            self.views["deep"] = x = self.graph.expand(x.view((stem.D, T, 1, 1), x.nb))
        if stem.scaled:
            x = x.like("SCALE")
        for table in stem.tables:
            x = x.like("ADD", self.small("position_embd", table.width, table.rows).pick(self.positions))
        if stem.norm is not None:
            self.layer = 0
            x = self.norm(x, stem.norm, "token_embd_norm")
            self.layer = None
        return x

    def head(self, x: Node) -> None:
        """The last norm and the logits: both are results of the graph."""
        head, norm, h = self.model.head, self.model.decoder.norm, self.habits
        x.output = h.keeps_input
        if h.rows == "end":
            x = x.pick(self.output_rows)
        if norm is not None:
            x = self.norm(x, norm, "output_norm")
        x.output = True
        if h.rows == "norm":
            x = x.pick(self.output_rows)
            x.output = True
        if head is not None:
            x = self.weight("output", head.D, head.V).matmul(x)
            if head.bias:
                x = x.like("ADD", self.small("output", head.V))
            if head.capped:
                x = x.like("SCALE").like("UNARY").like("SCALE")
            elif head.scaled:
                x = x.like("SCALE")
            x.output = True
        self.graph.expand(x)

    # One layer.

    def one(self, layer: Layer, x: Node, *, last: bool) -> Node:
        """A layer; in the last one, tokens without output are dropped between attention and feed-forward."""
        last = last and self.habits.rows == "layer"
        if layer.parallel:
            return self.parallel(layer, x, last=last)
        for sub in layer.sublayers:
            mixes = not isinstance(sub.block, (Gated, Plain, Experts))
            y = x if sub.before is None else self.norm(x, sub.before, "attn_norm" if mixes else "ffn_norm")
            if mixes and self.habits.early:
                self.graph.expand(y)
            y = self.block(sub, y)
            if last and mixes:
                y, x = y.pick(self.output_rows), x.pick(self.output_rows)
            if sub.after is not None:
                y = self.norm(y, sub.after, "post_norm", held=mixes)
            if sub.scaled:
                y = y.like("SCALE")
            left = self.habits.residual_left and (not mixes or self.model.model_type == "lfm2")
            x = x.like("ADD", y) if left else y.like("ADD", x)
        return x

    def parallel(self, layer: Layer, x: Node, *, last: bool) -> Node:
        """Attention and feed-forward side by side."""
        attention, feed = layer.sublayers
        shared = None if layer.norm is None else self.norm(x, layer.norm, "attn_norm")
        first = shared if shared is not None else self.normed(attention, x, "attn_norm")
        own = feed.before is not None and self.model.model_type != "falcon"
        # Falcon-40B norms twice before attention; GPT-NeoX norms for the feed-forward block behind it.
        second = shared if own or shared is not None else self.normed(feed, x, "attn_norm_2")
        a = self.block(attention, first)
        if last:
            a, x = a.pick(self.output_rows), x.pick(self.output_rows)
            if not own and second is not None:
                second = second.pick(self.output_rows)
        if own:
            second = self.normed(feed, x, "ffn_norm")
        if second is None:
            raise Unmodelled("a parallel layer without a norm")
        f = self.block(feed, second)
        if self.habits.sum == "attention":
            return a.like("ADD", f).like("ADD", x)
        if self.habits.sum == "feed_forward":
            return f.like("ADD", a).like("ADD", x)
        return f.like("ADD", x).like("ADD", a)

    def normed(self, sub: Sublayer, x: Node, name: str) -> Node:
        """A sublayer's input."""
        return x if sub.before is None else self.norm(x, sub.before, name)

    def block(self, sub: Sublayer, x: Node) -> Node:
        """What a sublayer computes."""
        b = sub.block
        if isinstance(b, GroupedQuery):
            return attention(self, b, x)
        if isinstance(b, Latent):
            return latent(self, b, x)
        if isinstance(b, Gated):
            return gated(self, b, x)
        if isinstance(b, Plain):
            return plain(self, b, x)
        if isinstance(b, Experts):
            return experts(self, b, x)
        found = recurrent(self, b, x)
        if found is None:
            raise Unmodelled(type(b).__name__)
        return found

    def norm(self, x: Node, norm: Norm | HeadNorms, name: str, *, held: bool = True) -> Node:
        """A norm, its scale and its shift."""
        if isinstance(norm, HeadNorms):
            return self.held_norm(x.like("NORM")).like("MUL", self.small(name, norm.width, norm.heads))
        layered, width = norm.style.startswith("layer"), x.ne[0]
        x = x.like("NORM" if layered else "RMS_NORM")
        if norm.weight and norm.style not in ("layer-fp32", "rms-bare"):
            x = (self.held_norm(x) if held else x).like("MUL", self.small(name, width))
        if norm.bias:
            x = x.like("ADD", self.small(name, width))
        return x

    def held_norm(self, x: Node) -> Node:
        """A norm on its layer's device: else it would run with the layer before, and two tensors would cross."""
        if self.norms is not None and self.layer is not None:
            x.where = self.norms(self.layer)
        return x

    def turned(self, x: Node) -> Node:
        """Queries or keys turned by their positions."""
        if not self.factors:
            return x.like("ROPE", self.positions)
        # One tensor for all layers of a device.
        home = self.where("rope_freqs", self.layer)[0]
        key = f"rotation's factors {home}"
        if key not in self.views:
            self.views[key] = held(home, "fp32", x.ne[0] // 2)
        return x.like("ROPE", self.positions, self.views[key])

    def linear(self, name: str, ins: int, outs: int, x: Node, *, bias: bool = False) -> Node:
        """A matrix and its bias."""
        x = self.weight(name, ins, outs).matmul(x)
        return x.like("ADD", self.small(name, outs)) if bias else x


def values_width(b: object) -> int:
    """Elements of a token's values."""
    if isinstance(b, GroupedQuery):
        return b.K * b.value_width
    caches = [p for p in getattr(b, "parts", ()) if hasattr(p, "K")]
    return sum(p.K * (p.VH or p.H) for p in caches)
