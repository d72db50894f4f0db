"""How a model's weights come onto the device, as events of the caching allocator before the first step.

``from_pretrained`` with a ``device_map`` first allocates the size of the model in one piece and gives it back
(``caching_allocator_warmup``), so that the weights are cut out of one segment. What is packed while loading comes in
16 bit first; ``prepare_model_for_kbit_training`` then makes fp32 copies of what was not packed. None of that lives on,
and all of it leaves free blocks in the cache.

A model that is read on the host and moved (``model.to("cuda")``, as the Trainer does it) has none of this: its tensors
are allocated one after the other, and ``Player.load`` does without this module.

From 5.0 to 5.3 four threads bring tensors while the program's own packs them in the order of their names. What lies on
the device at once then depends on time; here a thread takes as long for a byte as every other, and packing takes none:
while the first, large tensor comes, the others fetch the layers.

Left out: adapters cast on the device after they were made there; shards of a checkpoint before 5.0; ``device_map``
over several devices. bitsandbytes' double quantization is taken without its intermediate scales.

References: huggingface/transformers src/transformers/modeling_utils.py, core_model_loading.py (convert_and_load_state_
dict_in_model: ``has_on_the_fly_quantization`` since 5.4) and integrations/bitsandbytes.py, v4.51.3, v4.54.1, v4.57.6,
v5.0.0, v5.4.0, v5.17.0, v5.23.0; bitsandbytes 0.50.2 functional.py quantize_4bit; huggingface/peft v0.19.1 and v0.20.0
src/peft/utils/other.py prepare_model_for_kbit_training (which empties the cache since 0.20).
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from tonnage.formats import FORMATS
from tonnage.memory.weights import is_buffer
from tonnage.record import Record
from tonnage.releases import Since, Version, since
from tonnage.tensors import size
from tonnage.timeline import Allocate, Free

if TYPE_CHECKING:
    from tonnage.allocator.blocks import Block
    from tonnage.arch.model import Model
    from tonnage.devices import Device
    from tonnage.estimate.player import Player
    from tonnage.estimate.training import Step
    from tonnage.stacks import Stack
    from tonnage.workload.training import Train

SPARED: Final = int(1.2 * 1024**3)
"""What the warm-up leaves of a device. [byte]"""
WIDTH: Final = 2
"""Bytes of an element of the block that warms up, which is counted in fp16."""
ROTARY: Final = "inv_freq"
BIAS: Final = ".bias"
WARMS: Final = "one block of the model's size, given back at once"
RAW: Final = "as it came, until it is packed"


class Loader(Record):
    """How a release of transformers loads onto a device.

    Args:
        warms: what the first block is counted by: "stored" as the weights will be stored, "half" of the model as it is
            loaded where it is packed (its own size where it is not); empty where there is no such block.
        workers: threads that bring tensors ahead of their packing.
        twice: a tensor lies on the device as it was read, while the one that is packed comes from the host.
        empties: whether the peft of its time empties the cache after the casts to fp32.
        rotates: whether models make cosines and sines by a product of matrices, the first of the pass.
        ties: whether the first block counts a tied matrix once more.
    """

    warms: str = ""
    workers: int = 0
    twice: bool = False
    empties: bool = False
    rotates: bool = False
    ties: bool = False


LOADERS: Final[Since[Loader]] = (
    ((5, 19), Loader(warms="stored", empties=True)),
    ((5, 16), Loader(warms="stored", empties=True, rotates=True)),
    ((5, 4), Loader(warms="stored", rotates=True)),
    ((5, 0), Loader(warms="stored", workers=4, rotates=True)),
    ((4, 54), Loader(warms="half", twice=True, rotates=True)),
    ((4, 50), Loader(warms="half", twice=True, rotates=True, ties=True)),
    ((0, 0), Loader(twice=True, rotates=True)),
)
"""By release of transformers."""


class Loading(Record):
    """One load.

    Args:
        loader: the release's.
        placed: the weights come onto the device one by one, rather than the model as a whole.
        form: format in which what is not packed is loaded.
        packs: weights are packed while loading; else they are read as they are stored.
        casts: what is not packed is then cast to the format of the step's weights.
        rotates: the pass makes cosines and sines by a product of matrices.
        total: memory of the device; None where none is named. [byte]
        known: whether it is modelled.
    """

    loader: Loader
    placed: bool = False
    form: str = "bf16"
    packs: bool = False
    casts: bool = False
    rotates: bool = False
    total: int | None = None
    known: bool = True

    @property
    def told(self) -> list[str]:
        """What is said of it."""
        if not self.placed:
            return []
        racing = self.packs and self.loader.workers
        how = f"{self.loader.workers} threads bring them ahead of their packing, how far is assumed" if racing else ""
        return [f"weights come one by one onto the device (device_map){'; ' if how else ''}{how}"]


def loader(version: Version) -> Loader:
    """The loader of a release of transformers.

    >>> loader((5, 2)).workers, loader((5, 23)).workers
    (4, 0)
    """
    return since(version, LOADERS)


def brought(step: Step, w: Train, stack: Stack, version: Version, form: str, device: Device | None) -> Loading:
    """How a stack brings a step's weights onto the device.

    Args:
        step: whose weights.
        w: the workload.
        stack: by what it is run; what is not transformers itself is taken to bring its newest release.
        version: of the stack.
        form: format in which the weights are loaded.
        device: where; None names none.
    """
    if stack.restated is not None:
        return Loading(Loader(), known=False)
    found = loader(version) if stack.name == "transformers" else LOADERS[0][1]
    packing = step.recipe.packing
    modelled = packing is None or (packing.plan is None and packing.store is not None)
    stem = step.model.decoder.stem.weights()
    return Loading(
        found,
        placed=modelled and (stack.places or packing is not None),
        form=form,
        packs=packing is not None and w.quant not in (None, "none", "checkpoint"),
        casts=packing is not None and step.recipe.weights != form,
        rotates=found.rotates and any(t.name.endswith(ROTARY) for t in stem),
        total=None if device is None else device.capacity.bytes,
        known=modelled,
    )


class Item(Record):
    """A tensor that is loaded.

    Args:
        name: in the checkpoint.
        raw: as it comes. [byte]
        parts: what it is packed into; empty where it stays. [byte]
        cast: what it is cast to afterwards; 0 where it is not. [byte]
        buffer: it is made, not loaded.
    """

    name: str
    raw: int
    parts: tuple[int, ...] = ()
    cast: int = 0
    buffer: bool = False


def items(run: Step, loading: Loading) -> list[Item]:
    """The model's tensors in the order of its modules."""
    from tonnage import quant

    packing, form, later = run.recipe.packing, FORMATS[loading.form], run.form
    whole = None if packing is None else packing.but(by_layer=True)
    packed = frozenset[str]() if whole is None else frozenset(quant.packed_modules(run.model, whole))
    out = []
    for times, t, matrix in quant.entries(run.model, by_layer=True):
        if not t.numel:
            continue
        # The module that packs makes its bias anew, in fp32.
        apart = t.name.endswith(BIAS) and t.name.removesuffix(BIAS) in packed
        own = FORMATS["fp32"] if apart else form if t.dtype is None else FORMATS[t.dtype]
        parts: tuple[int, ...] = ()
        if matrix is not None and matrix.module in packed and whole is not None and whole.store is not None:
            # Scales are allocated before what they are the scales of.
            found = [FORMATS[p.format or loading.form].nbytes(size(matrix.batch + p.axes)) for p in whole.store(matrix)]
            parts = (*found[1:2], *found[:1], *found[2:])
        casts = loading.casts and t.dtype is None and not parts and not apart and not is_buffer(t)
        item = Item(t.name, own.nbytes(t.numel), parts, later.nbytes(t.numel) if casts else 0, is_buffer(t))
        out += [item] * times
    return out


def key(name: str) -> tuple[tuple[int, str], ...]:
    """Tensors are loaded by name, numbers in it by their value (``dot_natural_key``).

    >>> sorted(["a.10.w", "a.9.w", "a.9.b"], key=key)
    ['a.9.b', 'a.9.w', 'a.10.w']
    """
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in name.split("."))


def schedule(sizes: list[int], workers: int) -> Iterator[tuple[int, bool]]:
    """Which tensor comes (True), and which is there and taken in hand (False), in order of time.

    Args:
        sizes: of the tensors in the order in which they are wanted. [byte]
        workers: threads that bring them; 0 brings each when it is wanted.

    >>> [n for n, comes in schedule([8, 1, 1, 1], 2) if comes], list(schedule([8, 1, 1, 1], 2))[4]
    ([0, 1, 2, 3], (0, False))
    """
    if not workers:
        for i in range(len(sizes)):
            yield i, True
            yield i, False
        return
    free = [0] * workers
    events: list[tuple[int, bool, int]] = []
    taken = 0
    for i, n in enumerate(sizes):
        begins = heapq.heappop(free)
        heapq.heappush(free, begins + n)
        taken = max(taken, begins + n)
        events += [(begins, False, i), (taken, True, i)]
    for _, over, i in sorted(events):
        yield i, not over


def tied(model: Model, form: str) -> int:
    """What a head that is the embedding's table would take on its own. [byte]"""
    head = model.head
    return 0 if head is None or head.alias_of is None else FORMATS[form].nbytes(head.V * head.D)


def warmed(found: list[Item], loading: Loading, again: int = 0) -> int:
    """The block that is allocated first, and given back; ``again`` is what tied tensors add to it. [byte]"""
    stored = [i for i in found if not i.buffer]
    again = again if loading.loader.ties else 0
    if loading.loader.warms == "half" and any(i.parts for i in stored):
        total = (sum(i.raw for i in stored) + again) // 2
    elif loading.loader.warms:
        # Of what is packed into 4 bit, the values alone are counted.
        total = sum(max(i.parts, default=i.raw) for i in stored) + again
    else:
        total = 0
    if loading.total is not None:
        total = min(total, max(loading.total - SPARED, 0))
    return total // WIDTH * WIDTH


def events(found: list[Item], loading: Loading, again: int = 0) -> Iterator[Allocate | Free]:
    """Allocations and frees of a load in order, casts included.

    Args:
        found: the model's tensors in the order of its modules.
        loading: how they come.
        again: what tied tensors add to the first block. [byte]

    Yields:
        What stays has ``op`` empty; what does not, the words for it.
    """
    ids = itertools.count()

    def born(size: int, op: str = "") -> Allocate:
        return Allocate(next(ids), size, op=op, phase="load")

    if block := warmed(found, loading, again):
        first = born(block, WARMS)
        yield first
        yield Free(first.id)
    wanted = sorted((i for i in range(len(found)) if not found[i].buffer), key=lambda i: key(found[i].name))
    come: dict[int, list[Allocate]] = {}
    held: dict[int, Allocate] = {}
    sizes = [found[i].raw for i in wanted]
    for n, comes in schedule(sizes, loading.loader.workers if loading.packs else 0):
        item = found[wanted[n]]
        if comes:
            copies = 1 if not item.parts else 0 if not loading.packs else 2 if loading.loader.twice else 1
            come[n] = [born(item.raw, RAW if item.parts else "") for _ in range(copies)]
            yield from come[n]
            continue
        yield from (born(nbytes) for nbytes in item.parts)
        if item.parts:
            yield from (Free(a.id) for a in come.pop(n))
        else:
            held[wanted[n]] = come.pop(n)[0]
    yield from (born(item.raw) for item in found if item.buffer and item.raw)
    for i, item in enumerate(found):
        if item.cast:
            yield born(item.cast)
            yield Free(held[i].id)


def place(player: Player, loading: Loading) -> None:
    """Play the load of the weights."""
    allocator = player.allocator
    found = items(player.run, loading)
    there: dict[int, Block] = {}
    for event in events(found, loading, tied(player.run.model, loading.form)):
        if isinstance(event, Free):
            allocator.free(there.pop(event.id))
        else:
            there[event.id] = allocator.malloc(event.size)
    if loading.loader.empties and any(item.cast for item in found):
        allocator.empty_cache()
