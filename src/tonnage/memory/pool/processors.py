"""The largest picture, video or sound that a model's processor makes, for the models whose encoders read pieces.

What a config does not tell stands in each model's ``preprocessor_config.json`` and ``video_preprocessor_config.json``
and is a row here, by the type of the whole config. A row's ``text`` are tokens between embeddings, which count as long
as the engine counts the whole stretch of an item (0.10 to 0.12).

References: vllm-project/vllm v0.9.2 to v0.33.0 vllm/model_executor/models/gemma3_mm.py, gemma3n_mm.py, gemma4_mm.py
``get_mm_max_tokens_per_item``, glm4_1v.py ``_get_vision_info``, idefics3.py ``get_image_repl``, interns1.py,
llava_next.py and llava_onevision.py ``_get_num_unpadded_features``, phi4mm.py ``_compute_num_image_tokens``,
qwen2_audio.py, qwen2_5_omni_thinker.py, qwen3_omni_moe_thinker.py, voxtral.py ``get_max_audio_tokens``, whisper.py;
google/gemma-3-4b-it, HuggingFaceM4/Idefics3-8B-Llama3, HuggingFaceTB/SmolVLM-Instruct,
llava-hf/llava-v1.6-mistral-7b-hf, llava-hf/llava-onevision-qwen2-7b-ov-hf, OpenGVLab/InternVL3-8B-hf,
zai-org/GLM-4.1V-9B-Thinking, Qwen/Qwen2-Audio-7B.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isqrt
from typing import Final

from tonnage.record import Record
from tonnage.releases import Since, Version, since

SPANNED: Final[Since[bool]] = (((0, 13), False), ((0, 10), True), ((0, 0), False))
"""Whether text between the embeddings of an item counts. multimodal/profiling.py ``get_mm_max_contiguous_tokens``"""


class Item(Record):
    """The largest picture, video or sound.

    Args:
        modality: "image", "video" or "audio".
        tokens: that it is counted as.
        patches: positions of the encoder; 0 where not known.
        embeddings: that come out.
        role: of the encoder's tensors.
        once: positions that it reads in one pass; 0 where that is all items together.
    """

    modality: str
    tokens: int
    patches: int
    embeddings: int
    role: str = "vision"
    once: int = 0


class Pieces(Record):
    """A picture that is cut into pieces of one size, the whole one among them.

    Args:
        count: of pieces.
        merge: positions of one embedding; 0 where the connector tells.
        tokens: of the picture, where it is not that of its pieces.
        text: tokens without embeddings.
        frame: tokens of a frame of a video, whose number the context bounds; 0 where videos are not read.
        frames: at most; 0 where the context alone bounds them.
        ends: tokens of a video beside its frames.
    """

    count: int
    merge: int = 1
    tokens: int = 0
    text: int = 0
    frame: int = 0
    frames: int = 0
    ends: int = 0


PIECES: Final[Mapping[str, Pieces]] = {
    "gemma3": Pieces(1, tokens=256, text=4),
    "gemma3n": Pieces(1, tokens=256, text=4),
    "idefics3": Pieces(17, merge=0, text=40),
    "smolvlm": Pieces(17, merge=0, text=40),
    "internvl": Pieces(13, merge=4, text=2, frame=256),
    # 24 patches a side; a square of 2 x 2 pieces, the ends of its 48 rows, and the whole picture.
    "llava_next": Pieces(5, tokens=48 * 48 + 48 + 24 * 24),
    # 27 patches a side; 3 x 4 pieces around 1,153 x 944 pixels, of which 81 rows of 98 are no padding.
    "llava_onevision": Pieces(13, tokens=81 * 98 + 81 + 27 * 27, frame=14 * 14, frames=16, ends=1),
    # 36 pieces in one column of 16 x 16, the ends of their rows, and the whole picture with its own.
    "phi4_multimodal": Pieces(37, tokens=36 * 256 + 36 * 16 + 256 + 16 + 1),
}
FROM: Final[Mapping[str, Version]] = {"internvl": (0, 10)}


class Heard(Record):
    """The longest sound.

    Args:
        tokens: by release; 0 stands for the context.
        patches: positions of the encoder.
        embeddings: that come out; 0 where they are the tokens.
        limit: sounds of a prompt; 0 where there is no limit.
        text: tokens without embeddings.
    """

    tokens: Since[int]
    patches: int
    embeddings: int = 0
    limit: int = 0
    text: int = 0


HEARD: Final[Mapping[str, Heard]] = {
    "whisper": Heard((((0, 0), 1500),), 1500, limit=1),
    "qwen2_audio": Heard((((0, 0), 750),), 1500),
    "qwen2_5_omni": Heard((((0, 0), 750),), 1500),
    "qwen3_omni_moe": Heard((((0, 18), 750), ((0, 0), 390)), 390, 390),
    "qwen3_asr": Heard((((0, 0), 390),), 390),
    "gemma3n": Heard((((0, 0), 188),), 0, text=4),
    "gemma4": Heard((((0, 0), 750),), 750),
    "phi4_multimodal": Heard((((0, 0), 188),), 188),
    "voxtral": Heard((((0, 0), 0),), 0),
}
"""Sounds of 30 s, those of Phi-4 of 15 s; Voxtral's are as long as the context, four positions for a token."""

GEMMA4: Final = ("gemma4", "gemma4_unified")
GEMMA4_IMAGE, GEMMA4_FRAME, GEMMA4_FRAMES, GEMMA4_POOLED = 280, 70, 32, 9
GEMMA4_TOLD: Final = 8
"""Tokens that a frame counts beside its own: both ends and its time."""
GEMMA4_VIDEO: Final = GEMMA4_FRAMES * (GEMMA4_FRAME + GEMMA4_TOLD)

GEMMA4_ALONE: Final[Since[int]] = (((0, 22), 0), ((0, 0), 1))
"""Whether its pictures and frames run one by one. gemma4_mm.py ``_process_video_input``"""

GLM: Final = ("glm4v", "glm4v_moe")
GLM_SIDE, GLM_IMAGE, GLM_VIDEO, GLM_FRAMES = 28, 28 * 28 * 2 * 6144, 28 * 28 * 2 * 30_000, 600
GLM_WHOLE: Final[Since[bool]] = (((0, 17), True), ((0, 0), False))
"""Whether a picture's own pixels bound it; before, it had a sixteenth of those of a video."""
GLM_BEST: Final = (0, 26)
"""Release from which on the number of frames with most tokens is looked for; before, the last that fits."""
GLM_TIMES: Final = 970
"""Tokens of the times of 300 pairs of frames and both ends of each (a boot log of GLM-4.5V, 0.10: 30,970 tokens)."""


def reads(kind: str) -> bool:
    """Whether the largest picture of a model of this type is known."""
    return kind in PIECES or kind in GEMMA4 or kind in GLM


def largest(
    kind: str, positions: int, merge: int, limits: Mapping[str, int], context: int, version: Version
) -> Iterator[Item]:
    """The largest item of every modality that a prompt may hold, but for models whose pictures are a grid.

    Args:
        kind: type of the whole config.
        positions: of the encoder for one piece; 0 where it has no table.
        merge: positions of one embedding, as the connector tells.
        limits: items of a prompt by modality.
        context: tokens of a sequence.
        version: of the engine.
    """
    spanned = since(version, SPANNED)
    if kind in PIECES and version >= FROM.get(kind, (0, 0)):
        yield from _cut(PIECES[kind], positions, merge, limits, context, spanned)
    elif kind in GEMMA4:
        yield from _gemma4(limits, version)
    elif kind in GLM:
        yield from _glm(limits, context, version)
    heard = HEARD.get(kind)
    if heard is not None and limits.get("audio"):
        tokens = since(version, heard.tokens) or context
        patches = heard.patches or (4 * tokens if kind == "voxtral" else 0)
        yield Item("audio", tokens + heard.text * spanned, patches, heard.embeddings or tokens, "audio")


def tiny(kind: str, positions: int) -> int:
    """Positions of the encoder for a picture of 20 x 20 pixels: enlarged to all pieces, or to the least there are."""
    if kind in ("idefics3", "smolvlm"):
        return PIECES[kind].count * positions
    # The smallest of LLaVA-NeXT's grids has two pieces beside the whole picture; Qwen's least picture is 56 x 56.
    return 3 * positions if kind == "llava_next" else positions or 16


def _cut(
    p: Pieces, positions: int, merge: int, limits: Mapping[str, int], context: int, spanned: bool
) -> Iterator[Item]:
    made = p.tokens or p.count * (positions // (p.merge or merge or 1))
    if limits.get("image"):
        yield Item("image", made + p.text * spanned, p.count * positions, made)
    if p.frame and limits.get("video"):
        room = context - p.ends - (made if limits.get("image") and not p.frames else 0)
        frames = max(min(room // p.frame, p.frames or room), 1)
        yield Item("video", frames * p.frame + p.ends, frames * positions, frames * p.frame + p.ends)


def _gemma4(limits: Mapping[str, int], version: Version) -> Iterator[Item]:
    alone = since(version, GEMMA4_ALONE) * GEMMA4_POOLED
    if limits.get("image"):
        patches = GEMMA4_IMAGE * GEMMA4_POOLED
        yield Item("image", GEMMA4_IMAGE, patches, GEMMA4_IMAGE, once=alone * GEMMA4_IMAGE)
    if limits.get("video"):
        made = GEMMA4_FRAMES * GEMMA4_FRAME
        yield Item("video", GEMMA4_VIDEO, made * GEMMA4_POOLED, made, once=alone * GEMMA4_FRAME)


def _glm(limits: Mapping[str, int], context: int, version: Version) -> Iterator[Item]:
    """Pictures and videos whose pixels, both frames of a pair counted, are bounded."""
    edge = _side(GLM_IMAGE, 2) if since(version, GLM_WHOLE) else _side(GLM_VIDEO, 16)
    image = min(edge, _side(GLM_IMAGE, 2)) ** 2
    if limits.get("image"):
        yield Item("image", image, image * 4, image)
    if limits.get("video"):
        room = context - (image if limits.get("image") else 0)
        sizes = [-(-n // 2) * min(edge, _side(GLM_VIDEO, max(n, 2))) ** 2 for n in range(1, GLM_FRAMES + 1)]
        beyond = next((i for i, n in enumerate(sizes) if n > room), len(sizes))
        in_turn = sizes[max(beyond - 1, 0)]
        made = max((n for n in sizes if n <= room), default=sizes[0]) if version >= GLM_BEST else in_turn
        text = GLM_TIMES if since(version, SPANNED) and beyond == len(sizes) else 0
        yield Item("video", made + text, made * 4, made)


def _side(pixels: int, frames: int) -> int:
    """Embeddings along a side of the largest square of so many frames."""
    return max(isqrt(pixels // frames) // GLM_SIDE, 1)
