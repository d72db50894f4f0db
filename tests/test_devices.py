"""The table of accelerators: that it is what its source says, and that a name means what people mean by it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import tomllib
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonnage import devices
from tonnage.errors import InputError, UnsupportedError
from tonnage.units import GB, GiB, MiB

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOML = os.path.join(ROOT, "src", "tonnage", "data", "devices.toml")
ROWS = devices.rows()
NAMES = devices.names()


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_data", os.path.join(ROOT, "scripts", "build_data.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table() -> dict[str, Any]:
    with open(TOML, "rb") as file:
        return tomllib.load(file)


# The table itself


def test_json_is_what_the_toml_says() -> None:
    assert not script().stale("devices"), "run python scripts/build_data.py"


def test_check_fails_on_a_stale_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    build = script()
    with open(TOML, encoding="utf-8") as file:
        (tmp_path / "devices.toml").write_text(file.read(), encoding="utf-8")
    monkeypatch.setattr(build, "DATA", str(tmp_path))
    assert build.main(["--check"]) == 1
    assert build.main([]) == 0
    assert build.main(["--check"]) == 0
    written = tmp_path / "devices.json"
    text = written.read_text(encoding="utf-8")
    written.write_text(text.replace(str(81559 * MiB), str(80 * GB)), encoding="utf-8")
    assert written.read_text(encoding="utf-8") != text
    assert build.main(["--check"]) == 1


def test_a_row_without_a_known_source_cannot_be_built() -> None:
    rows = {"sources": {"a": "A"}, "device": {"x": {"memory": "1 GiB", "source": "b"}}, "refused": {}}
    with pytest.raises(ValueError, match="not in \\[sources\\]"):
        script().devices(rows)


def test_a_source_that_no_row_names_is_an_error() -> None:
    rows = {"sources": {"a": "A", "b": "B"}, "device": {"x": {"memory": "1 GiB", "source": "b"}}, "refused": {}}
    with pytest.raises(ValueError, match="no row names: a"):
        script().devices(rows)


@pytest.mark.parametrize("text", ["989.4", "989.4 TFLOPS", "1 PFLOP/s"])
def test_a_rate_must_state_its_unit(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a rate|values to unpack"):
        script().flops(text)


def test_rates_and_bandwidths_are_exact_integers() -> None:
    build = script()
    assert build.flops("989.4 TFLOP/s") == 989_400_000_000_000
    assert build.per_second("3.35 TB/s") == 3_350_000_000_000
    with pytest.raises(ValueError, match="not a bandwidth"):
        build.per_second("3.35 TB")


def test_there_are_enough_rows() -> None:
    assert len(NAMES) >= 110
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_a_row_is_whole(row: devices.Device) -> None:
    assert len(row.source) > 8
    assert row.title
    assert row.vendor
    assert row.name == row.name.lower()
    assert " " not in row.name
    assert (row.driver_bytes is None) == (row.driver_source is None)
    assert (row.usable_bytes is None) == (row.usable_source is None)
    assert (row.host_share is None) == (row.host_share_source is None)
    assert row.host_share is None or row.unified
    assert row.slice_of is None or row.slice_of in NAMES
    assert all(rate > 10**10 for rate in row.rates.values())
    assert all(rate > 10**9 for rate in row.links.values())
    assert row.bandwidth is None or 10 * GB < row.bandwidth < 10_000 * GB


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_each_figure_of_memory_is_smaller_than_the_one_before(row: devices.Device) -> None:
    vendor = row.memory_bytes
    if row.name == "tpu-v5p":
        vendor = 96 * GiB  # printed as 95 GB; XLA gives 95.74 GiB
    driver = vendor if row.driver_bytes is None else row.driver_bytes
    assert driver <= vendor
    assert row.capacity.low <= row.capacity.bytes <= row.capacity.high <= driver
    assert row.capacity.basis


def test_no_spelling_of_one_device_is_the_name_of_another() -> None:
    plain = {devices.plain(name): name for name in NAMES}
    assert len(plain) == len(NAMES)
    for row in ROWS:
        for alias in row.aliases:
            assert plain.get(devices.plain(alias), row.name) == row.name, f"{alias} of {row.name}"


def test_every_alias_means_its_row_or_several() -> None:
    for row in ROWS:
        for alias in row.aliases:
            assert row in devices.spelled(alias)


def test_no_sparse_rate_slipped_in() -> None:
    """Halving the element doubles the rate in every tensor core; a sparse figure beside a dense one quadruples it."""
    for row in ROWS:
        rates = row.rates
        if "bf16" in rates and "fp8" in rates:
            assert rates["fp8"] <= 2.03 * rates["bf16"], row.name
        if "bf16" in rates and "fp16" in rates and row.name != "mi100":
            assert rates["bf16"] == rates["fp16"], row.name
        if "fp8" in rates and "fp4" in rates and row.name not in ("b300", "gb300", "rtx-pro-6000-server"):
            assert rates["fp4"] <= 4.05 * rates["fp8"], row.name


def test_what_cuda_keeps_back_is_the_range_that_capacity_assumes() -> None:
    seen = [
        (row.driver_bytes - bound, devices._kept_back_high(row.driver_bytes))
        for row in ROWS
        if row.vendor == "NVIDIA" and row.driver_bytes is not None and row.usable_bytes is not None
        for bound in (row.capacity.low, row.capacity.bytes, row.capacity.high)
    ]
    assert len(seen) > 60
    assert min(kept for kept, _ in seen) == devices.KEPT_BACK_LOW
    assert all(kept <= high for kept, high in seen)
    assert max(kept for kept, _ in seen) == 1103 * MiB  # the figure that the basis text prints


def test_the_share_of_the_vendor_figure_is_the_range_that_capacity_assumes() -> None:
    discrete = [r for r in ROWS if r.usable_bytes is not None and not r.unified and r.name != "tpu-v5p"]
    shares = [bound / r.memory_bytes for r in discrete for bound in (r.capacity.low, r.capacity.high)]
    assert devices.USABLE_SHARE[0] <= min(shares) + 1e-6 < devices.USABLE_SHARE[0] + 0.001
    assert max(shares) <= devices.USABLE_SHARE[2]
    unified = [r.capacity.bytes / r.memory_bytes for r in ROWS if r.usable_bytes is not None and r.unified]
    assert devices.UNIFIED_SHARE[0] < min(unified)
    assert max(unified) < devices.UNIFIED_SHARE[2]


# Published and measured figures


@pytest.mark.parametrize(
    ("name", "driver_mib"),
    [
        ("h100-sxm-80gb", 81559),
        ("h100-nvl", 95830),
        ("h200", 143771),
        ("b200", 183359),
        ("gb200", 189471),
        ("b300", 275040),
        ("gb300", 284208),
        ("l4", 23034),
        ("l40s", 46068),
        ("t4", 15360),
        ("rtx-4090", 24564),
        ("rtx-5090", 32607),
        ("rtx-pro-6000", 97887),
        ("mi300x", 196592),
    ],
)
def test_driver_total_is_what_the_tool_prints(name: str, driver_mib: int) -> None:
    assert devices.device(name).driver_bytes == driver_mib * MiB


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("h100-sxm-80gb", 79.18),
        ("h100-sxm-80gb", 79.19),
        ("a100-80gb", 79.15),
        ("a100-80gb", 79.25),
        ("h200", 139.80),
        ("h200", 139.81),
        ("b200", 178.35),
        ("gb200", 184.31),
        ("b300", 267.69),
        ("gb300", 276.50),
        ("t4", 14.56),
        ("t4", 14.75),
        ("rtx-4090", 23.64),
        ("rtx-5090", 31.36),
        ("rtx-5090", 31.37),
        ("rtx-a6000", 47.53),
        ("l40s", 44.39),
        ("a10g", 22.06),
        ("rtx-pro-6000", 94.97),
        ("mi325x", 255.98),
        ("tpu-v5e", 15.75),
        ("tpu-v4", 30.75),
    ],
)
def test_a_total_capacity_that_was_printed_lies_in_the_range(name: str, gib: float) -> None:
    capacity = devices.device(name).capacity
    half_a_digit = 0.006 * GiB
    assert capacity.low - half_a_digit <= gib * GiB <= capacity.high + half_a_digit


@pytest.mark.parametrize(
    ("name", "precision", "tera"),
    [
        ("h100-sxm-80gb", "bf16", 989.4),
        ("h100-pcie-80gb", "bf16", 756.5),
        ("a100-80gb", "bf16", 312),
        ("v100-16gb", "fp16", 125),
        ("t4", "fp16", 65),
        ("b200", "fp4", 9000),
        ("rtx-4090", "bf16", 165.2),
        ("rtx-3090", "bf16", 71),
        ("rtx-5090", "fp4", 1676),
        ("mi300x", "bf16", 1307.4),
        ("tpu-v4", "bf16", 275),
        ("tpu-v5p", "bf16", 459),
        ("trainium-2", "fp8", 1299),
    ],
)
def test_dense_peak_of_the_datasheet(name: str, precision: str, tera: float) -> None:
    assert devices.device(name).rates[precision] == round(tera * 10**12)


def test_bandwidth_of_the_datasheet() -> None:
    bandwidths = {
        "h100-sxm-80gb": 3350,
        "h200": 4800,
        "a100-80gb": 2039,
        "a100-pcie-80gb": 1935,
        "a100-40gb": 1555,
        "rtx-4090": 1008,
        "tpu-v5p": 2765,
        "m4-max-128gb": 546,
        "m4-max-36gb": 410,
    }
    assert {name: devices.device(name).bandwidth for name in bandwidths} == {n: b * GB for n, b in bandwidths.items()}


def test_mi325x_has_256_gb() -> None:
    assert devices.device("mi325x").memory_bytes == 256 * GiB


def test_one_die_is_half_of_an_mi250x() -> None:
    whole, die = devices.device("mi250x"), devices.device("mi250x-gcd")
    assert whole.bandwidth is not None
    assert die.bandwidth is not None
    assert (2 * die.memory_bytes, 2 * die.bandwidth) == (whole.memory_bytes, whole.bandwidth)
    assert die.slice_of == "mi250x"


def test_mig_slices_have_what_nvidia_smi_lists() -> None:
    """9728MB is what torch reports on a 1g.10gb of an A100 80GB, 9.50 GiB in the listing."""
    assert devices.device("a100-80gb-mig-1g.10gb").capacity.bytes == 9728 * MiB
    assert devices.device("h100-sxm-80gb-mig-3g.40gb").capacity.bytes == 39.5 * GiB
    assert devices.device("NVIDIA A100 80GB PCIe MIG 1g.10gb").slice_of == "a100-80gb"
    assert devices.device("h200-mig-1g.18gb").capacity.bytes == 16 * GiB


@pytest.mark.parametrize(
    ("name", "megabytes"),
    [
        ("m1-16gb", 11453.25),
        ("m4-16gb", 12713.12),
        ("m3-pro-18gb", 14302.25),
        ("m2-24gb", 17179.87),
        ("m4-24gb", 19069.0),
        ("m4-32gb", 26800.60),
        ("m3-max-36gb", 28991.03),
        ("m4-pro-48gb", 40200.90),
        ("m3-max-64gb", 55662.79),
        ("m3-max-128gb", 103079.22),
        ("m4-max-128gb", 115448.73),
        ("m3-ultra-512gb", 498216.21),
    ],
)
def test_metal_working_set_that_was_printed_lies_in_the_range(name: str, megabytes: float) -> None:
    """recommendedMaxWorkingSetSize in start-up logs of llama.cpp; it grew with newer systems."""
    capacity = devices.device(name).capacity
    assert capacity.low <= megabytes * 10**6 + 10**4
    assert megabytes * 10**6 - 10**4 <= capacity.high


# Capacity


def test_capacity_of_a_driver_total_alone_is_a_range_that_holds_the_point() -> None:
    row = devices.device("l4")
    assert row.usable_bytes is None
    assert row.driver_bytes is not None
    assert row.capacity.low < row.capacity.bytes < row.capacity.high < row.driver_bytes
    # 22.03 to 22.07 GiB were printed on cards of 23,034 MiB
    assert row.capacity.low < 22.03 * GiB < 22.07 * GiB < row.capacity.high
    assert row.capacity.basis.startswith("assumed")


def test_capacity_of_a_vendor_figure_alone_is_wider() -> None:
    row = devices.device("b100")
    assert row.usable_bytes is None
    assert row.driver_bytes is None
    assert (row.capacity.high - row.capacity.low) / row.memory_bytes > 0.1
    assert row.capacity.basis.startswith("assumed")


def test_a_radeon_gives_all_that_its_driver_prints() -> None:
    assert devices.device("rx-7900-xtx").capacity.bytes == 24560 * MiB


# Names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("h100-sxm-80gb", "h100-sxm-80gb"),
        ("H100_SXM_80GB", "h100-sxm-80gb"),
        ("h100 sxm", "h100-sxm-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm-80gb"),
        ("NVIDIA H100 PCIe", "h100-pcie-80gb"),
        ("a100-80gb", "a100-80gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("A100-SXM4-40GB", "a100-40gb"),
        ("Tesla T4", "t4"),
        ("Tesla V100-SXM2-32GB", "v100-32gb"),
        ("4090", "rtx-4090"),
        ("rtx4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "rtx-4090-laptop"),
        ("3090ti", "rtx-3090-ti"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000-server"),
        ("GH200 480GB", "gh200-96gb"),
        ("dgx spark", "gb10"),
        ("AMD Instinct MI300X", "mi300x"),
        ("AMD Radeon RX 7900 XTX", "rx-7900-xtx"),
        ("7900xtx", "rx-7900-xtx"),
        ("Gaudi2", "gaudi-2"),
        ("v5litepod", "tpu-v5e"),
        ("TPU v4", "tpu-v4"),
        ("trillium", "tpu-v6e"),
        ("m4 max 128GB", "m4-max-128gb"),
        ("phone-8gb", "phone-8gb"),
    ],
)
def test_usual_spellings(text: str, name: str) -> None:
    assert devices.device(text).name == name


@given(st.sampled_from(NAMES), st.data())
def test_case_spaces_and_dashes_do_not_matter(name: str, data: st.DataObject) -> None:
    written = "".join(data.draw(st.sampled_from(("-", " ", "_", ""))) if c == "-" else c for c in name)
    assert devices.device(data.draw(st.sampled_from((written, written.upper(), f"  {written} ")))).name == name


@pytest.mark.parametrize(
    ("text", "candidates"),
    [
        ("a100", {"a100-40gb", "a100-pcie-40gb", "a100-80gb", "a100-pcie-80gb"}),
        ("H100", {"h100-sxm-80gb", "h100-pcie-80gb", "h100-nvl"}),
        ("h100-80gb", {"h100-sxm-80gb", "h100-pcie-80gb"}),
        ("rtx 3080", {"rtx-3080-10gb", "rtx-3080-12gb"}),
        ("4060 ti", {"rtx-4060-ti-8gb", "rtx-4060-ti-16gb"}),
        ("RTX 6000", {"quadro-rtx-6000", "rtx-6000-ada"}),
        ("Apple M4", {"m4-16gb", "m4-24gb", "m4-32gb"}),
    ],
)
def test_a_bare_name_of_several_products_lists_them(text: str, candidates: set[str]) -> None:
    with pytest.raises(InputError, match="names several devices") as caught:
        devices.device(text)
    assert set(caught.value.nearest) == candidates
    assert caught.value.key == "gpu"
    assert caught.value.value == text


@pytest.mark.parametrize(
    ("text", "near"),
    [("rtx-4099", "rtx-4090"), ("h100-smx-80gb", "h100-sxm-80gb"), ("mi300xx", "mi300x"), ("4091", "rtx-4090")],
)
def test_a_misspelled_name_gets_the_nearest(text: str, near: str) -> None:
    with pytest.raises(InputError) as caught:
        devices.device(text)
    assert near in caught.value.nearest


@pytest.mark.parametrize("text", ["", "   ", "-", "gpu of my own", "x" * 5000, "名前", "nvidia"])
def test_anything_else_is_an_input_error_of_one_short_line(text: str) -> None:
    with pytest.raises(InputError) as caught:
        devices.device(text)
    assert caught.value.key == "gpu"
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "text", ["loihi", "Intel Loihi 2", "truenorth", "akida", "AKD1000", "memristor crossbar", "SpiNNaker2"]
)
def test_neuromorphic_hardware_is_refused_by_name(text: str) -> None:
    with pytest.raises(UnsupportedError, match="no device memory to fill") as caught:
        devices.device(text)
    assert caught.value.exit_code == 3
    assert caught.value.key == "gpu"


def test_every_refusal_has_a_reason_and_a_source() -> None:
    refused = table()["refused"]
    assert len(refused) >= 5
    assert all(len(row["why"]) > 20 and len(row["source"]) > 8 for row in refused.values())


# Sizes


@given(st.integers(1, 10**6), st.sampled_from((("GiB", GiB), ("GB", GB), ("MiB", MiB))), st.sampled_from(("", " ")))
def test_a_size_is_itself_and_nothing_is_taken_off(number: int, unit: tuple[str, int], space: str) -> None:
    found = devices.device(f"{number}{space}{unit[0]}")
    size = number * unit[1]
    assert found.kind == "size"
    assert found.capacity[:3] == (size, size, size)


@pytest.mark.parametrize("text", ["80", "0GiB", "-5GiB", "1e30GiB", "99999999999 TiB", "24 G", "24GiBB", "1.2.3GiB"])
def test_a_bad_size_is_an_input_error(text: str) -> None:
    with pytest.raises(InputError) as caught:
        devices.device(text)
    assert caught.value.key == "gpu"


@given(st.text(max_size=30))
def test_any_text_is_a_device_or_one_of_our_errors(text: str) -> None:
    with contextlib.suppress(InputError, UnsupportedError):
        assert devices.device(text).capacity.bytes > 0


# Start-up


def test_reading_the_table_imports_nothing_heavy() -> None:
    code = "import sys; from tonnage import devices; devices.device('t4'); print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.path.join(ROOT, "src")}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    modules = set(told.stdout.split())
    assert not modules & {"tomllib", "pathlib", "importlib.resources", "numpy", "difflib", "pydantic", "click"}


# Other people's tables: each disagreement has its reason here

GPUHUNT_DIFFERS = {
    "MI325X": "announced with 288 GB, shipped with 256 (data sheet; 255.98 GiB in PyTorch)",
    "B300": "270 is what is enabled of 288 GB; the driver prints 268.6 GiB, which the row has",
    "GB300": "270 is the B300 board; in the NVL72 the driver prints 277.5 GiB of 288",
}
GPUHUNT_ABSENT = {
    "MI308X": "sold in one market without a public data sheet",
    "n150": "Tenstorrent: no engine that is modelled runs on it",
    "n300": "Tenstorrent",
    "tt-galaxy-wh": "Tenstorrent",
    "p100a": "Tenstorrent",
    "p150": "Tenstorrent",
    "p300": "Tenstorrent",
    "tt-galaxy-bh": "Tenstorrent",
}


def test_agrees_with_gpuhunt_or_says_why_not() -> None:
    constraints = pytest.importorskip("gpuhunt._internal.constraints")
    unexplained = []
    explained = set()
    for theirs in constraints.KNOWN_ACCELERATORS:
        rows = devices.spelled(theirs.name)
        if not rows:
            if theirs.name in GPUHUNT_ABSENT:
                explained.add(theirs.name)
            else:
                unexplained.append(f"{theirs.name}: no row")
            continue
        if theirs.memory and theirs.memory * GiB not in {row.memory_bytes for row in rows}:
            if theirs.name in GPUHUNT_DIFFERS:
                explained.add(theirs.name)
            else:
                unexplained.append(
                    f"{theirs.name}: {theirs.memory} GB, here {[row.memory_bytes // GiB for row in rows]}"
                )
        capability = getattr(theirs, "compute_capability", None)
        if capability and theirs.name not in ("B300", "GB300"):  # they list 10.0; the chip is sm_103
            ours = {row.architecture for row in rows if row.memory_bytes == theirs.memory * GiB} or {
                row.architecture for row in rows
            }
            if f"sm_{capability[0]}{capability[1]}" not in ours:
                unexplained.append(f"{theirs.name}: {capability}, here {ours}")
    assert not unexplained, "\n".join(unexplained)
    assert explained == {*GPUHUNT_DIFFERS, *GPUHUNT_ABSENT}, "a reason is no longer needed"


AICONFIGURATOR_DIFFERS = {
    ("h100_pcie", "bandwidth"): "2 TB/s is the rounded figure of the same 2,039 GB/s",
    (
        "rtx_pro_6000_server",
        "bandwidth",
    ): "1.792 TB/s is the workstation edition; the server edition's datasheet prints 1,597 GB/s",
    (
        "rtx_pro_6000_server",
        "bf16",
    ): "they scale to a clock of 2,430 MHz; no datasheet prints a dense bf16 figure, so none is here",
    ("rtx_pro_6000_server", "fp8"): "the same",
    (
        "rtx_pro_6000_server",
        "fp4",
    ): "they scale to a clock of 2,430 MHz; 2,000 is half of the datasheet's 4,000 with sparsity",
    ("b300_sxm", "fp4"): "14 there is rounded: DGX B300 prints 108 PFLOP/s dense for eight",
    ("b60", "fp8"): "they fill in bf16: the chip has no fp8",
}
AICONFIGURATOR_NAMES = {
    "a100_sxm": "a100-80gb",
    "a100_pcie": "a100-pcie-80gb",
    "a30": "a30",
    "b200_sxm": "b200",
    "b300_sxm": "b300",
    "b60": "arc-pro-b60",
    "gb200": "gb200",
    "gb300": "gb300",
    "h100_pcie": "h100-pcie-80gb",
    "h100_sxm": "h100-sxm-80gb",
    "h200_sxm": "h200",
    "l4": "l4",
    "l40s": "l40s",
    "rtx_pro_6000_server": "rtx-pro-6000-server",
}


def test_agrees_with_aiconfigurator_or_says_why_not() -> None:
    core = pytest.importorskip("aiconfigurator_core")
    yaml = pytest.importorskip("yaml")
    folder = os.path.join(os.path.dirname(core.__file__), "systems")
    unexplained = []
    explained = set()
    for system, name in AICONFIGURATOR_NAMES.items():
        with open(os.path.join(folder, f"{system}.yaml"), encoding="utf-8") as file:
            gpu = yaml.safe_load(file)["gpu"]
        row = devices.device(name)
        # Their capacity is the vendor's figure in some files and the driver's total in others.
        memory = min((row.memory_bytes, row.driver_bytes or 0), key=lambda size: abs(size - gpu["mem_capacity"]))
        pairs = {"memory": (gpu["mem_capacity"], memory), "bandwidth": (gpu["mem_bw"], row.bandwidth)}
        for precision, key in (("bf16", "bfloat16_tc_flops"), ("fp8", "fp8_tc_flops"), ("fp4", "fp4_tc_flops")):
            if key in gpu:
                pairs[precision] = (gpu[key], row.rates.get(precision))
        for what, (theirs, ours) in pairs.items():
            if ours is not None and abs(theirs - ours) <= 0.005 * theirs:
                continue
            if (system, what) in AICONFIGURATOR_DIFFERS:
                explained.add((system, what))
            else:
                unexplained.append(f"{system} {what}: {theirs}, here {ours}")
    assert not unexplained, "\n".join(unexplained)
    assert explained == set(AICONFIGURATOR_DIFFERS), "a reason is no longer needed"
