"""Models that see: the closed form of a step, on text and on pictures, against a live trace of transformers' code."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any, Final

import pytest
import tracing_cases

import tonnage as tn
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.composites import COMPOSITES
from tonnage.estimate.training import Step
from tonnage.families import model_from
from tonnage.tracing import ask, request
from tonnage.tracing.known import told
from tonnage.tracing.levels import Levels, levels
from tonnage.units import MiB
from tonnage.workload import workload
from tonnage.workload.training import Train

CONFIGS: Final[dict[str, dict[str, Any]]] = json.loads(
    (Path(__file__).parent.parent / "data" / "pictures.json").read_text()
)["configs"]
SHAPE: Final[dict[str, Any]] = {"precision": "bf16", "batch": 2, "seq": 64}
TOWER: Final = {
    "paligemma": 3, "gemma3": 3, "lfm2_vl": 3, "llava": 4, "llava_next": 4, "llava_onevision": 4, "mistral3": 3,
    "mllama": 0, "qwen2_5_vl": 4, "qwen2_vl": 3, "qwen3_vl": 4,
}  # fmt: skip
"""Layers of a tower that a trace counts before those of the language model: those that know of checkpoints."""
SEEN: Final[dict[str, dict[str, Any]]] = {
    "paligemma": {"images": 1},
    "gemma3": {"images": 2},
    "lfm2_vl": {"images": 1, "image_size": "64x32"},
    "llava": {"images": 2},
    "llava_next": {"images": 1, "image_size": "60x20"},
    "llava_onevision": {"images": 1, "image_size": "60x20"},
    "mistral3": {"images": 2, "image_size": "64x32"},
    "mllama": {"images": 1},
    "qwen2_5_vl": {"images": 2, "image_size": "80x64"},
    "qwen2_vl": {"images": 2, "image_size": "80x64"},
    "qwen3_vl": {"images": 2, "image_size": "320x256"},
}
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "eager": {"attention": "eager"},
    "fp32": {"precision": "fp32"},
    "mixed": {"precision": "bf16-mixed"},
    "recomputed": {"recompute": "full"},
    "one sequence": {"batch": 1, "seq": 77},
    "outputs": {"retain": ["outputs"]},
    "last outputs": {"retain": ["last-outputs"]},
    "accumulated": {"accumulate": 2},
    "lora": {"lora_rank": 8, "lora_targets": ["q_proj"]},
    "lora, recomputed": {"lora_rank": 8, "lora_targets": ["q_proj", "k_proj"], "recompute": "full"},
    "lora of all, mixed": {
        "lora_rank": 8, "lora_targets": ["all-linear"], "precision": "bf16-mixed", "dtype": "fp32",
    },
}  # fmt: skip
DEEP: Final = ("qwen3_vl", "qwen3_vl_moe")
"""Models with features that are added to the outputs of layers."""
FROZEN: Final[dict[str, dict[str, Any]]] = {
    "tower": {"freeze": ["vision"]},
    "tower and projector": {"freeze": ["vision", "projector"]},
    "projector, mixed": {"freeze": ["projector"], "precision": "bf16-mixed"},
    "language": {"freeze": ["language"]},
    "language, recomputed": {"freeze": ["language"], "recompute": "full"},
    "tower, adapters": {"freeze": ["vision"], "lora_rank": 8, "lora_targets": ["all-linear"]},
}
"""Parts by name; the trace freezes parameters by the same names."""
LAST: Final = 2 * 4
"""Bytes a token, at most, by which the lowest layer over a picture is overstated: its rows that see nothing."""


def traced(config: dict[str, Any], said: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Levels:
    """The trace, with the pictures that the closed form has, and the parts that it freezes."""
    from tonnage.tracing import run

    model = model_from(config)
    w = workload(Train, said)
    job = request.training(config, w, None, name="", head=ask.own_head(config, model)).job
    job |= told(model, w, job["seq"])
    return levels(run.model_trace({**job, "layers": "all"}))


def part(name: str, tower: int) -> str:
    """Where the closed form has what a trace calls a part: the tower is before the first layer."""
    way, _, number = name.partition(" layer ")
    if not number:
        return name
    return f"{way} layer {int(number) - tower}" if int(number) >= tower else f"{way} embedding"


def compared(name: str, said: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    config, said = CONFIGS[name], SHAPE | said
    most: dict[str, int] = {}
    moments = Step.moments

    def watched(self: Step) -> Any:
        for m in moments(self):
            most[m.name] = max(most.get(m.name, 0), m.highest)
            yield m

    monkeypatch.setattr(Step, "moments", watched)
    result = tn.train({"config": config}, suggest=False, replay=True, **said)
    found = traced(config, said, monkeypatch)
    got: dict[str, int] = {}
    for p in found.parts:
        where = part(p.name, TOWER[name])
        got[where] = max(got.get(where, 0), *(found.requested[i] for i in range(p.start - 1, p.stop)))
    # A trace counts the first steps below the lowest layer to that.
    for of in (most, got):
        of["backward embedding"] = max(of.get("backward embedding", 0), of.pop("backward layer 0", 0))
        if name in DEEP:
            # What is added to a layer's output is that layer's to a trace, and the next one's here.
            of["forward layer 0"] = max(of.pop(f"forward layer {i}") for i in (0, 1, 2))
    assert found.traced.told["trainable"] == result.model["trainable_parameters"]
    # Where masks are made, tensors of a moment are left out, and a trace may have no part of its own for the tower's
    # backward pass; all else is equal.
    wanted = {n: got[n] for n in got if n != "forward embedding" and got[n]}
    over = {n: most[n] - wanted[n] for n in wanted if most[n] != wanted[n]}
    crossed = {"backward layer 1"} if name == "mllama" and "images" in said else set()
    assert over.keys() <= crossed
    assert all(0 < n <= LAST * said["batch"] * said["seq"] for n in over.values())
    assert result.ranks[0].tier("allocated") == found.samples[found.peak][1]
    assert abs(result.ranks[0].tier("reserved") - found.reserved) <= 2 * MiB


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", CONFIGS)
def test_text_alone(name: str, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "lora" in setting:
        pytest.importorskip("peft")
    compared(name, SETTINGS[setting], monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", CONFIGS)
def test_pictures(name: str, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "lora" in setting:
        pytest.importorskip("peft")
    compared(name, SEEN[name] | SETTINGS[setting], monkeypatch)


EXPERTS: Final = {
    "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "decoder_sparse_step": 1,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", ["plain", "recomputed", "lora", "outputs"])
def test_pictures_before_experts(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "lora" in setting:
        pytest.importorskip("peft")
    dense, name = CONFIGS["qwen3_vl"], "qwen3_vl_moe"
    config = dense | {"model_type": name, "text_config": dense["text_config"] | EXPERTS}
    for known, like in ((CONFIGS, config), (TOWER, TOWER["qwen3_vl"]), (SEEN, SEEN["qwen3_vl"])):
        monkeypatch.setitem(known, name, like)
    compared(name, SEEN[name] | SETTINGS[setting], monkeypatch)


FURTHER: Final[dict[str, dict[str, Any]]] = {
    "tower": {"freeze": ["vision"]},
    "tower, recomputed": {"freeze": ["vision"], "recompute": "full"},
    "tower and projector": {"freeze": ["vision", "projector"]},
    "tower and projector, recomputed": {"freeze": ["vision", "projector"], "recompute": "full"},
    "language": {"freeze": ["language"]},
    "language, recomputed": {"freeze": ["language"], "recompute": "full"},
    "mixed, recomputed": {"precision": "bf16-mixed", "recompute": "full"},
    "adapters of all, recomputed": {"lora_rank": 8, "lora_targets": ["all-linear"], "recompute": "full"},
    "reentrant": {"recompute": "reentrant"},
    "reentrant, mixed": {"precision": "bf16-mixed", "recompute": "reentrant"},
    "reentrant, adapters of all": {"lora_rank": 8, "lora_targets": ["all-linear"], "recompute": "reentrant"},
    "reentrant, tower and projector": {"freeze": ["vision", "projector"], "recompute": "reentrant"},
    "flash": {"attention": "flash_attention_2"},
    "flash, recomputed": {"attention": "flash_attention_2", "recompute": "full"},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", FURTHER)
@pytest.mark.parametrize("name", ["paligemma", "qwen2_5_vl", "qwen2_vl", "qwen3_vl"])
def test_frozen_parts_and_ways_to_run(name: str, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "lora_rank" in FURTHER[setting]:
        pytest.importorskip("peft")
    compared(name, SEEN[name] | FURTHER[setting], monkeypatch)


HYBRID: Final[dict[str, Any]] = {
    "head_dim": 64, "num_hidden_layers": 4, "layer_types": [*["linear_attention"] * 3, "full_attention"],
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_value_head_dim": 32,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25,
                        "mrope_section": [3, 3, 2]},
}  # fmt: skip
ROUTED: Final = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
                 "shared_expert_intermediate_size": 64}  # fmt: skip


def hybrid(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Qwen3.5's config, with the sizes of Qwen3-VL's."""
    like = CONFIGS["qwen3_vl"]
    vision = {key: value for key, value in like["vision_config"].items() if key != "deepstack_visual_indexes"}
    text = {key: value for key, value in like["text_config"].items() if not (name.endswith("moe") and "inter" in key)}
    kind = "Qwen3_5MoeForConditionalGeneration" if name.endswith("moe") else "Qwen3_5ForConditionalGeneration"
    config = like | {
        "model_type": name, "architectures": [kind], "vision_config": vision,
        "text_config": text | HYBRID | (ROUTED if name.endswith("moe") else {}) | {"model_type": f"{name}_text"},
    }  # fmt: skip
    for known, value in ((CONFIGS, config), (TOWER, TOWER["qwen3_vl"]), (SEEN, SEEN["qwen3_vl"])):
        monkeypatch.setitem(known, name, value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", [name for name, said in FURTHER.items() if "recompute" in said])
def test_pictures_before_delta_nets(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "lora_rank" in FURTHER[setting]:
        pytest.importorskip("peft")
    hybrid(monkeypatch, "qwen3_5")
    compared("qwen3_5", SEEN["qwen3_5"] | FURTHER[setting], monkeypatch)


@pytest.mark.filterwarnings("ignore")
def test_pictures_before_delta_nets_and_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    hybrid(monkeypatch, "qwen3_5_moe")
    compared("qwen3_5_moe", SEEN["qwen3_5_moe"] | {"recompute": "full"}, monkeypatch)


def test_layers_that_cache_states_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hybrid(monkeypatch, "qwen3_5")
    with pytest.raises(UnsupportedError, match="without checkpoints"):
        tn.train({"config": CONFIGS["qwen3_5"]}, suggest=False, **SHAPE | SEEN["qwen3_5"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", FROZEN)
@pytest.mark.parametrize("name", [name for name in CONFIGS if name in COMPOSITES])
def test_parts_that_are_frozen(name: str, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "adapters" in setting:
        pytest.importorskip("peft")
    compared(name, SEEN[name] | FROZEN[setting], monkeypatch)


CHOSEN: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "a layer below": ({"vision_feature_layer": -3}, {}),
    "a layer below, recomputed": ({"vision_feature_layer": -3}, {"recompute": "full"}),
    "several": ({"vision_feature_layer": [-2, 1, 3]}, {}),
    "several, recomputed": ({"vision_feature_layer": [-2, 1]}, {"recompute": "full", "precision": "bf16-mixed"}),
    "whole": ({"vision_feature_select_strategy": "full"}, {}),
    "the last": ({"vision_feature_select_strategy": "full", "vision_feature_layer": -1}, {"images": 1, "batch": 1}),
    "adapters": ({}, {"lora_rank": 8, "lora_targets": ["all-linear"]}),
}
"""What of a tower a projector is given, and how it is trained."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", CHOSEN)
@pytest.mark.parametrize("kind", ["clip_vision_model", "siglip_vision_model"])
def test_layers_that_a_projector_is_given(kind: str, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "adapters" in setting:
        pytest.importorskip("peft")
    keys, said = CHOSEN[setting]
    vision = CONFIGS["llava"]["vision_config"] | {"model_type": kind}
    if kind == "siglip_vision_model":
        vision = {key: value for key, value in vision.items() if key != "projection_dim"} | {"vision_use_head": False}
    monkeypatch.setitem(CONFIGS, "llava", CONFIGS["llava"] | {"vision_config": vision} | keys)
    compared("llava", {"images": 2} | said, monkeypatch)


SHAPES: Final[dict[str, dict[str, Any]]] = {
    "tall": {"images": 2, "image_size": "21x60", "seq": 128},
    "without padding": {"images": 1, "image_size": "64x64", "seq": 96},
    "mixed, recomputed": {
        "images": 2,
        "image_size": "60x20",
        "precision": "bf16-mixed",
        "recompute": "full",
        "seq": 96,
    },
    "one sequence": {"images": 1, "batch": 1, "image_size": "50x60", "seq": 90},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", SHAPES)
def test_tiles_without_padding(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared("llava_next", SHAPES[setting], monkeypatch)


FEWER: Final[dict[str, dict[str, Any]]] = {
    "several are not cut": {"images": 2},
    "several are not cut, recomputed": {"images": 2, "recompute": "full", "precision": "bf16-mixed"},
    "fewer patches": {"images": 1, "image_size": "90x80", "seq": 128},
    "fewer patches, without padding": {"images": 1, "image_size": "96x96", "seq": 128, "freeze": ["none"]},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", FEWER)
def test_tiles_that_are_too_many(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared("llava_onevision", FEWER[setting], monkeypatch)


BLOCKS: Final[dict[str, dict[str, Any]]] = {
    "rows of a mask that are padded": {"images": 1, "batch": 1, "image_size": "48x16"},
    "the same, recomputed": {
        "images": 3, "batch": 1, "image_size": "48x16", "precision": "bf16-mixed", "recompute": "full",
    },
    "too large": {"images": 1, "image_size": "400x100"},
}  # fmt: skip


PIXTRAL: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "eager": {"attention": "eager"},
    "recomputed": {"recompute": "full"},
    "mixed": {"precision": "bf16-mixed"},
    "one picture": {"images": 1, "batch": 1},
    "tower": {"freeze": ["vision"]},
    "adapters": {"lora_rank": 8, "lora_targets": ["all-linear"]},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", PIXTRAL)
def test_pictures_in_one_row_before_any_decoder(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixtral is of LLaVA's class."""
    if "adapters" in setting:
        pytest.importorskip("peft")
    keys = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
    towers = CONFIGS["mistral3"]["vision_config"]
    monkeypatch.setitem(CONFIGS, "llava", CONFIGS["llava"] | keys | {"vision_config": towers})
    monkeypatch.setitem(TOWER, "llava", 3)
    compared("llava", {"images": 2, "image_size": "48x24"} | PIXTRAL[setting], monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", BLOCKS)
def test_pictures_in_one_row(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared("mistral3", BLOCKS[setting], monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["idefics3", "smolvlm"])
def test_text_alone_of_models_that_hand_on_that_nothing_is_cached(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
    vision, text = CONFIGS["llava"]["vision_config"], CONFIGS["llava"]["text_config"]
    config = {
        "model_type": name, "scale_factor": 2, "image_token_id": 1590, "text_config": text,
        "vision_config": {key: vision[key] for key in sizes},
    }  # fmt: skip
    monkeypatch.setitem(CONFIGS, name, config)
    monkeypatch.setitem(TOWER, name, config["vision_config"]["num_hidden_layers"])
    compared(name, {"attention": "eager"}, monkeypatch)


CUT: Final[dict[str, dict[str, Any]]] = {
    "padded": {"images": 3, "image_size": "32x32"},
    "padded, recomputed": {"images": 3, "image_size": "32x32", "recompute": "full"},
    "padded, adapters": {"images": 3, "image_size": "32x32", "lora_rank": 8, "lora_targets": ["q_proj"]},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", CUT)
def test_crops_that_are_padded(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "lora_rank" in CUT[setting]:
        pytest.importorskip("peft")
    compared("lfm2_vl", CUT[setting], monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_a_picture_in_tiles(recompute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = {"max_image_tokens": 64, "do_image_splitting": True, "tile_size": 64, "max_tiles": 4}
    monkeypatch.setitem(CONFIGS, "lfm2_vl", CONFIGS["lfm2_vl"] | tiles)
    compared("lfm2_vl", {"images": 1, "image_size": "256x256", "seq": 136, "recompute": recompute}, monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", ["eager", "mixed", "outputs", "one sequence"])
@pytest.mark.parametrize("name", ["glm4v"])
def test_text_alone_of_other_models_that_see(name: str, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their language models cache keys and values as well."""
    monkeypatch.setitem(CONFIGS, name, tracing_cases.CONFIGS[name])
    depth = tracing_cases.CONFIGS[name]["vision_config"]["depth"]
    monkeypatch.setitem(TOWER, name, depth)
    compared(name, SETTINGS[setting], monkeypatch)


def test_the_processor_cuts_as_that_of_transformers() -> None:
    processors = pytest.importorskip("transformers.models.lfm2_vl.image_processing_lfm2_vl")
    theirs = processors.Lfm2VlImageProcessor()
    eye = model_from(CONFIGS["lfm2_vl"]).eye
    assert eye is not None
    ours = type(eye.processor)()
    for width, height in ((512, 512), (640, 480), (1024, 1024), (2000, 700), (90, 4000), (64, 64), (1500, 1499)):
        import torch

        found = theirs([torch.zeros(3, height, width, dtype=torch.uint8)], return_tensors="pt")
        assert [tuple(shape) for shape in found["spatial_shapes"].tolist()] == list(ours.crops(width, height))
        assert found["pixel_values"].shape[1] == ours.length


SIZES: Final = ((512, 512), (640, 480), (1024, 1024), (2000, 700), (90, 4000), (30, 20), (9000, 8000))


@pytest.mark.parametrize(("name", "step"), [("qwen2_vl", 28), ("qwen2_5_vl", 28), ("qwen3_vl", 32)])
def test_pictures_are_resized_as_by_transformers(name: str, step: int) -> None:
    """By the library's own function, which can be read where torchvision, that its module imports, is not there."""
    import math

    import transformers

    code = Path(transformers.__file__).parent / "models" / "qwen2_vl" / "image_processing_qwen2_vl.py"
    found = [n for n in ast.parse(code.read_text()).body if getattr(n, "name", "") == "smart_resize"]
    theirs: dict[str, Any] = {"math": math}
    exec(compile(ast.Module(body=found, type_ignores=[]), str(code), "exec"), theirs)
    eye = model_from(CONFIGS[name]).eye
    assert eye is not None
    bounds = eye.processor
    for width, height in SIZES:
        wanted = theirs["smart_resize"](height, width, step, min_pixels=bounds.least, max_pixels=bounds.most)
        assert bounds.resized(width, height, step) == wanted


@pytest.mark.parametrize(("rows", "columns"), [(36, 36), (32, 32), (46, 34), (6, 250), (4, 4)])
def test_windows_are_those_of_transformers(rows: int, columns: int) -> None:
    import torch
    from transformers.vision_utils import get_vision_window_index

    eye = model_from(CONFIGS["qwen2_5_vl"]).eye
    assert eye is not None
    tower = eye.tower.but(window=4)
    _, bounds = get_vision_window_index(torch.tensor([[1, rows, columns]]), 2, 112, 14)
    assert list(tower.windows(rows, columns)) == bounds.diff().tolist()


@pytest.mark.parametrize(
    ("model", "said", "tokens"),
    # By hand: 640 / 28 is nearest to 23, 480 / 28 to 17; 640 / 32 is 20, 480 / 32 is 15.
    [("qwen2-vl-7b", "640x480", 23 * 17), ("qwen2.5-vl-7b", "640x480", 23 * 17), ("qwen3-vl-8b", "640x480", 20 * 15)],
)
def test_tokens_of_a_picture(model: str, said: str, tokens: int) -> None:
    eye = tn.load(model).eye
    assert eye is not None
    assert eye.tokens(eye.pictures(1, said)) == tokens


def test_the_processor_lays_tiles_as_that_of_llava_next() -> None:
    processing = pytest.importorskip("transformers.models.llava_next.processing_llava_next")
    theirs = object.__new__(processing.LlavaNextProcessor)
    theirs.patch_size, theirs.num_additional_image_tokens = 14, 1
    config = {key: value for key, value in CONFIGS["llava_next"].items() if key != "image_grid_pinpoints"}
    eye = model_from(config | {"vision_config": config["vision_config"] | {"image_size": 336, "patch_size": 14}}).eye
    assert eye is not None
    theirs.image_processor = type("Images", (), {"image_grid_pinpoints": [list(shape) for shape in eye.shapes]})()
    for width, height in ((512, 512), (640, 480), (336, 336), (2000, 700), (90, 4000), (1500, 1499), (1024, 768)):
        found = theirs._get_number_of_features(height, width, 336, 336) - 1
        assert eye.tokens(eye.pictures(1, f"{width}x{height}")) == found


def test_the_processor_lays_tiles_as_that_of_llava_onevision() -> None:
    processing = pytest.importorskip("transformers.models.llava_onevision.processing_llava_onevision")
    theirs = object.__new__(processing.LlavaOnevisionProcessor)
    theirs.num_image_tokens, theirs.vision_aspect_ratio = 729, "anyres_max_9"
    config = {key: value for key, value in CONFIGS["llava_onevision"].items() if key != "image_grid_pinpoints"}
    vision = config["vision_config"] | {"image_size": 384, "patch_size": 14}
    eye = model_from(config | {"vision_config": vision, "vision_aspect_ratio": "anyres_max_9"}).eye
    assert eye is not None
    theirs.image_processor = type("Images", (), {"image_grid_pinpoints": [list(shape) for shape in eye.shapes]})()
    for width, height in ((512, 512), (640, 480), (384, 384), (2000, 700), (90, 4000), (1500, 1499), (3000, 3000)):
        found = theirs._get_number_of_features(height, width, 384, 384)
        assert eye.tokens(eye.pictures(1, f"{width}x{height}")) == found
    assert eye.tokens(eye.pictures(3, "512x512")) == 3 * 730


def test_the_processor_resizes_as_that_of_pixtral() -> None:
    processors = pytest.importorskip("transformers.models.pixtral.image_processing_pixtral")
    import numpy as np

    eye = tn.load("mistral-small-3.1-24b").eye
    assert eye is not None
    for width, height in ((512, 512), (1024, 768), (1540, 1540), (2000, 700), (90, 4000), (30, 30), (1541, 1499)):
        found = processors.get_resize_output_image_size(np.zeros((height, width, 3)), (1540, 1540), (28, 28))
        ((rows, columns),) = eye.pictures(1, f"{width}x{height}").patches
        assert (rows * 14, columns * 14) == found


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"model": "paligemma", "images": 5}, "80 tokens are more than the 64"),
        ({"model": "paligemma", "images": 1, "image_size": "64x64"}, "all get one size"),
        ({"model": "lfm2_vl", "images": 1, "image_size": "64"}, "is no size"),
        ({"model": "lfm2_vl", "image_size": "64x64"}, "no images"),
        ({"model": "qwen2_vl", "images": 1, "image_size": "4000x16"}, "200 times the other"),
        ({"model": "qwen2_vl", "images": 1, "image_size": "640x480"}, "1,200 tokens are more than the 64"),
        ({"model": "mistral3", "images": 4}, "80 tokens are more"),
    ],
)
def test_what_contradicts_is_refused(said: dict[str, Any], why: str) -> None:
    name = said.pop("model")
    with pytest.raises(InputError, match=why):
        tn.train({"config": CONFIGS[name]}, suggest=False, **SHAPE | said)


def test_kernels_that_take_bounds_of_pictures_are_refused() -> None:
    said = {"images": 1, "attention": "flash_attention_2"}
    with pytest.raises(UnsupportedError, match="one row"):
        tn.train({"config": CONFIGS["mistral3"]}, suggest=False, **SHAPE | said)


def test_pictures_of_other_models_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="on pictures is not modelled"):
        tn.train({"config": tracing_cases.CONFIGS["glm4v"]}, suggest=False, images=1)
