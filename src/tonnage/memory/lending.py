"""Keys and values that one layer makes and later layers of its kind use again (Gemma 3n and 4).

The model's code names them until its layers are through, and whoever computes attention over them may keep them beyond.
Gradients of the layers that use them are added up, from the last one down, until the layer that made them takes the
sum.

Every checkpoint holds the dictionary that they lie in. A layer that makes them puts new ones there when it runs again:
the dictionary names those, with the steps that made them and all that these saved, until the lowest checkpoint is gone.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gemma4/modeling_gemma4.py
(Gemma4TextModel, Gemma4TextAttention: ``shared_kv_states``) and gemma3n/modeling_gemma3n.py;
https://github.com/pytorch/pytorch/blob/v2.13.0/torch/utils/checkpoint.py (``_recomputation_hook``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tonnage.arch.forward import Forward
from tonnage.arch.model import Layer, Stack
from tonnage.arch.tape import Node, Storage, Tape, Value
from tonnage.errors import UnsupportedError

if TYPE_CHECKING:
    from tonnage.memory.compiled import Compiled
    from tonnage.memory.recompute import Recompute

LIKE: Final = 2
"""From so many gradients on, their sum lies as any longer one does."""


def refuse(f: Forward, recompute: Recompute | None, compiled: Compiled | None) -> None:
    """Ways to train whose part in this is not told.

    Raises:
        UnsupportedError: naming it.
    """
    ways = (
        ("compiled", compiled is not None),
        ("with prefixes", bool(f.prefixes)),
        ("with checkpoints that run a backward pass of their own", recompute is not None and recompute.reentrant),
        ("with checkpoints of modules", recompute is not None and bool(recompute.modules)),
        ("with selective checkpoints", recompute is not None and bool(recompute.keeps)),
    )
    for way, asked in ways:
        if asked:
            raise UnsupportedError(
                f"a step {way}, of layers that reuse the keys and values of others, is not modelled", key="model_type",
                hint="--recompute full or none, without prefixes and compilation",
            )  # fmt: skip


def _name(layer: Layer, role: str) -> str | None:
    return next((found for sub in layer.sublayers if (found := getattr(sub.block, role, None)) is not None), None)


class Lent:
    """Keys and values as they are there beyond the layer that made them: what stands for them on the tape."""

    def __init__(self, tape: Tape, made: list[Place]) -> None:
        self.values = [tape.new(p.storage.label, p.axes, p.dtype) for p in made]
        self.flows = [p.node is not None for p in made]


class Place:
    """A tensor as it was made, without holding it: its storage, and where its gradient goes."""

    __slots__ = ("axes", "dtype", "index", "node", "storage")

    def __init__(self, v: Value) -> None:
        self.storage, self.axes, self.dtype, self.node, self.index = v.storage, v.axes, v.dtype, v.node, v.index


class Lending:
    """Who makes keys and values for whom.

    Args:
        stack: the layers.
        f: of the pass.
        held: checkpoints hold what is lent.
    """

    def __init__(self, stack: Stack, f: Forward, *, held: bool) -> None:
        self.f = f
        self.held = held
        self.lent: dict[str, Lent] = {}
        # For each layer, how many above it have handed gradients back by the time that it runs back.
        self.above: list[int] = []
        users: dict[str, int] = {}
        for layer in reversed(stack.layers):
            used, made = _name(layer, "borrows"), _name(layer, "lends")
            self.above.append(users.get(used or made or "", 0))
            if used is not None:
                users[used] = users.get(used, 0) + 1
        self.above.reverse()

    def key(self, index: int) -> int:
        """What of it a layer's account depends on."""
        return min(self.above[index], LIKE)

    def there(self) -> list[Storage]:
        """What has been lent."""
        return [v.storage for lent in self.lent.values() for v in lent.values]

    def part(self, index: int, layer: Layer) -> Loan | None:
        """A layer's part in it; None where it has none."""
        used, made = _name(layer, "borrows"), _name(layer, "lends")
        if used is not None:
            return Loan(self, used, self.above[index], self.lent[used])
        return None if made is None else Loan(self, made, self.above[index])

    def clear(self) -> None:
        """The layers are through."""
        self.lent.clear()


class Loan:
    """One layer's part in it.

    ``due`` are the sums of gradients that the layer finds, ``back`` those that it leaves; ``lent`` is what the model's
    code alone names when the layer has made it; ``stays`` is what the checkpoints below hold when it has run back, to
    which its input belongs where ``holds_input``, and of what layers share ``shared``.

    Args:
        lending: of the model.
        name: of what is lent.
        above: how many layers have handed gradients back.
        used: what the layer uses; None where it makes it.
    """

    def __init__(self, lending: Lending, name: str, above: int, used: Lent | None = None) -> None:
        self.name = name
        self.due: list[Storage] = []
        self.back: list[Storage] = []
        self.lent: list[Storage] = []
        self.stays: list[Storage] = []
        self.holds_input = False
        self.shared: set[Storage] = set()
        self._lending: Lending | None = lending
        self._above = above
        self._used = used
        self._places: list[Place] = []
        self._waiting: list[Value] = []
        self._held: list[Value] = []
        if used is not None:
            # Both runs of a checkpoint hand gradients to the same places.
            pair = [Value(v.storage, v.axes, v.dtype) for v in used.values]
            for v, flows in zip(pair, used.flows, strict=True):
                v.node = Node((), lambda _: (), (), 1) if flows else None
            self._places = [Place(v) for v in pair]
            lending.f.lent[name] = pair[0], pair[1]

    def within(self, run: Callable[[Value], Value]) -> Callable[[Value], Value]:
        """The layer's forward pass, which leaves what it makes to the model's code."""
        assert self._lending is not None
        f, held = self._lending.f, self._lending.held

        def ran(x: Value) -> Value:
            y = run(x)
            if self._used is None:
                self._places = [Place(v) for v in f.lent[self.name]]
                if not held:
                    del f.lent[self.name]
            return y

        return ran

    def wait(self, tape: Tape, *, again: bool) -> None:
        """The sums of what the layers above have handed back are there: for steps that are yet to come, where the layer
        runs ``again``."""
        if not self._above:
            return
        for p in self._places:
            if p.node is not None or again:
                due = tape.new("gradient of shared keys and values", p.axes, p.dtype)
                due.storage.follows = self._above
                self._waiting.append(due)
        self.due = [v.storage for v in self._waiting]

    def begin(self, tape: Tape, floor: int, first: int) -> None:
        """The layer is about to run back, its steps those from ``floor`` on."""
        places = [p for p in self._places if p.node is not None]
        for p, due in zip(places, self._waiting, strict=False):
            assert p.node is not None
            p.node.pending[p.index] = due
        self._waiting.clear()
        if self._used is None and tape.rerun:
            found = _saved([p.node for p in places], set(tape.nodes[floor:]))
            self._held = [v for v in found if v.storage.serial >= first]
            self.shared = {v.storage for v in found if v.storage.serial < first}

    def settle(self, tape: Tape, kept: list[Storage], source: Storage) -> None:
        """The layer is through: ``kept`` is what it left behind going forward, ``source`` its input."""
        lending = self._lending
        assert lending is not None
        there = lending.f.lent.pop(self.name, ())
        if self._used is not None:
            found = [p.node.pending[0] for p in self._places if p.node is not None]
            self.back = [v.storage for v in found if v is not None]
        else:
            lending.lent[self.name] = lent = Lent(tape, self._places)
            if lending.held:
                stays = dict.fromkeys(v.storage for v in (*there, *self._held))
                self.holds_input = source in stays
                self.stays = [s for s in stays if s is not source]
            else:
                self.lent = [v.storage for v, p in zip(lent.values, self._places, strict=True) if p.storage not in kept]
        self._places, self._lending, self._used = [], None, None
        self._held.clear()


def _saved(starts: list[Node | None], steps: set[Node]) -> list[Value]:
    """What the steps saved that lead to these, of those at hand."""
    found: list[Value] = []
    due, seen = [n for n in starts if n is not None], set[Node]()
    while due:
        node = due.pop()
        if node in seen or node not in steps:
            continue
        seen.add(node)
        found += [v.detached() for v in node.saved]
        due += [i[0] for i in node.inputs if isinstance(i, tuple)]
    return found
