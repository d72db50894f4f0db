"""Ways to load and jobs against processes that did them.

Each reading is the peak of RssAnon, or of RssFile for mapped pages, over what the process held before, sampled every
half millisecond on a machine with two cores, with blocks above 128 KiB mapped one by one (MALLOC_MMAP_THRESHOLD_), so
that what the C library keeps does not count. transformers 5.23.0, 4.48.0 and 4.38.2; torch 2.13.0; safetensors 0.8.0;
accelerate 1.15.0; peft 0.21.2; gguf 0.19.0; torchao 0.18.0; optimum-quanto 0.2.7. Models as in ``test_storing``.
"""

from __future__ import annotations

import json
from functools import lru_cache

import pytest
from stored_models import LLAMA, MIXTRAL

import tonnage as tn
from tonnage.cli import main
from tonnage.evidence import TRUSTS
from tonnage.formats import FORMATS
from tonnage.memory.store import jobs, loading, quantizing
from tonnage.memory.store.ways import PLACES, Way, subject
from tonnage.report.ways import found

MB = 10**6
SLACK = 6 * MB
"""What threads, caches and libraries take that have nothing to do with weights."""

READINGS = [
    # model, format of the file, way, host, mapped [MB]; None where nothing was read
    ("llama", "bf16", "cpu", 0.5, None),
    ("llama", "fp32", "cpu", 0.4, None),
    ("llama", "bf16", "cpu, fp32", 443.1, 221.3),
    ("llama", "fp32", "cpu, bf16", 221.8, 442.6),
    ("llama", "bf16", "cpu, without mmap", 442.8, None),
    ("llama", "bf16", ".bin, cpu", 0.4, None),
    ("llama", "bf16", ".bin, load_state_dict", 442.9, None),
    ("llama", "bf16", ".bin, mmap and assign", 0.2, None),
    ("llama", "bf16", "4.x, low_cpu_mem_usage", 0.2, None),
    ("llama", "bf16", "4.38, without it", 228.2, 221.0),
    ("llama", "bf16", "4.x, no torch_dtype", 442.8, 221.4),
    ("mixtral", "bf16", "cpu", 193.7, 187.3),
    ("mixtral", "bf16", "cpu, fp32", 459.5, 204.8),
    ("mixtral", "bf16", "cpu, without mmap", 404.5, None),
]


@lru_cache
def ways(name: str, form: str) -> dict[str, Way]:
    s = subject(tn.load({"llama": LLAMA, "mixtral": MIXTRAL}[name]), FORMATS[form])
    return {w.name: w for w in (*loading.ways(s), *quantizing.ways(s), *jobs.ways(s))}


@pytest.mark.parametrize(("name", "form", "way", "host", "mapped"), READINGS)
def test_loading_takes_what_a_process_took(name, form, way, host, mapped):
    w = ways(name, form)[way]
    low, high = w.total("host", "low_bytes"), w.total("host", "high_bytes")
    assert low - SLACK <= host * MB <= high * 1.01 + SLACK
    assert w.total("host") == pytest.approx(host * MB, rel=0.02, abs=2 * SLACK)
    if mapped is not None:
        # Pages come in as they are touched, and libraries map pages of their own.
        assert 0.9 * w.total("mapped") < mapped * MB < w.total("mapped") + SLACK


def test_after_a_forward_pass_all_of_the_file_is_mapped():
    """Read: 166.2 MB of a file of 221.3; a pass of four tokens touches all but the rows of the table of tokens."""
    w = ways("llama", "bf16")["cpu"]
    table = 32000 * 1024 * 2
    assert w.total("mapped") - table < 166.2 * MB < w.total("mapped")


@pytest.mark.parametrize(("dtype", "host"), [("fp32", 617.9), ("bf16", 552.2)])
def test_a_gguf_file_is_dequantized_on_the_host(dtype, host):
    w = ways("llama", "bf16")["gguf, dequantized"]
    assert w.total("host", "low_bytes") <= host * MB <= w.total("host", "high_bytes")


@pytest.mark.parametrize(("way", "over"), [("torchao-int8", 16.8), ("quanto-int8", 20.4)])
def test_packing_takes_this_over_the_packed_model(way, over):
    """On the CPU the source matrix is mapped; on a device it is copied there."""
    found = [line for line in ways("llama", "bf16")[way].lines if line.name == "other:packing"]
    assert found[0].bytes == pytest.approx(over * MB, rel=0.05)
    assert found[0].low_bytes < over * MB < found[0].high_bytes


def test_merging_a_lora_copies_the_pages_that_it_writes():
    """Read with rank 8: 124.4 MB at the peak, 91.5 at the end."""
    w = ways("llama", "bf16")["merge a LoRA"]
    by = {line.name: line for line in w.lines if line.tier == "host"}
    assert by["weights"].bytes == pytest.approx(90.2 * MB, rel=0.01)
    read = 124.4 * MB - by["weights"].bytes - by["other:adapter"].bytes / 2
    assert by["other:delta"].low_bytes < read < by["other:delta"].high_bytes
    assert by["other:delta"].bytes == pytest.approx(read, rel=0.15)


def test_quantize_dynamic_copies_the_model():
    """Read for a model in fp32: 486.3 MB; 451.7 mapped."""
    w = ways("llama", "fp32")["quantize_dynamic"]
    assert w.total("host") == pytest.approx(486.3 * MB, rel=0.01)
    assert w.total("mapped") == pytest.approx(451.7 * MB, rel=0.03)


def test_saving_experts_copies_their_gates_and_ups():
    """Read in fp32: 236.1 MB over the model; nothing for a model without experts (1.0 MB)."""
    s = subject(tn.load(MIXTRAL), FORMATS["fp32"])
    assert jobs.saving(s, []).total("host") == pytest.approx(236.1 * MB, rel=0.02)
    assert jobs.saving(subject(tn.load(LLAMA)), []).total("host") == 0


def test_a_shard_at_a_time_beside_the_model():
    """transformers 4.38.2 without low_cpu_mem_usage, files of 50 MB at most: 228.0 MB and 65.7 mapped."""
    s = subject(tn.load(LLAMA), FORMATS["bf16"], limit=50 * MB)
    w = loading.old_plain(s)
    assert w.total("mapped") == pytest.approx(65.7 * MB, rel=0.01)
    assert w.total("host") == pytest.approx(228.0 * MB, abs=2 * SLACK)


def test_gptq_holds_a_layer_and_its_hessians():
    """Llama 3.1 8B: six linear modules read 4,096 wide inputs and one reads 14,336."""
    from tonnage import quant

    s = subject(tn.load("llama-3.1-8b"))
    h = jobs.heaviest(s, quant.entries(s.model, by_layer=False))
    assert h.hessians == 6 * 4096**2 + 14336**2
    assert h.layer == 2 * 218_112_000
    assert h.matrix == 4096 * 14336
    experts = subject(tn.load(MIXTRAL))
    found = jobs.heaviest(experts, quant.entries(experts.model, by_layer=False))
    # Gate, up and down of eight experts; the router is left out.
    assert found.hessians == 4 * 512**2 + 8 * (2 * 512**2 + 1792**2)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "mixtral-8x7b", "deepseek-v3", "gpt2", "gpt-oss-20b"])
def test_every_line_says_where_and_why(name):
    for key, rows in found(tn.load(name), ("storage", "loading", "jobs")).items():
        names = [way.name for way in rows]
        assert len(names) == len(set(names)), key
        for way in rows:
            assert way.lines
            for line in way.lines:
                assert line.tier in PLACES
                assert line.trust in TRUSTS
                assert 0 <= line.low_bytes <= line.bytes <= line.high_bytes, (way.name, line)
                assert line.why
                assert line.reference
                assert line.trust != "exact" or line.low_bytes == line.high_bytes


def test_params_tells_them_when_asked(capsys: pytest.CaptureFixture[str]):
    assert main(["params", "gpt2", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert not {"files", "checkpoints", "loading", "jobs"} & set(plain)
    assert main(["params", "gpt2", "--json", "--all"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"files", "checkpoints", "loading", "jobs"} <= set(told)
    assert told["storage"] == plain["storage"]
    row = told["files"][0]
    assert row["disk_bytes"] == sum(line["bytes"] for line in row["lines"])
    assert main(["params", "gpt2", "--jobs"]) == 0
    assert "gptq" in capsys.readouterr().out
