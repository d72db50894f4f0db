"""GGUF files with the metadata that llama.cpp's own converter writes and a body of zeros that takes no disk.

The converter (``convert_hf_to_gguf.py`` of a llama.cpp checkout) is handed a model's config and tensors without data,
under the names that a checkpoint gives them; what it would write is written but for the tensors' bytes.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tonnage as tn
from tonnage.memory.ggml.choices import text_of
from tonnage.quant import called, recipe
from tonnage.sources import catalogue

FORMATS = {
    "fp32": "F32", "fp16": "F16", "bf16": "BF16", **{f"q{n}_K": f"Q{n}_K" for n in (2, 3, 4, 5, 6)},
    **{name: name.upper() for name in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "iq4_xs", "mxfp4")},
}  # fmt: skip

# Keys that the converter reads under names that today's configs no longer have.
WANTED: Mapping[str, Mapping[str, Any]] = {
    "gpt2": {"n_ctx": 1024},
    "falcon": {"num_kv_heads": 1},
    "gpt_neox": {"rotary_pct": 0.25, "rotary_emb_base": 10000, "layer_norm_eps": 1e-5, "use_parallel_residual": True},
    "cohere2": {"rotary_pct": 1.0},
    "llama4_text": {"rms_norm_eps": 1e-5},
    "qwen3_vl_moe_text": {"rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20]}},
    "nemotron_h": {"layer_norm_epsilon": 1e-5},
    "glm4_moe_lite": {"first_k_dense_replace": 1},
    "olmo3": {"rms_norm_eps": 1e-6},
    "ministral3": {"rope_parameters": {"mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}},
    "lfm2": {"block_auto_adjust_ff_dim": True, "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 256},
    "qwen2_5_vl": {"rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]}},
}

CLASSES = {
    "MptForCausalLM": "MPTForCausalLM",
    "Lfm2VlForConditionalGeneration": "Lfm2ForCausalLM",
    "KimiK25ForConditionalGeneration": "DeepseekV3ForCausalLM",
}
"""The converter's names of classes, or those of the language model inside."""

PLAIN = ("gpt_neox", "nemotron_h")
"""Types whose config is handed as it is: transformers adds keys, such as experts to a Nemotron-H that has none."""

HELD = ("e_score_correction_bias", "layer_scalar")
"""Buffers that a checkpoint holds."""

STACKED = ("gpt_oss", "qwen3_5_moe_text", "gemma4_text", "llama4_text")
"""Types whose checkpoints stack experts."""


def config_of(name: str) -> dict[str, Any]:
    """A model's config: of the catalogue, or transformers' default for a ``model_type``."""
    found = catalogue.find(name)
    if found is not None:
        return dict(found.config)
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

    config = {k: v for k, v in transformers.AutoConfig.for_model(name).to_dict().items() if v is not None}
    return json.loads(json.dumps({**config, "architectures": [CLASSES[name]]}, default=str))


def filled(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config, and that of its text model, with what the converter wants besides."""
    out = dict(config)
    for key, value in WANTED.get(config["model_type"], {}).items():
        told = out.get(key)
        out[key] = (
            {**value, **told} if isinstance(value, dict) and isinstance(told, dict) else value if told is None else told
        )
    if isinstance(out.get("text_config"), dict):
        out["text_config"] = filled(out["text_config"])
    return out


def tensors(model: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes as a checkpoint has them: stacked experts one by one."""
    renamed = model.model_type in ("mixtral", "minimax_m2")
    for t in model.tensors():
        if (t.role == "buffer" and not t.name.endswith(HELD)) or t.alias_of:
            continue
        name, shape = t.name, t.shape
        if name.endswith("e_score_correction_bias") and model.model_type == "nemotron_h":
            name = name.replace("e_score_correction_bias", "e_score_correction.bias")
        if model.model_type == "nemotron_h" and name.startswith("model."):
            name = name.replace("model.", "backbone.", 1)
        if ".experts." in name and model.model_type == "qwen3_vl_moe":
            # Its checkpoints store experts input first.
            yield name, (shape[0], *reversed(shape[1:]))
            continue
        if ".experts." in name and len(shape) >= 3 and model.model_type not in STACKED:
            base, leaf = name.rsplit(".", 1)
            if model.model_type == "granitemoe":
                block = base.replace(".mlp.experts", ".block_sparse_moe").removesuffix(".experts")
                yield f"{block}.{'input' if leaf == 'gate_up_proj' else 'output'}_linear.weight", shape
                continue
            base = base.replace(".mlp.experts", ".block_sparse_moe.experts") if renamed else base
            gate, up, down = ("w1", "w3", "w2") if renamed else ("gate_proj", "up_proj", "down_proj")
            for e in range(shape[0]):
                if leaf == "up_proj":
                    yield f"{base}.{e}.{up}.weight", shape[1:]
                elif leaf == "gate_up_proj":
                    yield f"{base}.{e}.{gate}.weight", (shape[1] // 2, shape[2])
                    yield f"{base}.{e}.{up}.weight", (shape[1] // 2, shape[2])
                else:
                    yield f"{base}.{e}.{down}.weight", shape[1:]
            continue
        yield name.replace(".mlp.gate.", ".block_sparse_moe.gate.") if renamed else name, shape


def make(source: Path, name: str, quant: str | None, folder: Path) -> Path:
    """Write a model's GGUF file; one that is there is kept.

    Args:
        source: a checkout of llama.cpp.
        name: of the catalogue, or a ``model_type``.
        quant: a recipe whose formats the tensors take; fp16 when None.
        folder: where files go.
    """
    out = folder / f"{name}.{quant or 'f16'}.gguf"
    if out.exists():
        return out
    if str(source) not in sys.path:
        sys.path[:0] = [str(source), str(source / "gguf-py")]
    import gguf
    import torch
    from conversion import LazyTorchTensor, ModelBase, get_model_class

    logging.disable(logging.WARNING)
    config = config_of(name)
    model = tn.load({"config": config, "name": name})
    there = dict(tensors(model))
    written = config["architectures"][0] if "architectures" in config else model.class_name
    kind = get_model_class(CLASSES.get(written, written))

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
    kind.no_mtp = True
    work = folder / "config"
    work.mkdir(parents=True, exist_ok=True)
    config = {**filled(config), "architectures": [written]}
    (work / "config.json").write_text(json.dumps(config))
    vocabulary = (
        {str(i): i for i in range(model.vocabulary)} if config["model_type"].startswith(("gemma3", "gemma4")) else {}
    )
    (work / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": []}))
    plain = {"hparams": dict(config)} if config["model_type"] in PLAIN else {}
    converter = kind(work, gguf.LlamaFileType.MOSTLY_F16, out, **plain)
    converter = getattr(converter, "impl", converter)
    writer = converter.gguf_writer
    converter.set_vocab = lambda: (writer.add_tokenizer_model("none"), writer.add_vocab_size(model.vocabulary))
    converter.prepare_tensors()
    converter.prepare_metadata(vocab_only=False)
    if quant is not None:
        _take_formats(writer, model, quant, gguf)
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


def _take_formats(writer: Any, model: Any, quant: str, gguf: Any) -> None:
    """Give every tensor the format that the recipe has for it."""
    plan = recipe(called(quant)).plan
    wanted = {t.name: t.dtype for _, t, _ in plan(text_of(model))} if plan is not None else {}
    for part in writer.tensors:
        for key, info in part.items():
            form = wanted.get(key)
            if form is None or form not in FORMATS:
                continue
            info.dtype = gguf.GGMLQuantizationType[FORMATS[form]]
            elements, size = gguf.GGML_QUANT_SIZES[info.dtype]
            count = 1
            for n in info.shape:
                count *= n
            info.nbytes = count // elements * size
