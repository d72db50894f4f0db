"""A config held against a file: what only looks different is the same, what differs is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tonnage import reconcile
from tonnage.checkpoint import Header, Stored
from tonnage.cli import main
from tonnage.families import model_from

CONFIGS = Path(__file__).parent / "families" / "data"
SOME = (
    "llama", "gpt2", "mixtral", "deepseek_v3", "qwen2_moe", "gpt_oss", "gemma2", "bert", "t5", "mamba2", "jamba",
    "phi3",
)  # fmt: skip


def model(name: str) -> Any:
    return model_from(json.loads((CONFIGS / f"{name}.json").read_text())["config"], lenient=True)


def stored(m: Any) -> list[Stored]:
    """The tensors of a checkpoint in bf16; a tied one is stored once."""
    tensors = (*m.weights(), *m.apart)
    return [Stored(t.name, t.shape, "bf16", 2 * t.numel) for t in tensors if t.alias_of is None]


def held(m: Any, tensors: list[Stored], kind: str = "safetensors") -> reconcile.Difference:
    left = reconcile.predicted(m)
    return reconcile.compare(left, reconcile.found(Header(kind=kind, tensors=tensors, name="x", origin=""), left))


@pytest.mark.parametrize("name", SOME)
def test_a_model_s_own_tensors(name: str) -> None:
    m = model(name)
    assert not held(m, stored(m))


@pytest.mark.parametrize("name", SOME)
def test_without_the_base_model_s_prefix(name: str) -> None:
    m = model(name)
    base = m.stacks[0].path.partition(".")[0] + "."
    assert not held(m, [t._replace(name=t.name.removeprefix(base)) for t in stored(m)])


@pytest.mark.parametrize("name", SOME)
def test_what_is_missing_extra_and_resized(name: str) -> None:
    m = model(name)
    tensors = stored(m)
    gone, grown = tensors[-1], next(t for t in tensors if "norm" in t.name.lower() or "ln_" in t.name)
    changed = [t for t in tensors if t not in (gone, grown)]
    changed += [grown._replace(shape=(*grown.shape, 2)), Stored("new.weight", (3,), "bf16", 6)]
    found = held(m, changed)
    kept = [] if any(t.name == gone.name for t in m.apart) else [reconcile.canonical(gone.name)]
    assert list(found.missing) == kept
    assert found.extra == ("new.weight",)
    assert [(r.name, r.left, r.right) for r in found.resized] == [(grown.name, grown.numel, 2 * grown.numel)]


def test_experts_one_by_one() -> None:
    m = model("mixtral")
    tensors = []
    for t in stored(m):
        if "experts." not in t.name:
            tensors.append(t._replace(name=t.name.replace(".mlp.", ".block_sparse_moe.")))
            continue
        E, rows, columns = t.shape
        base = t.name.partition("experts.")[0].replace(".mlp.", ".block_sparse_moe.")
        parts = {"w1": rows // 2, "w3": rows // 2} if "gate_up" in t.name else {"w2": rows}
        tensors += [
            Stored(f"{base}experts.{e}.{part}.weight", (n, columns), "bf16", 0)
            for e in range(E)
            for part, n in parts.items()
        ]
    assert not held(m, tensors)
    less = held(m, [t for t in tensors if t.name != "model.layers.3.block_sparse_moe.experts.5.w2.weight"])
    assert [r.name for r in less.resized] == ["model.layers.3.mlp.experts.down_proj.weight"]


def test_packed_weights_and_their_scales() -> None:
    m = model("llama")
    tensors = []
    for t in stored(m):
        if not t.name.endswith("_proj.weight"):
            tensors.append(t)
            continue
        stem, (out, ins) = t.name.removesuffix("weight"), t.shape
        tensors += [
            Stored(f"{stem}qweight", (ins // 8, out), "int32", 0),
            Stored(f"{stem}qzeros", (ins // 128, out // 8), "int32", 0),
            Stored(f"{stem}scales", (ins // 128, out), "fp16", 0),
            Stored(f"{stem}g_idx", (ins,), "int32", 0),
        ]
    assert not held(m, tensors)


ORACLE = {
    "llama": "llama", "mixtral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe", "gemma": "gemma", "gemma2": "gemma2", "gemma3_text": "gemma3", "phi": "phi2",
    "phi3": "phi3", "gpt2": "gpt2", "gpt_neox": "gptneox", "falcon": "falcon", "bloom": "bloom", "mpt": "mpt",
    "starcoder2": "starcoder2", "stablelm": "stablelm", "cohere": "command-r", "cohere2": "cohere2", "olmo": "olmo",
    "olmo2": "olmo2", "olmoe": "olmoe", "granite": "granite", "deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2",
    "glm4": "glm4", "smollm3": "smollm3", "mamba": "mamba", "mamba2": "mamba2", "jamba": "jamba", "gpt_oss": "gpt-oss",
}  # fmt: skip


@pytest.mark.parametrize("name", ORACLE)
def test_gguf_s_names_are_the_package_s(name: str) -> None:
    package = pytest.importorskip("gguf")
    m = model(name)
    arch = next(a for a, text in package.MODEL_ARCH_NAMES.items() if text == ORACLE[name])
    names = package.get_tensor_name_map(arch, len(m.decoder.layers))
    tensors = []
    for t in stored(m):
        if "experts.gate_up_proj" in t.name:
            E, rows, columns = t.shape if len(t.shape) == 3 else (*t.shape, 1)
            end = "bias" if t.name.endswith("bias") else "weight"
            block = t.name.split(".layers.")[1].partition(".")[0]
            tensors += [
                Stored(f"blk.{block}.{part}.{end}", (E, rows // 2, columns), "bf16", 0)
                for part in ("ffn_gate_exps", "ffn_up_exps")
            ]
            continue
        plain = t.name.replace("_proj_bias", "_proj.bias").replace("dt_bias", "dt_proj.bias")
        if not plain.endswith((".weight", ".bias", ".D", "A_log")):
            plain += ".weight"
        if name == "bloom":
            plain = plain.removeprefix("transformer.")
        theirs = names.get_name(plain, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            assert any(t.name == a.name for a in m.apart) or "project" in t.name, f"the package has no name for {plain}"
            continue
        tensors.append(t._replace(name=theirs))
    found = held(m, tensors, "gguf")
    assert (found.missing, found.extra, found.resized) == ((), (), ())


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    config = {
        "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 10,
        "num_attention_heads": 2, "tie_word_embeddings": False,
    }  # fmt: skip
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.json").write_text(json.dumps(config))
    header, at = {}, 0
    for t in stored(model_from(config, lenient=True))[:-1]:
        header[t.name] = {"dtype": "BF16", "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))
    return tmp_path / "c" / "config.json", path


def test_the_verb(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    config, path = map(str, files)
    assert main(["compare", config, path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"schema", "left", "right", "lines", "missing", "extra", "resized"}
    assert found["missing"] == ["lm_head.weight"]
    assert found["extra"] == found["resized"] == []
    head = next(line for line in found["lines"] if line["name"] == "head")
    assert (head["left_bytes"], head["right_bytes"], head["difference_bytes"]) == (160, 0, -160)
    assert main(["compare", config, path, "--strict"]) == 1
    assert "lm_head.weight" in capsys.readouterr().out
    assert main(["compare", path, path, "--strict"]) == 0
    capsys.readouterr()
    assert main(["compare", path, config, "--json"]) == 0
    turned = json.loads(capsys.readouterr().out)
    assert (turned["extra"], turned["missing"]) == (found["missing"], [])
    assert main(["compare", config, config]) == 2
    assert main(["compare", config, path + "x"]) == 2
    assert main(["compare", config, str(Path(path).with_name("none.gguf"))]) == 4
