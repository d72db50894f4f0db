"""Compare tonnage with llama.cpp's own loader of projectors, and record the comparison.

    python scripts/llamacpp/pictures.py --source LLAMA.CPP --library FOLDER --mtmd LIB [--device LIB] [--picture LIB]
        [--write]

``--mtmd`` is libmtmd, built of ``--source`` and linked to the libraries of ``--library``; ``--device`` a library of
device.c, ``--picture`` one of picture.cpp. Files are made by llama.cpp's converter, without tensors' bytes. With
``--picture`` the largest pictures are compared too, which llama.cpp reserves nothing for at start.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT / "src"), str(HERE)]

import tonnage as tn  # noqa: E402
from tonnage.memory.ggml.vision.projector import read  # noqa: E402
from tonnage.sources import catalogue  # noqa: E402
from tonnage.sources.gguf import read as header  # noqa: E402
from tonnage.sources.mmproj import converted  # noqa: E402

CASES = ROOT / "accuracy" / "cases" / "projectors.jsonl"
SOURCE = "llama.cpp v0.5.0, tools/mtmd built with g++ against @node-llama-cpp/linux-x64 3.22.1, its log"
LINE = re.compile(r"(?:reserve_compute_meta: +(\w+) compute buffer size =|load_hparams: model (size):) +([\d.]+) MiB")

TEXT = {"num_hidden_layers": 2, "num_attention_heads": 32, "num_key_value_heads": 8}
SIGLIP = {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "image_size": 896,
          "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14, "vision_use_head": False}  # fmt: skip
GEMMA: dict[str, Any] = {
    "model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "mm_tokens_per_image": 256,
    "text_config": {**TEXT, "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
                    "head_dim": 256, "vocab_size": 262208, "sliding_window": 1024},
    "vision_config": SIGLIP,
}  # fmt: skip
SMOL: dict[str, Any] = {
    "model_type": "idefics3", "architectures": ["Idefics3ForConditionalGeneration"], "scale_factor": 3,
    "text_config": {**TEXT, "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192,
                    "vocab_size": 49155},
    "vision_config": {"model_type": "idefics3", "hidden_size": 1152, "image_size": 384, "intermediate_size": 4304,
                      "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14},
}  # fmt: skip
PIXTRAL: dict[str, Any] = {
    "model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "vision_feature_layer": -1,
    "text_config": {**TEXT, "model_type": "mistral", "hidden_size": 5120, "head_dim": 128, "intermediate_size": 14336,
                    "vocab_size": 131072, "sliding_window": None},
    "vision_config": {"model_type": "pixtral", "hidden_size": 1024, "intermediate_size": 4096, "image_size": 1024,
                      "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 16, "head_dim": 64,
                      "hidden_act": "silu", "rope_theta": 10000.0},
}  # fmt: skip


def intern(width: int, layers: int, heads: int, feed: int, text: int, **more: Any) -> dict[str, Any]:
    """InternVL with a language model of two layers."""
    return {
        "model_type": "internvl", "architectures": ["InternVLForConditionalGeneration"], "downsample_ratio": 0.5,
        "text_config": {**TEXT, "model_type": "qwen2", "hidden_size": text, "intermediate_size": 18944,
                        "vocab_size": 151936},
        "vision_config": {"model_type": "internvl_vision", "hidden_size": width, "num_hidden_layers": layers,
                          "num_attention_heads": heads, "intermediate_size": feed, "image_size": [448, 448],
                          "patch_size": [14, 14], "hidden_act": "gelu", "layer_norm_eps": 1e-6, **more},
    }  # fmt: skip


MODELS: dict[str, str | dict[str, Any]] = {
    "qwen2-vl-7b": "qwen2-vl-7b", "qwen2.5-vl-7b": "qwen2.5-vl-7b", "qwen3-vl-8b": "qwen3-vl-8b",
    "mistral-small-3.1-24b": "mistral-small-3.1-24b", "gemma-3-4b": GEMMA, "smolvlm": SMOL, "pixtral-12b": PIXTRAL,
    "internvl3-8b": intern(1024, 24, 16, 4096, 3584, attention_bias=True),
    "internvl3-38b": intern(3200, 45, 25, 12800, 5120, use_qk_norm=True, norm_type="rms_norm"),
}  # fmt: skip
RENAMED = {
    "qwen": (("model.visual.", "visual."),),
    "gemma3": (("model.vision_tower.", "vision_tower.vision_model."), ("model.multi_modal", "multi_modal")),
    "pixtral": (("model.vision_tower.", "vision_tower."), ("model.multi_modal", "multi_modal"),
                ("model.language_model.", "model.")),
}  # fmt: skip
"""Names as published checkpoints have them."""
CLASS = {"InternVLForConditionalGeneration": "InternVisionModel"}
SETTINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("f16", {}), ("f16", {"flash_attn": "off"}), ("f16", {"mmproj_offload": False}), ("q8_0", {}),
)  # fmt: skip
TYPES = {"f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}


def config_of(spec: str | dict[str, Any]) -> dict[str, Any]:
    """A model's config."""
    if isinstance(spec, str):
        found = catalogue.find(spec)
        assert found is not None
        return json.loads(json.dumps(dict(found.config)))
    return json.loads(json.dumps(spec))


def make(source: Path, name: str, form: str, folder: Path) -> Path:
    """A projector's file, as the converter writes it; one that is there is kept."""
    out = folder / f"mmproj-{name}.{form}.gguf"
    if out.exists():
        return out
    if str(source) not in sys.path:
        sys.path[:0] = [str(source), str(source / "gguf-py")]
    import gguf
    import torch
    from conversion import LazyTorchTensor, ModelBase, get_model_class

    logging.disable(logging.WARNING)
    config = config_of(MODELS[name])
    model = tn.load({"config": config, "name": name})
    kind = config["model_type"] if config["model_type"] != "llava" else "pixtral"
    kind = {"mistral3": "pixtral"}.get(kind, "qwen" if kind.startswith("qwen") else kind)
    there = {}
    for t in model.tensors():
        if t.role != "buffer" and not t.alias_of:
            key = t.name
            for old, new in RENAMED.get(kind, ()):
                key = new + key.removeprefix(old) if key.startswith(old) else key
            there[key] = t.shape
    built = get_model_class(CLASS.get(config["architectures"][0], config["architectures"][0]), mmproj=True)

    def index(self: Any, remote_hf_model_id: str | None = None) -> dict[str, Any]:
        found = {}
        for key, shape in there.items():

            def empty(shape: tuple[int, ...] = tuple(shape)) -> Any:
                meta = torch.empty(shape, dtype=torch.float16, device="meta")
                return LazyTorchTensor(meta=meta, args=(), func=lambda *_: None)

            if (item := self.filter_tensors((key, empty))) is not None:
                found[item[0]] = item[1]
        return found

    ModelBase.index_tensors = index
    work = folder / "config"
    work.mkdir(parents=True, exist_ok=True)
    (work / "config.json").write_text(json.dumps(config))
    (work / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    (work / "tokenizer_config.json").write_text(
        json.dumps({"added_tokens_decoder": {"12": {"content": "[IMG_BREAK]"}}})
    )
    converter = built(work, gguf.LlamaFileType[TYPES[form]], out)
    converter.prepare_tensors()
    converter.prepare_metadata(vocab_only=False)
    writer = converter.gguf_writer
    writer.write_header_to_file(path=out)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    align = writer.data_alignment
    body = sum(-(-t.nbytes // align) * align for part in writer.tensors for t in part.values())
    file = writer.fout[0]
    file.flush()
    file.truncate(-(-file.tell() // align) * align + body)
    writer.close()
    return out


def run(asked: Any, file: Path, said: dict[str, Any]) -> dict[str, str]:
    """What llama.cpp prints of a projector."""
    command = [
        sys.executable,
        str(HERE / "encode.py"),
        str(asked.library),
        str(asked.mtmd),
        str(file),
        json.dumps(said),
    ]
    env = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    out = subprocess.run(command, capture_output=True, text=True, env=env, check=False).stdout
    if "ready" not in out:
        raise SystemExit(f"{file}: llama.cpp did not start\n{out}")
    return summed(out)


def summed(log: str) -> dict[str, str]:
    """Sizes by buffer."""
    return {f"projector {m[1] or m[2]}": m[3] for line in log.splitlines() if (m := LINE.search(line))}


def main() -> int:
    """Every model under every setting; with ``--write`` the rows of the table of accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("source", "library", "mtmd"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--device", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("gguf"))
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    off, rows = 0, []
    for name, spec in MODELS.items():
        for form, said in SETTINGS:
            file = make(asked.source, name, form, asked.folder)
            model = tn.load(spec if isinstance(spec, str) else {"config": spec, "name": name})
            alike = [(t.name, t.shape, t.format) for t in header(str(file)).tensors]
            ours_too = [(t.name, t.shape, t.format) for t in converted(model, form).tensors]
            off += sorted(alike) != sorted(ours_too)
            workload = {"engine": "llamacpp", "engine_version": "0.5", "context": 4096, "mmproj": form, **said}
            told: dict[str, Any] = {"flash": 0} if said.get("flash_attn") == "off" else {}
            if said.get("mmproj_offload") is not False and asked.device:
                told["device"] = str(asked.device)
            theirs = run(asked, file, told)
            ours = summed("\n".join(tn.serve(model, suggest=False, **workload).capacity["log"]))
            wrong = {k: (ours.get(k), theirs.get(k)) for k in {*ours, *theirs} if ours.get(k) != theirs.get(k)}
            off += len(wrong)
            print(f"{name:22s} {form:5s} {json.dumps(said)}: {len(theirs) - len(wrong)} of {len(theirs)}", wrong or "")
            rows += [case(name, form, said, spec, workload, key, value) for key, value in theirs.items()]
        if asked.picture and asked.device:
            off += grown(asked, name, spec)
    if asked.write:
        CASES.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return int(off > 0)


def grown(asked: Any, name: str, spec: Any) -> int:
    """Whether the largest picture makes the buffers what is answered."""
    from tonnage.memory.ggml.vision.buffers import Where, loaded

    file = make(asked.source, name, "f16", asked.folder)
    p = read(header(str(file)))
    theirs = run(asked, file, {"device": str(asked.device), "picture": [str(asked.picture), *p.largest, p.together]})
    ours = loaded(p, Where(device=True)).largest
    told = {f"projector {key}": f"{size / 2**20:.2f}" for key, size in zip(("CUDA0", "CPU"), ours, strict=True)}
    start = loaded(p, Where(device=True)).reserved
    right = all(told[k] == theirs[k] or b > float(theirs[k]) * 2**20 for (k, b) in zip(told, start, strict=True))
    print(f"{name:22s} largest {p.largest} x {p.together}: {told if right else (told, theirs)}")
    return int(not right)


def case(
    name: str, form: str, said: dict[str, Any], spec: Any, workload: dict[str, Any], key: str, theirs: str
) -> dict[str, Any]:
    """A row of the table of accuracy."""
    words = "-".join(f"{k}={v}" for k, v in said.items())
    return {
        "id": f"{name}-{form}-{words}:{key}".replace(" ", "-"),
        "model": spec if isinstance(spec, str) else {"config": spec, "name": name},
        "workload": {"task": "serve", **workload},
        "measured": {"value": float(theirs), "unit": "MiB", "counter": key, "step": 0.01},
        "source": SOURCE + ("" if "mmproj_offload" in said else ", on a device of scripts/llamacpp/device.c"),
        "exactness": "exact" if key.endswith("size") else "measured_peak",
        # What was quantized was run once, when all else was as printed.
        "seen": form != "q8_0",
    }


if __name__ == "__main__":
    sys.exit(main())
