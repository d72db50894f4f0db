"""Llama 3.2 Vision: Llama with layers between that attend to an image instead of the text (arXiv:2407.21783)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.beside_text import BesideText, Gate, Seen
from tonnage.arch.ends import Head, Stem
from tonnage.arch.feedforward import Gated, Plain
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Model, Stack
from tonnage.arch.sight.tiles import BesideTheText, Tiled
from tonnage.arch.sight.towers import Patches
from tonnage.families import Family
from tonnage.families._blocks import attention, gated, normed_before, normed_heads
from tonnage.families._composite import filled
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import side, sizes
from tonnage.keys import Keys
from tonnage.tensors import Tensor

TEXT: Final[dict[str, Any]] = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "cross_attention_layers": None,
}
VISION: Final[dict[str, Any]] = {
    "hidden_size": 1280,
    "num_hidden_layers": 32,
    "num_global_layers": 8,
    "attention_heads": 16,
    "num_channels": 3,
    "intermediate_size": 5120,
    "vision_output_dim": 7680,
    "image_size": 448,
    "patch_size": 14,
    "max_num_tiles": 4,
}
CROSS: Final = (3, 8, 13, 18, 23, 28, 33, 38)
"""Layers that attend to the image where the config says nothing."""


TAKEN: Final = (3, 7, 15, 23, 30)
"""Outputs of the tower's layers that are handed on where the config says nothing."""


def read(k: Keys) -> Model:
    """Build the model that ``MllamaForCausalLM`` builds: the language model alone."""
    if k.config["model_type"] == "mllama_text_model":
        return _text(k, "model")
    k.skip("vision_config")
    return filled(k, "text_config", TEXT, lambda inner: _text(inner, "model"))


def read_whole(k: Keys) -> Model:
    """Build ``MllamaForConditionalGeneration``, its tower included."""
    model = filled(k, "text_config", TEXT, lambda inner: _text(inner, "model.language_model"))
    # The language model's own config is out of the Trainer's reach.
    model = model.but(stacks=tuple(stack.but(caches=True) for stack in model.stacks))
    width, tower = filled(k, "vision_config", VISION, _tower)
    projector = matrix("model.multi_modal_projector", ("X", width), ("D", model.width), "vision")
    tensors = tuple(Tensor(t.name, t.axes, "vision", t.dims) for t in (*tower.weights(), *projector.weights()))
    # Elsewhere the projector does not fit.
    sees = tower.width == width and max(tower.taken, default=0) < tower.count
    return model.but(extra=tensors, eye=BesideTheText(tower=tower, projector=projector) if sees else None)


def _text(k: Keys, path: str) -> Model:
    D, V, L = k.need("hidden_size"), k.need("vocab_size"), k.need("num_hidden_layers")
    chosen = k.optional("cross_attention_layers", list)
    crossing = set(CROSS if chosen is None else chosen)
    token, mlp = attention(k, D, K=8, bias=False, dropout=k.want("dropout", 0.0)), gated(k, D)
    own = normed_before(token, mlp, D)
    # What is cached of an image does not grow with the text.
    image = Seen(
        name="cross_attn", D=D, N=token.N, K=token.K, H=token.H, dropout=token.dropout, rotary=None, causal=False,
        cross=True, cached=False, norm_inline=True,
    )  # fmt: skip
    cross = beside_text(normed_heads(image), mlp, D)
    norm = Norm(f"{path}.norm", (("D", D),))
    # The embedding has more rows than the head, and shares nothing with it.
    k.skip("tie_word_embeddings")
    return Model(
        model_type="mllama",
        stacks=(
            Stack(
                name="decoder",
                path=f"{path}.layers",
                # Eight rows more, for the token of an image.
                stem=Stem(name=f"{path}.embed_tokens", V=V + 8, D=D, rotary=(Rotary(f"{path}.rotary_emb", token.H),)),
                layers=tuple(cross if index in crossing else own for index in range(L)),
                norm=norm,
            ),
        ),
        head=Head(name="lm_head", D=D, V=V),
        positions=k.want("max_position_embeddings", 131072),
    )


def beside_text(image: GroupedQuery, mlp: Gated, D: int) -> BesideText:
    """A layer over the image, both of its blocks behind a gate."""
    gates = (Gate("cross_attn_attn_gate"), Gate("cross_attn_mlp_gate", hides=True))
    layer = normed_before(image, mlp, D, kind="layer over the image")
    sublayers = tuple(sub.but(gate=gate) for sub, gate in zip(layer.sublayers, gates, strict=True))
    return BesideText(sublayers=sublayers, kind=layer.kind)


def _tower(k: Keys) -> tuple[int, Tiled]:
    """Width of the output, and the tower: layers over tiles, then gated ones over the image."""
    D, F, N = k.need("hidden_size"), k.need("intermediate_size"), k.need("attention_heads")
    ratios = k.optional("supported_aspect_ratios", list)
    taken = sizes(k, "intermediate_layers_indices", TAKEN, least=0)
    k.skip("attention_dropout", "tie_word_embeddings")
    path = "model.vision_model"
    attends = GroupedQuery(
        name="self_attn", D=D, N=N, K=N, H=k.divides("hidden_size", "attention_heads", D, N), rotary=None, causal=False
    )
    mlp = Plain(name="mlp", D=D, F=F, act=k.want("hidden_act", "gelu"))
    layer = normed_before(attends, mlp, D, style="layer")
    gated = layer.but(
        sublayers=tuple(
            sub.but(gate=Gate(f"gate_{name}")) for sub, name in zip(layer.sublayers, ("attn", "ffn"), strict=True)
        )
    )
    patch = side(k, "patch_size")
    return k.need("vision_output_dim"), Tiled(
        patches=Patches(f"{path}.patch_embedding", k.need("num_channels"), D, patch, bias=False),
        path=path,
        tiles=k.need("max_num_tiles"),
        image=side(k, "image_size"),
        ids=(8 if ratios is None else len(ratios)) + 1,
        layer=layer,
        count=k.need("num_hidden_layers"),
        gated=gated,
        more=k.need("num_global_layers"),
        norms=(layer_norm(f"{path}.layernorm_pre", D), layer_norm(f"{path}.layernorm_post", D)),
        taken=taken,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/mllama/modeling_mllama.py",
    attributes={"image_token_index": "image_token_id"},
    classes={"seq2seq": read_whole, "none": read_whole},
)
