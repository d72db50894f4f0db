"""A projector for llama.cpp (``--mmproj``): a GGUF file, or what llama.cpp's converter would make of a model's encoder.

Follows ``MmprojModel`` of conversion/base.py, and conversion/qwenvl.py, qwen3vl.py, gemma.py, smolvlm.py, internvl.py,
llava.py of ggml-org/llama.cpp v0.5.0; LLaVA 1.5: tools/mtmd/legacy-models/convert_image_encoder_to_gguf.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from math import isqrt, prod
from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.checkpoint import Header, Stored
from tonnage.errors import InputError, UnsupportedError
from tonnage.formats import FORMATS
from tonnage.tensors import Tensor

OWN: Final = {"f16": "fp16", "bf16": "bf16", "f32": "fp32", "q8_0": "q8_0"}
"""Values that name no file but a format: the model's own encoder, converted."""
HINT: Final = f"a GGUF file, an address, or {', '.join(OWN)}: the model's own encoder as the converter writes it"

FREE: Final = 560
"""Side of a picture that the converter states for encoders that take any. [pixel]"""

Shapes = Iterator[tuple[str, tuple[int, ...]]]

QWEN: Final = {
    "qwen2_vl": "qwen2vl_merger", "qwen2_5_vl": "qwen2.5vl_merger", "qwen3_vl": "qwen3vl_merger",
    "qwen3_vl_moe": "qwen3vl_merger", "qwen3_5": "qwen3vl_merger", "qwen3_5_moe": "qwen3vl_merger",
}  # fmt: skip
KINDS: Final = {
    **QWEN, "gemma3": "gemma3", "idefics3": "idefics3", "smolvlm": "idefics3", "internvl": "internvl",
    "mistral3": "pixtral", "llava": "mlp",
}  # fmt: skip
"""Types of projectors by the config's ``model_type``."""

LAYERS: Final = re.compile(
    r"(?:.*\.)?(?:blocks|layers|layer)\.(\d+)\.(?:self_attn\.|attention\.|attn\.|mlp\.|feed_forward\.)?(.+)$"
)
IN_LAYER: Final = {
    "norm1": "ln1", "norm2": "ln2", "layer_norm1": "ln1", "layer_norm2": "ln2", "attention_norm": "ln1",
    "ffn_norm": "ln2", "layernorm_before": "ln1", "layernorm_after": "ln2", "lambda_1": "ls1", "lambda_2": "ls2",
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "out_proj": "attn_out", "o_proj": "attn_out",
    "proj": "attn_out", "projection_layer": "attn_out", "qkv": "attn_qkv", "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm", "fc1": "ffn_up", "fc2": "ffn_down", "linear_fc1": "ffn_up", "linear_fc2": "ffn_down",
    "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
}  # fmt: skip
"""Modules of an encoder's layer."""

OUTSIDE: Final = {
    "patch_embed.proj": "v.patch_embd", "patch_conv": "v.patch_embd", "embeddings.patch_embedding": "v.patch_embd",
    "embeddings.patch_embeddings.projection": "v.patch_embd", "pos_embed": "v.position_embd",
    "embeddings.position_embedding": "v.position_embd", "ln_pre": "v.pre_ln", "pre_layrnorm": "v.pre_ln",
    "post_layernorm": "v.post_ln", "merger.ln_q": "v.post_ln", "merger.norm": "v.post_ln", "merger.mlp.0": "mm.0",
    "merger.mlp.2": "mm.2", "merger.linear_fc1": "mm.0", "merger.linear_fc2": "mm.2",
    "mm_soft_emb_norm": "mm.soft_emb_norm", "modality_projection.proj": "mm.model.fc", "norm": "mm.input_norm",
    "patch_merger.merging_layer": "mm.patch_merger", "layer_norm": "mm.model.mlp.0",
}  # fmt: skip
"""Other modules."""
WHOLE: Final = {
    "embeddings.class_embedding": "v.class_embd", "embeddings.cls_token": "v.class_embd",
    "embeddings.position_embeddings": "v.position_embd.weight",
    "mm_input_projection_weight": "mm.input_projection.weight", "image_newline": "v.image_newline",
}  # fmt: skip
"""Tensors that are no module's weight or bias."""
LINEAR: Final = {
    "mlp": ("mm.0", "mm.2"), "pixtral": ("mm.1", "mm.2"), "internvl": ("mm.model.mlp.1", "mm.model.mlp.3"),
}  # fmt: skip
"""The two matrices of a projector."""
TOPS: Final = (
    "model.", "visual.", "vision_tower.", "vision_model.", "multi_modal_projector.", "connector.", "encoder.",
    "transformer.",
)  # fmt: skip


def projector(model: Model, named: str, weights: Callable[[str], Header | None]) -> Header:
    """The header of a projector.

    Args:
        model: that it belongs to.
        named: a GGUF file, or a format (``OWN``).
        weights: reads headers as ``api.weights`` does.

    Raises:
        InputError: nothing of the kind, or a model without an encoder.
        UnsupportedError: an encoder whose conversion is not known.
    """
    if named in OWN:
        return converted(model, named)
    found = weights(named)
    if found is None or found.kind != "gguf":
        raise InputError(f"mmproj = {named} is no GGUF file", key="mmproj", value=named, hint=HINT)
    return found


def converted(model: Model, form: str) -> Header:
    """What the converter makes of a model's encoder of pictures.

    Args:
        model: as its config describes it.
        form: of its matrices (``OWN``).
    """
    seen = [t for t in model.extra if t.role == "vision"]
    if not seen:
        raise InputError(
            f"mmproj = {form}: {model.name or model.model_type} has no encoder of pictures", key="mmproj", value=form,
            hint="only models that read pictures have one",
        )  # fmt: skip
    kind, vision = _kind(model), model.config.get("vision_config")
    if kind is None or not isinstance(vision, Mapping):
        told = model.config.get("model_type", model.model_type)
        raise UnsupportedError(
            f"mmproj = {form}: how llama.cpp's converter writes the encoder of {told} is not known here", key="mmproj",
            value=form, hint="name the projector's GGUF file",
        )  # fmt: skip
    found = [Stored(n, s, f, FORMATS[f].nbytes(prod(s))) for n, s, f in _stored(model, seen, kind, OWN[form], vision)]
    return Header(
        kind="gguf", tensors=tuple(found), name=f"mmproj of {model.name or model.model_type}",
        origin="converted from the config", metadata=_metadata(model, kind, vision, {t.name: t.shape for t in found}),
    )  # fmt: skip


def _kind(model: Model) -> str | None:
    """The projector's type; Pixtral is a LLaVA with a tower of its own."""
    name, vision = model.config.get("model_type"), model.config.get("vision_config")
    if name == "llava" and isinstance(vision, Mapping):
        return {"pixtral": "pixtral", "clip_vision_model": "mlp"}.get(str(vision.get("model_type")))
    return KINDS.get(str(name))


def _stored(
    model: Model, seen: list[Tensor], kind: str, form: str, vision: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, shape and format of every tensor of the file."""
    indexes = vision.get("deepstack_visual_indexes") or (8, 16, 24)
    for t in seen:
        for name, shape in _renamed(t, kind, indexes, cut=kind in ("qwen2vl_merger", "qwen2.5vl_merger")):
            if kind == "mlp" and name.startswith(f"v.blk.{_count(seen) - 1}."):
                continue
            yield name, shape, _format(name, shape, form, kind)
    if kind == "pixtral":
        yield "v.token_embd.img_break", (model.width,), "fp32"


def _count(seen: list[Tensor]) -> int:
    """Layers of the encoder."""
    return 1 + max((int(m[1]) for t in seen if (m := LAYERS.match(t.name)) and "deepstack" not in t.name), default=-1)


def _renamed(t: Tensor, kind: str, indexes: Any, *, cut: bool) -> Shapes:
    """llama.cpp's names for a tensor: none for one that is left out, several for one that is cut."""
    name = t.name
    while any(name.startswith(top) for top in TOPS):
        name = name.partition(".")[2]
    if name in WHOLE:
        yield WHOLE[name], t.shape
        return
    module, _, leaf = name.rpartition(".")
    deep = re.match(r"deepstack_merger_list\.(\d+)\.(norm|linear_fc[12])$", module)
    if deep:
        yield f"v.deepstack.{indexes[int(deep[1])]}.{deep[2].replace('linear_', '')}.{leaf}", t.shape
        return
    if module in ("linear_1", "linear_2"):
        yield f"{LINEAR[kind][int(module[-1]) - 1]}.{leaf}", t.shape
        return
    if module == "patch_embed.proj" and leaf == "weight" and len(t.shape) == 5:
        flat = (*t.shape[:2], *t.shape[3:])
        yield "v.patch_embd.weight", flat
        yield "v.patch_embd.weight.1", flat
        return
    if module in OUTSIDE:
        yield f"{OUTSIDE[module]}.{leaf}", t.shape
        return
    inside = LAYERS.match(name)
    if inside is None:
        raise UnsupportedError(f"mmproj: llama.cpp's name of {t.name} is not known here", key="mmproj", value=t.name)
    rest = inside[2]
    module, leaf = (rest, "weight") if rest in IN_LAYER else (rest.rpartition(".")[0], rest.rpartition(".")[2])
    if module not in IN_LAYER:
        raise UnsupportedError(f"mmproj: llama.cpp's name of {t.name} is not known here", key="mmproj", value=t.name)
    block, own = f"v.blk.{inside[1]}.", IN_LAYER[module]
    if own == "attn_qkv" and cut:
        for part in "qkv":
            yield f"{block}attn_{part}.{leaf}", (t.shape[0] // 3, *t.shape[1:])
        return
    yield f"{block}{own}.{leaf}", t.shape


def _format(name: str, shape: tuple[int, ...], form: str, kind: str) -> str:
    """How the converter stores a tensor: what is a vector, a norm or a table of positions in fp32."""
    if len(shape) < 2 or name.endswith("_norm.weight") or name.startswith(("v.position_embd", "v.class_embd")):
        return "fp32"
    if name == "mm.input_projection.weight":
        return "fp16"
    if name.startswith("v.patch_embd") and kind in ("gemma3", "idefics3"):
        return "fp32"
    if name.startswith(("v.patch_embd", "mm.patch_merger")):
        return "fp16" if form == "fp16" else "fp32"
    if shape[-1] % FORMATS[form].elements:
        return "fp16"
    return form


def _metadata(
    model: Model, kind: str, vision: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """The keys that decide memory."""
    D, _, patch, _ = shapes["v.patch_embd.weight"]
    up = shapes["v.blk.0.ffn_up.weight"]
    layers = 1 + max(int(n.split(".")[2]) for n in shapes if n.startswith("v.blk."))
    heads = next((vision[k] for k in ("num_attention_heads", "num_heads") if vision.get(k)), None)
    if not isinstance(heads, int) or isinstance(heads, bool) or heads < 1:
        raise InputError(
            "mmproj: the config tells no heads of the encoder (vision_config.num_attention_heads)", key="mmproj",
            value=heads, hint="name the projector's GGUF file",
        )  # fmt: skip
    table = shapes.get("v.position_embd.weight")
    side = _side(vision) or (isqrt(table[-2]) * patch if table is not None else FREE)
    out: dict[str, Any] = {
        "general.architecture": "clip", "clip.has_vision_encoder": True, "clip.projector_type": kind,
        "clip.vision.embedding_length": D, "clip.vision.attention.head_count": heads,
        "clip.vision.feed_forward_length": up[0], "clip.vision.block_count": layers, "clip.vision.patch_size": patch,
        "clip.vision.image_size": side,
    }  # fmt: skip
    if kind == "qwen2.5vl_merger":
        whole = vision.get("fullatt_block_indexes") or (7, 15, 23, 31)
        out["clip.vision.n_wa_pattern"] = whole[0] + 1
    if kind == "pixtral" and "mm.patch_merger.weight" in shapes:
        out["clip.vision.spatial_merge_size"] = isqrt(shapes["mm.patch_merger.weight"][1] // D)
    if kind in ("idefics3", "internvl"):
        ins = shapes["mm.model.fc.weight" if kind == "idefics3" else "mm.model.mlp.1.weight"][-1]
        out["clip.vision.projector.scale_factor"] = isqrt(ins // D)
    if kind == "gemma3":
        tokens = model.config.get("mm_tokens_per_image") or 256
        out["clip.vision.projector.scale_factor"] = side // patch // isqrt(tokens)
    return out


def _side(vision: Mapping[str, Any]) -> int:
    """Side of a picture, where the config tells it; 0 where not. [pixel]"""
    found = vision.get("image_size")
    if isinstance(found, list | tuple) and found:
        found = found[0]
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else 0
