"""``--gpu here``: the accelerator of this machine, asked of its driver.

NVML, then ``nvidia-smi``, then AMD's files under /sys, then Apple's ``sysctl``. Nothing is asked of torch: an answer
must not need it. With MIG the driver speaks of the whole GPU, not of the slice; name the slice instead.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Final, NamedTuple

from tonnage import devices, units
from tonnage.devices import Device
from tonnage.errors import SourceError

SYSFS: Final = "/sys/class/drm"
_ALIKE: Final = 0.12
"""A row may describe a product whose driver prints a total this far from it: ECC moves it by a sixteenth."""
_TIMEOUT: Final = 20
"""A driver that hangs must not hang the answer. [s]"""


class Here(NamedTuple):
    """What was found."""

    device: Device
    in_use: int | None
    """Held by others at this moment; None where nobody says. [byte]"""
    found: int
    """Devices of this kind in the machine."""
    how: str
    """What was asked."""


def here(*, index: int = 0, sysfs: str = SYSFS, system: str = sys.platform) -> Here:
    """The accelerator number ``index`` of this machine.

    Args:
        index: which, from 0.
        sysfs: where Linux shows graphics cards; another folder in tests.
        system: ``sys.platform``.

    Raises:
        SourceError: nothing was found, or there are fewer devices than that.
    """
    found = _nvml(index) or _nvidia_smi(index) or _amd(index, sysfs) or (_apple() if system == "darwin" else None)
    if found is None:
        raise SourceError(
            f"no accelerator number {index} was found: looked for NVML (package nvidia-ml-py), nvidia-smi, "
            f"{sysfs}/*/device/mem_info_vram_total" + (" and sysctl hw.memsize" if system == "darwin" else ""),
            key="gpu",
            value="here",
            hint="write its memory instead: --gpu 24GiB",
        )
    return found


def described(title: str, total: int, vendor: str) -> Device:
    """The row that a driver's name and total mean, or a device of that total where the table has none.

    Args:
        title: the name that the driver prints.
        total: the memory that it prints. [byte]
        vendor: for a device that is not in the table.
    """
    alike = [row for row in _spelled(title) if abs(_expected(row) - total) <= _ALIKE * total]
    if not alike:
        return Device(
            name="here",
            title=title,
            vendor=vendor,
            kind="here",
            memory_bytes=total,
            driver_bytes=total,
            driver_source="this machine's driver",
            source="this machine's driver",
        )
    row = min(alike, key=lambda candidate: abs(_expected(candidate) - total))
    if row.driver_bytes == total or row.vendor != "NVIDIA":
        return row
    # Another driver or ECC setting than the row's: its measured figure does not hold, the total does.
    return row.but(
        driver_bytes=total,
        driver_source="this machine's driver",
        usable_bytes=None,
        usable_low_bytes=None,
        usable_high_bytes=None,
        usable_source=None,
    )


def _expected(row: Device) -> int:
    return row.memory_bytes if row.driver_bytes is None else row.driver_bytes


def _spelled(title: str) -> tuple[Device, ...]:
    return devices.spelled(title) or devices.spelled(title.removesuffix(" Graphics"))


def _nvml(index: int) -> Here | None:
    try:
        # Late: 54 ms, and only in the extra ``hw``. The package has no types.
        import pynvml  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        count = int(pynvml.nvmlDeviceGetCount())
        if index >= count:
            return None
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        title = pynvml.nvmlDeviceGetName(handle)
        title = title.decode() if isinstance(title, bytes) else str(title)
        try:
            # The second version keeps what the driver reserves out of ``used``, as nvidia-smi does.
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        except (pynvml.NVMLError, TypeError, AttributeError):
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return Here(described(title, int(memory.total), "NVIDIA"), int(memory.used), count, "NVML")
    except pynvml.NVMLError:
        # Shared-memory devices such as GB10 refuse the question; nvidia-smi at least gives their name.
        return None
    finally:
        pynvml.nvmlShutdown()


def _run(*command: str) -> str | None:
    """Standard output of a command; None when it is absent, fails or hangs."""
    path = shutil.which(command[0])
    if path is None:
        return None
    try:
        done = subprocess.run(
            (path, *command[1:]), capture_output=True, text=True, errors="replace", timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _nvidia_smi(index: int) -> Here | None:
    told = _run("nvidia-smi", "--query-gpu=name,memory.total,memory.used", "--format=csv,noheader,nounits")
    lines = [line for line in (told or "").splitlines() if line.count(",") == 2]
    if index >= len(lines):
        return None
    title, total, used = (cell.strip() for cell in lines[index].split(","))
    in_use = int(used) * units.MiB if used.isdigit() else None
    if total.isdigit() and int(total) > 0:
        return Here(described(title, int(total) * units.MiB, "NVIDIA"), in_use, len(lines), "nvidia-smi")
    # A device that shares the host's memory prints [N/A]: its name is all there is.
    rows = devices.spelled(title)
    return Here(rows[0], in_use, len(lines), "nvidia-smi") if len(rows) == 1 else None


def _number(path: str) -> int | None:
    text = _text(path)
    return int(text) if text is not None and text.isdigit() else None


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(4096).strip()
    except OSError:
        return None


def _amd(index: int, sysfs: str) -> Here | None:
    try:
        entries = sorted(os.listdir(sysfs), key=lambda entry: (len(entry), entry))
    except OSError:
        return None
    cards = []
    for entry in entries:
        folder = os.path.join(sysfs, entry, "device")
        total = _number(os.path.join(folder, "mem_info_vram_total"))
        # Connectors (card0-DP-1) and render nodes lead to the same device.
        if entry.startswith("card") and entry[4:].isdigit() and total:
            cards.append((folder, total))
    if index >= len(cards):
        return None
    folder, total = cards[index]
    title = _text(os.path.join(folder, "product_name")) or "AMD GPU"
    used = _number(os.path.join(folder, "mem_info_vram_used"))
    return Here(described(title, total, "AMD"), used, len(cards), os.path.join(folder, "mem_info_vram_total"))


def _apple() -> Here | None:
    memory = (_run("sysctl", "-n", "hw.memsize") or "").strip()
    if not memory.isdigit() or int(memory) == 0:
        return None
    chip = (_run("sysctl", "-n", "machdep.cpu.brand_string") or "").strip() or "Apple silicon"
    found = _apple_row(chip, int(memory))
    wired = (_run("sysctl", "-n", "iogpu.wired_limit_mb") or "").strip()
    # 0 means that the system decides; a number is a limit that the owner set.
    if wired.isdigit() and int(wired) > 0:
        limit = min(int(wired) * units.MiB, found.memory_bytes)
        found = found.but(usable_bytes=limit, usable_source="sysctl iogpu.wired_limit_mb")
    return Here(found, None, 1, "sysctl hw.memsize")


def _apple_row(chip: str, memory: int) -> Device:
    """The row of a chip with this memory; a chip that the table lacks has the GPU's share of the row nearest to it."""
    for row in devices.spelled(chip):
        if row.memory_bytes == memory:
            return row
    alike = min((row for row in devices.rows() if row.kind == "apple"), key=lambda row: abs(row.memory_bytes - memory))
    return Device(
        name="here",
        title=chip,
        vendor="Apple",
        kind="apple",
        memory_bytes=memory,
        unified=True,
        host_share=alike.host_share,
        host_share_low=alike.host_share_low,
        host_share_high=alike.host_share_high,
        host_share_source=alike.host_share_source,
        source="this machine's sysctl",
    )
