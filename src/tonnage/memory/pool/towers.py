"""Encoders of pictures and sound as an engine profiles them: how much an item makes, and what the encoder has alive.

What a config does not tell is the processor's: the most pixels that it leaves of a picture stand in each model's
``preprocessor_config.json``, and are named here by the kind of tower.

References: vllm-project/vllm v0.8.5 to v0.33.0 vllm/model_executor/models/qwen2_vl.py, qwen3_vl.py, mistral3.py,
pixtral.py, llava.py, gemma3_mm.py ``get_mm_max_tokens_per_item``; preprocessor_config.json and
video_preprocessor_config.json of Qwen/Qwen2.5-VL-7B-Instruct and Qwen/Qwen3-VL-8B-Instruct.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import isqrt, prod
from typing import Final

from tonnage.arch.model import Model
from tonnage.memory.pool.processors import HEARD, SPANNED, Item, largest, reads
from tonnage.memory.pool.ranked import Span
from tonnage.placement.mesh import Mesh
from tonnage.placement.sharding import cuts, largest_shard
from tonnage.record import Record
from tonnage.releases import Since, Version, since
from tonnage.tensors import Tensor

PIXELS: Final[Mapping[int, int]] = {28: 12_845_056, 32: 16_777_216}
"""Pixels of the largest picture by the side of a merged patch: Qwen2-VL and 2.5-VL; Qwen3-VL and later."""
VIDEO_PIXELS: Final = 25_165_824
"""Pixels of all frames of a video, Qwen3-VL and later."""
SIDES: Final[Mapping[int, int]] = {14: 1540, 16: 1024}
"""Longest side of a picture for Pixtral's tower, by the side of a patch: Mistral Small 3.1, Pixtral 12B. [pixel]"""
OMNI: Final = ("qwen2_5_omni", "qwen3_omni_moe")
"""Models with the pictures and videos of Qwen2.5-VL, whatever their patches."""
GRIDS: Final = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", *OMNI)
"""Models whose processors those are; others state their own pixels."""
FRAMES: Final[Since[int]] = (((0, 11), 14), ((0, 0), 16))
"""Frames of a video at most, Qwen2-VL and 2.5-VL. qwen2_vl.py ``_MAX_FRAMES_PER_VIDEO``"""
TIMED: Final[Since[float]] = (((0, 13), 1.0), ((0, 11), 12.5), ((0, 0), 1.0))
"""Tokens for one of a video, Qwen3-VL: time stamps counted in. qwen3_vl.py ``get_max_video_tokens``"""
OWN_COUNTS: Final = (0, 10)
"""Release until which a video shares the context with all pictures that a prompt may hold."""


class Tower(Record):
    """The encoder of a model.

    Args:
        kind: "grid" (Qwen's), "rows" (Pixtral's), "fixed" (pictures of one size) or "told" (by ``processors``).
        patch: side of a patch. [pixel]
        frames: that a patch spans.
        merge: patches along a side of what one embedding is made of.
        positions: patches of a picture of the one size; 0 for others.
        inputs: elements of a patch's pixels.
        wide: elements of a patch that live at once in a layer: at least, likely and at most; None where not known.
        out: elements of an embedding, those for deeper layers included.
    """

    kind: str
    patch: int
    frames: int
    merge: int
    positions: int
    inputs: int
    wide: tuple[int, int, int] | None
    out: int

    def live(self, item: Item, count: int, width: int) -> Span:
        """Bytes of the encoder's widest moment over ``count`` items, their pixels included."""
        if self.wide is None:
            return Span(0, 0, 0)
        pixels, at_once = item.patches * count * self.inputs, item.once or item.patches * count
        return Span(*(width * (pixels + at_once * wide) for wide in self.wide))

    def kept(self, item: Item, count: int, width: int) -> int:
        """Bytes of the embeddings of ``count`` items."""
        return item.embeddings * count * self.out * width


def tower(model: Model, mesh: Mesh, role: str = "vision") -> Tower | None:
    """The encoder of pictures or of sound; None where there is none, or none of a kind that is known.

    Args:
        model: its tensors beside the stacks tell; Whisper's encoder is a stack.
        mesh: the degrees.
        role: "vision" or "audio".
    """
    kind = model.whole_type or model.model_type
    if role == "audio":
        seen = [t for t in model.extra if t.role == role] or (
            list(model.stacks[0].weights()) if len(model.stacks) > 1 and kind in HEARD else []
        )
        if kind not in HEARD or not seen:
            return None
        return Tower("told", 0, 1, 1, 0, 0, _wide(seen, _residual(seen), mesh), model.width)
    seen = [t for t in model.extra if t.role == role]
    D, names = _residual(seen), {t.name: t for t in seen}
    first = next((t for t in seen if len(t.axes) >= 4 and t.name.endswith("weight")), None)
    if first is None:
        # Gemma 4's patches are rows of a matrix's input.
        first = next((t for t in seen if t.name.endswith("patch_embedder.input_proj.weight")), None)
    if first is None:
        return None
    (_, out), *sides = first.axes
    rest = [n for _, n in sides]
    wide, inputs = _wide(seen, D or out, mesh), prod(rest)
    patch, frames = rest[-1], rest[1] if len(rest) == 4 else 1
    if reads(kind):
        return Tower("told", patch, frames, _merged(names, D), _positions(seen), inputs, wide, model.width)
    if wide is None:
        return None
    merger = next((t for n, t in names.items() if re.search(r"(?<!_)merger\.(mlp\.0|linear_fc1)\.weight$", n)), None)
    deep = len({m[1] for n in names if (m := re.search(r"merger_list\.(\d+)\.", n))})
    if merger is not None and len(rest) == 4 and model.model_type.startswith(GRIDS):
        merge = isqrt(merger.axes[-1][1] // out)
        if patch * merge in PIXELS:
            return Tower("grid", patch, frames, merge, 0, inputs, wide, model.width * (1 + deep))
    elif "patch_conv" in first.name and patch in SIDES:
        merging = next((t for n, t in names.items() if n.endswith("merging_layer.weight")), None)
        merge = isqrt(merging.axes[-1][1] // out) if merging is not None else 1
        return Tower("rows", patch, 1, merge, 0, inputs, wide, model.width)
    if len(rest) == 3 and _positions(seen) and _one_size(names, any(n.endswith("class_embedding") for n in names)):
        return Tower("fixed", patch, 1, 1, _positions(seen), inputs, wide, model.width)
    return None


def _residual(seen: Sequence[Tensor]) -> int:
    """Width of the residual stream: what the first layer's queries read."""
    return next(
        (
            t.axes[-1][1]
            for t in seen
            if re.search(r"\.0\..*(q_proj|qkv|qkv_proj)\.weight$", t.name) and len(t.axes) == 2
        ),
        0,
    )


def _positions(seen: Sequence[Tensor]) -> int:
    """Patches of a picture of the one size: the rows of its table, without that of its class."""
    names = {t.name: t for t in seen}
    table = next((t for n, t in names.items() if re.search(r"position_embeddings?(\.weight)?$", n)), None)
    classes = any(n.endswith(("class_embedding", "cls_token")) for n in names)
    return 0 if table is None else table.axes[-2][1] - classes


def _merged(names: Mapping[str, Tensor], D: int) -> int:
    """Positions that the connector makes one embedding of."""
    found = next((t for n, t in names.items() if n.endswith("modality_projection.proj.weight")), None)
    return 1 if found is None else found.axes[-1][1] // D


def _one_size(names: Iterable[str], classes: bool) -> bool:
    """Whether a picture is one input of the encoder and no tiles are made: PaliGemma, LLaVA 1.5."""
    ends = {name.rpartition("model.")[2] for name in names}
    if any("newline" in name for name in ends):
        return False
    llava = classes and {"multi_modal_projector.linear_1.weight", "multi_modal_projector.linear_2.weight"} <= ends
    return llava or any(n.endswith("multi_modal_projector.linear.weight") for n in ends)


def items(
    model: Model, found: Tower | None, limits: Mapping[str, int], pixels: int | None, context: int, version: Version
) -> tuple[Item, ...]:
    """The largest item of every modality that a prompt may hold, in the order in which the engine asks them.

    Args:
        model: whose.
        found: its encoder of pictures.
        limits: items of a prompt by modality.
        pixels: of a picture at most, where said.
        context: tokens of a sequence.
        version: of the engine.
    """
    kind = model.whole_type or model.model_type
    out = []
    if found is not None and found.kind == "grid":
        side = found.patch * found.merge
        tokens = _most(pixels or (PIXELS[28] if kind in OMNI else PIXELS[side]), side)
        squared = found.merge**2
        if limits.get("image"):
            out.append(Item("image", tokens, tokens * squared, tokens))
        if limits.get("video"):
            made, counted = _video(side if kind not in OMNI else 0, tokens, limits, context, version)
            out.append(Item("video", counted, made * squared, made))
    elif found is not None and found.kind == "rows" and limits.get("image"):
        side = SIDES[found.patch] // (found.patch * found.merge)
        tokens = side * side + (side if since(version, SPANNED) else 0)
        out.append(Item("image", tokens, side * side * found.merge**2, side * side))
    elif found is not None and found.kind == "fixed" and limits.get("image"):
        # PaliGemma's pictures are followed by the first token of the text.
        text = 1 if kind == "paligemma" and since(version, SPANNED) else 0
        out.append(Item("image", found.positions + text, found.positions, found.positions))
    positions, merge = (found.positions, found.merge) if found is not None else (0, 1)
    return (*out, *largest(kind, positions, merge, limits, context, version))


def _most(pixels: int, side: int) -> int:
    """Merged patches of the largest picture: the most whose factors are no further apart than 1 to 200."""
    for n in range(pixels // (side * side), 0, -1):
        low = next(d for d in range(isqrt(n), 0, -1) if n % d == 0)
        if n // low <= 200 * low:
            return n
    return 1


def _video(side: int, tokens: int, limits: Mapping[str, int], context: int, version: Version) -> tuple[int, int]:
    """Embeddings of the largest video, and the tokens that it counts as."""
    if side == 32:
        made = VIDEO_PIXELS // 2 // (side * side)
        return made, int(made * since(version, TIMED))
    videos = 1
    if version < OWN_COUNTS:
        videos, context = limits["video"], context - tokens * limits.get("image", 0)
    frames = max(context, 0) // tokens * 2
    frames = max(min(frames // videos, since(version, FRAMES)), 1)
    made = max(-(-frames // 2), 1) * tokens
    return made, made


def _wide(seen: Sequence[Tensor], D: int, mesh: Mesh) -> tuple[int, int, int] | None:
    """Elements of a patch that live at once in the first layer: residual, input, and what its matrices make."""
    table = cuts(mesh)
    layer: dict[str, int] = {}
    for t in seen:
        found = re.search(r"\.0\.(.+?)(\.linear)?\.weight$", t.name)
        if found and len(t.axes) > 1 and re.search(r"(blocks|layers?|resblocks)\.0\.", t.name):
            layer.setdefault(found[1], prod(n for _, n in largest_shard(t, table.of(t)).axes[:-1]))
    attention = {n: k for n, k in layer.items() if re.search(r"attn|attention", n)}
    inner = {n: k for n, k in layer.items() if n not in attention}
    back = re.compile(r"(?:\.|_)(?:proj|out_proj|o_proj|dense|out|projection_layer)$")
    made = sum(k for n, k in attention.items() if not back.search(n) or re.search(r"[qkv]_proj$", n))
    # The way back ends in the residual width; the others are as wide as the block inside.
    ins = [k for n, k in inner.items() if not re.search(r"down|fc2|fc_2|wo$", n)]
    if not made or not ins:
        return None
    turned = made * 2 // 3
    # Input, its norm and the output beside queries, keys and values, and the first two gathered and turned.
    attention_wide = 3 * D + made + 2 * turned
    # A gated block keeps what attention gave, the sum, its norm and the output beside its own input; a plain one less.
    through = sum(ins) + max(ins)
    block = (5 if len(ins) > 1 else 3) * D + through
    return (
        max(3 * D + made + turned, 2 * D + through),
        max(attention_wide, block),
        max(attention_wide + 3 * turned, block + D),
    )
