"""Accelerators: what a name means, and how many bytes a process can have on it.

The rows are data (``data/devices.toml``, read from the JSON that ``scripts/build_data.py`` makes of it). A device has
up to three figures for its memory, each smaller than the one before: the vendor's, the total that the driver's tool
prints, and what a process is given. ``Device.capacity`` picks the last one that is known, and is a range otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from tonnage import units
from tonnage.errors import InputError, UnsupportedError, nearest
from tonnage.record import Value
from tonnage.rows import Rows

KEPT_BACK_LOW: Final = 224 * units.MiB
"""Least that CUDA was seen to keep of the driver's total (V100 16GB). [byte]"""
KEPT_BACK_TYPICAL: Final = 450 * units.MiB
"""Middle of the same observations; hardly grows with the card: 373 MiB of 8 GiB, 477 MiB of 80 GiB. [byte]"""

USABLE_SHARE: Final = (0.885, 0.97, 1.0)
"""Low, typical and high share of the vendor's figure where nothing else is known: ECC on GDDR takes a sixteenth."""
UNIFIED_SHARE: Final = (0.90, 0.945, 0.96)
"""The same for a memory shared with the CPU: 7,607 of 8,192 MiB (Orin Nano) to 125,748 of 131,072 MiB (Thor)."""

_MAKERS: Final = ("nvidia", "geforce", "tesla", "amd", "radeon", "instinct", "intel", "google", "aws", "apple")


def _kept_back_high(driver_bytes: int) -> int:
    """Most that CUDA was seen to keep of the driver's total, rounded up: 512 MiB and a hundredth. [byte]"""
    return 512 * units.MiB + driver_bytes // 100


class Capacity(NamedTuple):
    """Bytes that a process can have on a device, and how far that is known."""

    bytes: int
    """The figure to compare with. [byte]"""
    low: int
    """Least that the basis allows; equal to ``bytes`` and ``high`` where the figure is exact. [byte]"""
    high: int
    """Most that the basis allows. [byte]"""
    basis: str
    """Where the figure comes from, for a person."""


class Calibration(NamedTuple):
    """What runs on a device showed."""

    device: str
    """Its name."""
    runs: int
    context: tuple[int, int, int]
    """Least, median and most of what the driver tells beyond what the allocator reserves. [byte]"""
    fragmentation: tuple[float, float, float]
    """The same of reserved less allocated, over the allocated peak less what is resident."""
    basis: str
    """Releases, in words."""


class Device(Value):
    """One accelerator, one slice of one, or a bare size."""

    name: str
    title: str
    vendor: str
    kind: str
    """``datacentre``, ``workstation``, ``geforce``, ``laptop``, ``radeon``, ``apple``, ``tpu``, ``mig``, ``size``..."""
    memory_bytes: int
    """The vendor's figure. [byte]"""
    source: str
    aliases: tuple[str, ...] = ()
    architecture: str = ""
    """``sm_90``, ``gfx942`` and the like; empty where none applies."""
    driver_bytes: int | None = None
    """The total that the driver's own tool prints. [byte]"""
    driver_source: str | None = None
    usable_bytes: int | None = None
    """What CUDA, HIP or XLA gives a process. [byte]"""
    usable_low_bytes: int | None = None
    usable_high_bytes: int | None = None
    usable_source: str | None = None
    context_bytes: int | None = None
    """What one process of PyTorch holds at its peak beside its tensors, as measured. [byte]"""
    context_low_bytes: int | None = None
    """The same before its first kernel. [byte]"""
    context_high_bytes: int | None = None
    context_source: str | None = None
    memory_type: str | None = None
    bandwidth: int | None = None
    """To its own memory. [byte/s]"""
    rates: Mapping[str, int] = {}
    """Precision to dense peak, with fp32 accumulation. [FLOP/s]"""
    links: Mapping[str, int] = {}
    """Kind of link to bandwidth in one direction, all links of that kind together. [byte/s]"""
    sms: int | None = None
    unified: bool = False
    """One memory for host and device."""
    host_share: float | None = None
    """Part of a unified memory that a process may use on the GPU; assumed."""
    host_share_low: float | None = None
    host_share_high: float | None = None
    host_share_source: str | None = None
    slice_of: str | None = None
    note: str | None = None
    calibration: Calibration | None = None
    """What was measured on this very device; no row has it."""

    @property
    def capacity(self) -> Capacity:
        """What a process can have, from the best figure that is known. [byte]

        In this order: what was measured in a process; a part of unified memory; the driver's total less what CUDA
        keeps back; the vendor's figure less what cards of known size lose. Leaves out what other processes hold.
        """
        if self.kind == "size":
            return Capacity(self.memory_bytes, self.memory_bytes, self.memory_bytes, "the size that was given")
        if self.usable_bytes is not None:
            usable = self.usable_bytes
            low = usable if self.usable_low_bytes is None else self.usable_low_bytes
            high = usable if self.usable_high_bytes is None else self.usable_high_bytes
            return Capacity(usable, low, high, f"what a process is given: {self.usable_source}")
        if self.host_share is not None:
            share = self.host_share
            low_share = share if self.host_share_low is None else self.host_share_low
            high_share = share if self.host_share_high is None else self.host_share_high
            return self._shared((low_share, share, high_share), self.host_share_source or "assumed")
        if self.driver_bytes is not None:
            return self._of_driver_total(self.driver_bytes)
        if self.unified:
            return self._shared(UNIFIED_SHARE, "assumed: one memory for CPU and GPU; CUDA reports 93 to 96 % of it")
        return self._shared(
            USABLE_SHARE, "assumed: the vendor's figure; products of known size give a process 88.5 to 100 %"
        )

    def _shared(self, shares: tuple[float, float, float], basis: str) -> Capacity:
        low, typical, high = (int(self.memory_bytes * share) for share in shares)
        return Capacity(typical, low, high, basis)

    def _of_driver_total(self, driver: int) -> Capacity:
        if self.vendor != "NVIDIA":
            return Capacity(driver, driver, driver, "the driver's total")
        return Capacity(
            driver - KEPT_BACK_TYPICAL,
            driver - _kept_back_high(driver),
            driver - KEPT_BACK_LOW,
            "assumed: the driver's total less what CUDA keeps back, 224 to 1,103 MiB where both are known",
        )


_table: Rows | None = None


def _read() -> Rows:
    global _table
    if _table is None:
        _table = Rows("devices")
    return _table


def _device(name: str) -> Device:
    row = _read().row(name)
    assert row is not None, name
    row["aliases"] = tuple(row.get("aliases", ()))
    return Device(name=name, **row)


def plain(text: str) -> str:
    """A spelling without case, punctuation and maker: ``NVIDIA GeForce RTX 4090`` is ``rtx4090``."""
    key = "".join(letter for letter in text.lower() if letter.isalnum())
    stripped = True
    while stripped:
        stripped = False
        for maker in _MAKERS:
            if key.startswith(maker) and key != maker:
                key, stripped = key.removeprefix(maker), True
    return key


def names() -> tuple[str, ...]:
    """The names of all rows, in the order of the table."""
    return _read().names()


def rows() -> tuple[Device, ...]:
    """All devices, in the order of the table."""
    return tuple(_device(name) for name in names())


def spelled(text: str) -> tuple[Device, ...]:
    """The devices that a spelling may mean: none, one, or several where a product name covers several memories."""
    return tuple(_device(name) for name in _read().head["spelled"].get(plain(text), ()))


def sized(size: int, text: str) -> Device:
    """A device that is nothing but a size, from which no overhead is taken.

    Args:
        size: [byte]
        text: how it was written.
    """
    return Device(name=text, title=text, vendor="", kind="size", memory_bytes=size, source="given")


def _refuse(key: str, text: str, refused: Mapping[str, Mapping[str, Any]]) -> None:
    for name, row in refused.items():
        if any(key.startswith(plain(word)) for word in (name, *row["aliases"])):
            raise UnsupportedError(
                f"{text!r} has no device memory to fill: {row['why']}",
                key="gpu",
                value=text,
                hint=f"see {row['source']}",
            )


def _near(text: str, key: str, spellings: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Names of rows that are spelled somewhat like what was written, closest first."""
    found = [name for close in nearest(key, spellings) for name in spellings[close]]
    return tuple(dict.fromkeys(found))[:4] or nearest(text, names())


def device(text: str) -> Device:
    """The device that a name, an alias or a size means.

    Args:
        text: a name (``h100-sxm-80gb``), another spelling of it (``RTX 4090``, ``4090``), or a size (``24GiB``).

    Raises:
        InputError: unknown, meant by several devices, or not a sensible size.
        UnsupportedError: hardware whose memory does not hold a model as bytes.
    """
    text = text.strip()
    shown = text[:60]
    key = plain(text)
    head = _read().head
    meant = head["spelled"].get(key, [])
    if len(meant) == 1:
        return _device(meant[0])
    if meant:
        raise InputError(
            f"{shown!r} names several devices", key="gpu", value=shown, nearest=meant, hint="write one of them"
        )
    if key:
        _refuse(key, shown, head["refused"])
    if text[:1] in tuple("0123456789.-+"):
        try:
            return sized(units.parse_bytes(text, key="gpu"), text)
        except InputError as error:
            unit = key.lstrip("0123456789")
            # "80" and "5GiB" are sizes gone wrong; "4091" and "4060ti17gb" are names gone wrong.
            if len(unit) > 3 or (not unit and len(key) > 3):
                error.nearest = _near(text, key, head["spelled"])
            raise
    raise InputError(
        f"unknown device {shown!r}",
        key="gpu",
        value=shown,
        nearest=_near(text, key, head["spelled"]) if key else (),
        hint="tonnage devices lists them; a size such as 24GiB is accepted too",
    )
