"""Models that see: the closed form of a step, on text and on pictures, against a live trace of transformers' code."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import tracing_cases

import tonnage as tn
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate import composites
from tonnage.estimate.training import Step
from tonnage.families import model_from
from tonnage.tracing import ask, request, tuning
from tonnage.tracing.levels import Levels, levels
from tonnage.units import MiB
from tonnage.workload import workload
from tonnage.workload.training import Train

CONFIGS: Final[dict[str, dict[str, Any]]] = json.loads(
    (Path(__file__).parent.parent / "data" / "pictures.json").read_text()
)["configs"]
SHAPE: Final[dict[str, Any]] = {"precision": "bf16", "batch": 2, "seq": 64}
TOWER: Final = {"paligemma": 3, "lfm2_vl": 3, "mllama": 0, "qwen2_5_vl": 4, "qwen2_vl": 3, "qwen3_vl": 4}
"""Layers of a tower that a trace counts before those of the language model: those that know of checkpoints."""
SEEN: Final[dict[str, dict[str, Any]]] = {
    "paligemma": {"images": 1},
    "lfm2_vl": {"images": 1, "image_size": "64x32"},
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
LAST: Final = 2 * 4
"""Bytes a token, at most, by which the lowest layer over a picture is overstated: its rows that see nothing."""


def frozen(parts: tuple[str, ...]) -> Callable[[Any, Any], Any]:
    """What makes a model for a trace, of which these parts are frozen."""
    tuned = tuning.tuned

    def made(model: Any, job: Any) -> Any:
        for name, p in model.named_parameters():
            p.requires_grad_(not composites.hit(name, parts))
        return tuned(model, job)

    return made


def traced(config: dict[str, Any], said: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Levels:
    """The trace, with the pictures that the closed form has, and the parts that it freezes."""
    from tonnage.tracing import run

    model = model_from(config)
    parts = composites.forbidden(model, workload(Train, {"freeze": said.get("freeze", [])}))
    if parts:
        monkeypatch.setattr(tuning, "tuned", frozen(parts))
    text = {key: value for key, value in said.items() if key not in ("images", "image_size", "freeze")}
    job = request.training(config, workload(Train, text), None, name="", head=ask.own_head(config, model)).job
    if "images" in said:
        assert model.eye is not None
        found = model.eye.pictures(said["images"], said.get("image_size"))
        length = getattr(getattr(model.eye, "processor", None), "length", 0)
        tokens = said["batch"] * model.eye.tokens(found)
        job = {**job, "pictures": {"count": found.count, "patches": found.patches, "length": length, "tokens": tokens}}
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
    # Where masks are made, tensors of a moment are left out; all else is equal.
    wanted = {n: got[n] for n in got if n != "forward embedding"}
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


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"model": "paligemma", "images": 5}, "80 tokens are more than the 64"),
        ({"model": "paligemma", "images": 1, "image_size": "64x64"}, "all get one size"),
        ({"model": "lfm2_vl", "images": 1, "image_size": "64"}, "is no size"),
        ({"model": "lfm2_vl", "image_size": "64x64"}, "no images"),
        ({"model": "qwen2_vl", "images": 1, "image_size": "4000x16"}, "200 times the other"),
        ({"model": "qwen2_vl", "images": 1, "image_size": "640x480"}, "1,200 tokens are more than the 64"),
    ],
)
def test_what_contradicts_is_refused(said: dict[str, Any], why: str) -> None:
    name = said.pop("model")
    with pytest.raises(InputError, match=why):
        tn.train({"config": CONFIGS[name]}, suggest=False, **SHAPE | said)


def test_pictures_of_other_models_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="on pictures is not modelled"):
        tn.train({"config": tracing_cases.CONFIGS["glm4v"]}, suggest=False, images=1)
