"""``--gpu here`` against stand-ins for the drivers: no accelerator is needed."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tonnage.errors import SourceError
from tonnage.sources.here import here
from tonnage.units import GiB, MiB


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No NVML, and nothing on PATH but what a test puts there."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def command(tmp_path: Path, name: str, body: str) -> None:
    path = tmp_path / "bin" / name
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def smi(tmp_path: Path, *lines: str) -> None:
    command(tmp_path, "nvidia-smi", "\n".join(f"echo '{line}'" for line in lines))


def card(root: Path, entry: str, total: int, used: int | None = None, product: str | None = None) -> None:
    folder = root / entry / "device"
    folder.mkdir(parents=True)
    (folder / "mem_info_vram_total").write_text(f"{total}\n", encoding="ascii")
    if used is not None:
        (folder / "mem_info_vram_used").write_text(f"{used}\n", encoding="ascii")
    if product is not None:
        (folder / "product_name").write_text(f"{product}\n", encoding="utf-8")


def nowhere(tmp_path: Path) -> str:
    return str(tmp_path / "no-such-folder")


# nvidia-smi


def test_nvidia_smi_names_the_row_and_what_others_hold(tmp_path: Path) -> None:
    smi(tmp_path, "NVIDIA H100 80GB HBM3, 81559, 2341")
    found = here(sysfs=nowhere(tmp_path), system="linux")
    assert found.device.name == "h100-sxm-80gb"
    assert found.in_use == 2341 * MiB
    assert (found.found, found.how) == (1, "nvidia-smi")
    assert found.device.capacity.bytes == 81082 * MiB


def test_the_second_of_two(tmp_path: Path) -> None:
    smi(tmp_path, "NVIDIA GeForce RTX 4090, 24564, 0", "Tesla T4, 15360, 3")
    found = here(index=1, sysfs=nowhere(tmp_path), system="linux")
    assert (found.device.name, found.in_use, found.found) == ("t4", 3 * MiB, 2)


@pytest.mark.parametrize(("total", "name"), [(10240, "rtx-3080-10gb"), (12288, "rtx-3080-12gb")])
def test_the_total_tells_products_of_one_name_apart(tmp_path: Path, total: int, name: str) -> None:
    smi(tmp_path, f"NVIDIA GeForce RTX 3080, {total}, 0")
    assert here(sysfs=nowhere(tmp_path), system="linux").device.name == name


def test_another_total_than_the_rows_wins_over_the_rows_figures(tmp_path: Path) -> None:
    """ECC on takes a sixteenth of an RTX A6000: the row's 48,676 MiB would be too much."""
    smi(tmp_path, "NVIDIA RTX A6000, 46068, 0")
    found = here(sysfs=nowhere(tmp_path), system="linux").device
    assert found.name == "rtx-a6000"
    assert found.driver_bytes == 46068 * MiB
    assert found.capacity.high < 46068 * MiB


def test_a_modified_card_is_not_taken_for_the_product(tmp_path: Path) -> None:
    smi(tmp_path, "NVIDIA GeForce RTX 4090, 49140, 0")
    found = here(sysfs=nowhere(tmp_path), system="linux").device
    assert found.name == "here"
    assert found.title == "NVIDIA GeForce RTX 4090"
    assert 47 * GiB < found.capacity.bytes < 49140 * MiB


def test_a_product_that_the_table_lacks_is_its_total(tmp_path: Path) -> None:
    smi(tmp_path, "NVIDIA Future 9000, 100000, 17")
    found = here(sysfs=nowhere(tmp_path), system="linux")
    assert found.device.driver_bytes == 100000 * MiB
    assert found.in_use == 17 * MiB
    assert found.device.capacity.low < found.device.capacity.bytes < 100000 * MiB


def test_shared_memory_prints_no_total_and_is_known_by_name(tmp_path: Path) -> None:
    smi(tmp_path, "NVIDIA GB10, [N/A], [N/A]")
    found = here(sysfs=nowhere(tmp_path), system="linux")
    assert found.device.name == "gb10"
    assert found.in_use is None


@pytest.mark.parametrize(
    "body",
    [
        "echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'; exit 9",
        "echo 'No devices were found'",
        "exit 0",
        "echo 'Unknown, [N/A], [N/A]'",
        "printf '\\377\\376,garbage,\\000'",
    ],
)
def test_a_driver_that_fails_is_passed_over(tmp_path: Path, body: str) -> None:
    command(tmp_path, "nvidia-smi", body)
    root = tmp_path / "drm"
    card(root, "card0", 24560 * MiB, product="AMD Radeon RX 7900 XTX")
    assert here(sysfs=str(root), system="linux").device.name == "rx-7900-xtx"


# NVML


class NVMLError(Exception):
    pass


def fake_nvml(
    monkeypatch: pytest.MonkeyPatch, *, name: object, total: int, used: int, second: bool = True
) -> list[str]:
    calls: list[str] = []

    def info(handle: object, version: object = None) -> SimpleNamespace:
        if version is not None and not second:
            raise NVMLError("not supported")
        return SimpleNamespace(total=total, used=used if version is not None else used + 400 * MiB)

    module = ModuleType("pynvml")
    module.__dict__.update(
        NVMLError=NVMLError,
        nvmlMemory_v2=2,
        nvmlInit=lambda: calls.append("init"),
        nvmlShutdown=lambda: calls.append("shutdown"),
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: name,
        nvmlDeviceGetMemoryInfo=info,
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return calls


@pytest.mark.parametrize("name", ["NVIDIA A100-SXM4-80GB", b"NVIDIA A100-SXM4-80GB"])
def test_nvml_is_asked_first_and_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: object) -> None:
    smi(tmp_path, "Tesla T4, 15360, 3")
    calls = fake_nvml(monkeypatch, name=name, total=81920 * MiB, used=5 * MiB)
    found = here(sysfs=nowhere(tmp_path), system="linux")
    assert (found.device.name, found.in_use, found.how) == ("a100-80gb", 5 * MiB, "NVML")
    assert calls == ["init", "shutdown"]


def test_an_older_nvml_counts_what_the_driver_reserves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, name="Tesla T4", total=15360 * MiB, used=5 * MiB, second=False)
    assert here(sysfs=nowhere(tmp_path), system="linux").in_use == 405 * MiB


def test_without_a_driver_library_the_next_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise NVMLError("NVML Shared Library Not Found")

    fake_nvml(monkeypatch, name="", total=1, used=0)
    monkeypatch.setattr(sys.modules["pynvml"], "nvmlInit", refuse)
    smi(tmp_path, "Tesla T4, 15360, 3")
    assert here(sysfs=nowhere(tmp_path), system="linux").how == "nvidia-smi"


# AMD


def test_amd_reads_the_kernels_files(tmp_path: Path) -> None:
    root = tmp_path / "drm"
    card(root, "card1", 196592 * MiB, used=300 * MiB, product="AMD Instinct MI300X")
    found = here(sysfs=str(root), system="linux")
    assert (found.device.name, found.in_use, found.found) == ("mi300x", 300 * MiB, 1)


def test_connectors_and_cards_without_memory_are_no_devices(tmp_path: Path) -> None:
    root = tmp_path / "drm"
    card(root, "card0-DP-1", 8 * GiB)
    card(root, "card0", 0)
    card(root, "renderD128", 8 * GiB)
    card(root, "card10", 16 * GiB)
    card(root, "card2", 12 * GiB)
    assert here(sysfs=str(root), system="linux").device.driver_bytes == 12 * GiB
    second = here(index=1, sysfs=str(root), system="linux")
    assert second.device.driver_bytes == 16 * GiB
    assert second.found == 2


def test_an_unnamed_amd_card_gives_all_that_its_driver_prints(tmp_path: Path) -> None:
    root = tmp_path / "drm"
    card(root, "card0", 20464 * MiB)
    capacity = here(sysfs=str(root), system="linux").device.capacity
    assert capacity[:3] == (20464 * MiB,) * 3


# Apple


def sysctl(tmp_path: Path, memory: int, chip: str, wired: int) -> None:
    command(
        tmp_path,
        "sysctl",
        f'case "$2" in hw.memsize) echo {memory};; machdep.cpu.brand_string) echo "{chip}";;'
        f" iogpu.wired_limit_mb) echo {wired};; *) exit 1;; esac",
    )


def test_apple_is_the_row_of_chip_and_memory(tmp_path: Path) -> None:
    sysctl(tmp_path, 128 * GiB, "Apple M4 Max", 0)
    found = here(sysfs=nowhere(tmp_path), system="darwin")
    assert found.device.name == "m4-max-128gb"
    assert found.in_use is None
    assert found.device.capacity.bytes == 96 * GiB


def test_a_limit_that_the_owner_set_is_exact(tmp_path: Path) -> None:
    sysctl(tmp_path, 64 * GiB, "Apple M3 Max", 57344)
    assert here(sysfs=nowhere(tmp_path), system="darwin").device.capacity[:3] == (57344 * MiB,) * 3


def test_a_chip_that_the_table_lacks_gets_the_share_of_its_memory(tmp_path: Path) -> None:
    sysctl(tmp_path, 16 * GiB, "Apple M9", 0)
    found = here(sysfs=nowhere(tmp_path), system="darwin").device
    assert found.title == "Apple M9"
    assert found.memory_bytes == 16 * GiB
    assert found.capacity.low <= 11_453_250_000
    assert found.capacity.high >= 12_713_120_000


def test_sysctl_is_not_asked_elsewhere(tmp_path: Path) -> None:
    sysctl(tmp_path, 128 * GiB, "Apple M4 Max", 0)
    with pytest.raises(SourceError):
        here(sysfs=nowhere(tmp_path), system="linux")


# Nothing


def test_nothing_found_says_what_was_looked_for_and_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        here(sysfs=nowhere(tmp_path), system="linux")
    said = str(caught.value)
    assert caught.value.exit_code == 4
    assert caught.value.key == "gpu"
    assert all(word in said for word in ("nvidia-ml-py", "nvidia-smi", "mem_info_vram_total", "--gpu 24GiB"))


def test_a_number_that_is_too_high_finds_nothing(tmp_path: Path) -> None:
    smi(tmp_path, "Tesla T4, 15360, 3")
    with pytest.raises(SourceError, match="number 1"):
        here(index=1, sysfs=nowhere(tmp_path), system="linux")


def test_the_stand_ins_are_the_only_commands() -> None:
    assert not os.listdir(os.environ["PATH"])
