"""What a layer hands to the next beside the residual stream: which tokens its indexer chose (GLM).

The model's code names it until the next layer has returned, and layers share one tensor as long as none of them chooses
anew. A checkpoint holds what its layer was called with until that has run back, or with a backward pass of its own as
long as the graph is there.
"""

from __future__ import annotations

from collections.abc import Callable

from tonnage.arch.forward import Forward
from tonnage.arch.tape import Storage, Value
from tonnage.memory.accounts import Account


class Handing:
    """What passes from layer to layer, as ``Forward.chosen`` has it: to a layer's account it was there before."""

    def __init__(self, f: Forward) -> None:
        self._f = f
        # What stands for it between the layers, and whether the checkpoint of a layer below holds it.
        self._there: Value | None = None
        self._held = False
        self._made: dict[int, bool] = {}
        self._new: Storage | None = None

    @property
    def key(self) -> tuple[bool, bool]:
        """What of it a layer's account depends on."""
        return self._there is not None, self._held

    def within(self, run: Callable[[Value], Value]) -> Callable[[Value], Value]:
        """The layer's forward pass, which begins with what is there and lets go of what it makes."""
        f = self._f
        self._new = None

        def ran(x: Value) -> Value:
            f.chosen = self._there
            y = run(x)
            if f.chosen is not None and f.chosen is not self._there:
                self._new = f.chosen.storage
            if f.chosen is not None and f.tape.returned is not None:
                f.tape.returned.append(f.chosen.detached())
            f.chosen = None
            return y

        return ran

    def settle(self, account: Account, *, again: bool) -> None:
        """Note who holds what: a checkpoint (``again``) what its layer was given, the model what that handed on."""
        new, there = self._new, self._there
        self._made[id(account)] = new is not None
        if again and there is not None and not self._held:
            account.called = [there.storage]
        self.pass_on(account, again=again)
        if new is not None:
            self._there = self._f.tape.new(new.label, new.axes, new.dtype)
        if self._there is not None and not self._held:
            account.carried = [*account.carried, self._there.storage]

    def pass_on(self, account: Account, *, again: bool) -> None:
        """The next layer is due."""
        self._held = not self._made[id(account)] and (again or self._held)
