"""``params`` from a header: counts and bytes for any architecture, by what the names tell."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from made import gguf

from tonnage import api
from tonnage.checkpoint import Header, Stored
from tonnage.checkpoint.names import about, beside, layer, role
from tonnage.checkpoint.packing import Packing
from tonnage.cli import main
from tonnage.errors import UnsupportedError
from tonnage.families import model_from
from tonnage.formats import FORMATS, storage_format
from tonnage.report.headers import Totals, as_dict, render
from tonnage.tensors import ROLES

CONFIGS = Path(__file__).parents[1] / "families" / "data"


def header(tensors: list[Stored], **more: Any) -> Header:
    return Header(kind="safetensors", tensors=tensors, name="x", origin="test", **more)


def test_roles_are_those_of_the_families() -> None:
    """Names alone tell what the code of the family says; what they do not tell is "other"."""
    alike = unknown = 0
    wrong: dict[str, str] = {}
    for path in sorted(CONFIGS.glob("*.json")):
        model = model_from(json.loads(path.read_text())["config"], lenient=True)
        for t in (*model.tensors(), *model.apart):
            told = role(t.name)
            assert told in (*ROLES, "other")
            alike += told == t.role
            unknown += told == "other"
            if told not in (t.role, "other"):
                wrong[f"{path.stem}: {t.name}"] = f"{told}, not {t.role}"
    assert alike > 10_000
    assert unknown < 0.03 * alike
    assert len(wrong) < 0.05 * alike, list(wrong.items())[:20]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("layers.0.attention.wq.weight", "attention"),
        ("layers.0.feed_forward.w1.weight", "feed_forward"),
        ("tok_embeddings.weight", "embedding"),
        ("output.weight", "head"),
        ("blk.3.ffn_gate_exps.weight", "expert"),
        ("blk.3.ffn_gate_shexp.weight", "shared_expert"),
        ("blk.3.ffn_gate_inp.weight", "router"),
        ("blk.3.ssm_conv1d.weight", "mixer"),
        ("output_norm.weight", "norm"),
        ("rope_freqs.weight", "buffer"),
        ("model.diffusion_model.double_blocks.1.img_attn.qkv.weight", "attention"),
        ("zebra.stripes", "other"),
    ],
)
def test_names_of_other_files(name: str, told: str) -> None:
    assert role(name) == told


def test_places_in_a_name() -> None:
    name = "model.layers.123.mlp.experts.45.down_proj.weight_scale_inv"
    assert layer(name) == ("model.layers", 123)
    assert beside(name) == "model.layers.123.mlp.experts.45.down_proj"
    assert (
        beside("model.layers.1.self_attn.q_proj.weight.quant_state.bitsandbytes__nf4")
        == "model.layers.1.self_attn.q_proj"
    )
    assert (layer("é.ü"), beside("é.weight_scale"), about("İ.weight").stem) == (None, "é", 0)


def packed(*tensors: tuple[str, tuple[int, ...], str]) -> tuple[int, list[str]]:
    found = [Stored(name, shape, form, 0) for name, shape, form in tensors]
    packing = Packing(found)
    return sum(packing.parameters(t) for t in found), packing.unknown


def test_parameters_of_packed_tensors() -> None:
    out, ins = 64, 256
    scales = [("a.qzeros", (2, out // 8), "int32"), ("a.scales", (2, out), "fp16")]
    gptq = [("a.qweight", (ins // 8, out), "int32"), *scales]
    assert packed(*gptq, ("a.g_idx", (ins,), "int32")) == (out * ins, [])
    assert packed(*gptq) == (out * ins // 8, ["a.qweight"])
    assert packed(("a.qweight", (ins, out // 8), "int32"), *scales) == (out * ins, [])
    absmax, quant_state = ("a.weight.absmax", (256,), "fp32"), "a.weight.quant_state.bitsandbytes__nf4"
    assert packed(("a.weight", (out * ins // 2, 1), "uint8"), absmax, (quant_state, (87,), "uint8")) == (out * ins, [])
    blocks = [("a_blocks", (out, ins // 32, 16), "uint8"), ("a_scales", (out, ins // 32), "uint8")]
    assert packed(*blocks) == (out * ins, [])
    assert packed(("a.weight", (out, ins), "fp8_e4m3"), ("a.weight_scale_inv", (1, 2), "fp32")) == (out * ins, [])
    nvfp4 = [
        ("a.weight", (out, ins // 2), "uint8"),
        ("a.weight_scale", (out, 16), "fp8_e4m3"),
        ("a.weight_scale_2", (), "fp32"),
    ]
    assert packed(*nvfp4) == (out * ins, [])
    assert packed(("a.weight", (out, ins), "int8"), ("a.SCB", (out,), "fp32")) == (out * ins, [])
    assert packed(("ids", (7,), "int64")) == (7, [])


def test_sums_add_up() -> None:
    found = Totals(header([
        Stored("embed_tokens.weight", (10, 4), "bf16", 80),
        Stored("layers.0.mlp.up_proj.weight", (4, 4), "fp8_e4m3", 16),
        Stored("layers.0.mlp.up_proj.weight_scale_inv", (1, 1), "fp32", 4),
        Stored("layers.1.mlp.experts.0.up_proj.weight", (4, 4), "bf16", 32),
        Stored("layers.10.mlp.experts.0.up_proj.weight", (4, 4), "bf16", 32),
    ]))  # fmt: skip
    assert found.by_role == {"embedding": 40, "feed_forward": 16, "expert": 32}
    assert found.role_bytes == {"embedding": 80, "feed_forward": 20, "expert": 64}
    assert found.layers == {"dense layer": 16, "layer with experts": 32, "outside the layers": 40}
    assert (found.parameters, found.bytes, found.side_bytes, found.largest) == (88, 164, 4, 80)
    assert [(row["format"], row["bytes"], row["tensors"]) for row in found.storage()] == [
        ("bf16", 144, 3),
        ("fp8_e4m3", 16, 1),
        ("fp32", 4, 1),
    ]


def test_an_empty_file() -> None:
    found = as_dict(header([]))
    assert found["model"]["parameters"] == 0
    assert render(header([]))


def test_formats_are_exact() -> None:
    assert {name: FORMATS[name].bits for name in ("q4_K", "q6_K", "iq1_s", "tq1_0", "mxfp4", "nvfp4", "fp6_e2m3")} == {
        "q4_K": 4.5, "q6_K": 6.5625, "iq1_s": 1.5625, "tq1_0": 1.6875, "mxfp4": 4.25, "nvfp4": 4.5, "fp6_e2m3": 6.0,
    }  # fmt: skip
    assert all(f.source for f in FORMATS.values())
    with pytest.raises(UnsupportedError, match="256 elements"):
        storage_format("Q4_K")


# The command line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    table = {"zebra.weight": {"dtype": "BF16", "shape": [3, 5], "data_offsets": [0, 30]}}
    text = json.dumps(table).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(30))
    return tmp_path


def test_params_of_an_unknown_architecture(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in (folder, folder / "model.safetensors"):
        assert main(["params", str(source), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert {"schema", "model", "by_component", "by_layer_kind", "storage", "defaulted"} <= set(found)
        assert found["model"]["parameters"] == 15
        assert found["by_component"] == {"other": 15}
        assert [(row["format"], row["bytes"]) for row in found["storage"]] == [("bf16", 30)]
    assert main(["params", str(folder)]) == 0
    assert "15 parameters" in capsys.readouterr().out


def test_other_verbs_need_a_config(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(folder / "model.safetensors")
    assert main(["serve", path]) == 3
    assert "config.json" in capsys.readouterr().err
    (folder / "config.json").write_text(
        json.dumps({"model_type": "plain", "hidden": 8, "layers": 1, "heads": 2, "vocab": 9})
    )
    assert api.load(path).model_type == "plain"
    assert main(["params", path]) == 0


def test_exit_codes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0))
    (folder / "bad.safetensors").write_bytes(b"\xff" * 99)
    (folder / "clip.gguf").write_bytes(gguf({"general.architecture": "clip"}, {})[0])
    (folder / "old.pt").write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + bytes(30))
    for code, name in (
        (2, "bad.gguf"),
        (2, "bad.safetensors"),
        (4, "none.gguf"),
        (4, "none.safetensors"),
        (3, "old.pt"),
    ):
        assert main(["params", str(folder / name)]) == code
        assert main(["params", str(folder / name), "--json"]) == code
    assert main(["serve", str(folder / "clip.gguf")]) == 2
    assert main(["params", str(folder / "clip.gguf")]) == 0
    assert main(["params", str(folder / "model.safetensors"), "--hidden", "8"]) == 2
