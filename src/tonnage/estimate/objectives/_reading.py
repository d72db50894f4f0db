"""Models beside, and passes without a gradient, as objectives ask for them."""

from __future__ import annotations

from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.objectives.scored import Lengths, log_probs
from tonnage.arch.objectives.selected import Way, handed_out, of_all, of_written
from tonnage.arch.tape import Value
from tonnage.estimate.beside import Beside, resident
from tonnage.estimate.objectives._objective import Asked
from tonnage.memory.ahead import Ahead, Ends


def beside(a: Asked, what: str, reading: Ahead | None) -> Beside:
    """The reference: the model with its adapter switched off, or a second one."""
    if a.reference == "adapter":
        return Beside(what, reading=reading)
    return resident(what, a.model, a.recipe.weights, reading)


def scored(completion: Lengths, told: tuple[str, ...] = (), how: Way = "tiles") -> Ends:
    """Log-probabilities behind the layers."""

    def ends(f: Forward, head: Head, x: Value, ids: Value) -> list[Value]:
        hand = [x]
        del x
        if how != "tiles":
            return of_all(f, head, hand, how)
        return log_probs(f, head, hand.pop(), completion, told)

    return ends


def written_last(completion: int, how: Way, *, in_place: bool) -> Ends:
    """Log-probabilities of the last tokens from their logits."""

    def ends(f: Forward, head: Head, x: Value, ids: Value) -> list[Value]:
        hand = [x]
        del x
        return of_written(f, head, hand, completion, how, in_place=in_place, told=False)

    return ends


def whole(f: Forward, head: Head, x: Value, ids: Value) -> list[Value]:
    """What the head makes of the hidden states; as accelerate hands it out."""
    hand = [x]
    del x
    return [handed_out(f, head, hand)]


def ahead(a: Asked, ends: Ends, *, off: bool = False, own: bool = False) -> Ahead:
    """A pass of the model without a gradient.

    Args:
        a: what is asked.
        ends: what follows the layers.
        off: it is the trained model with its adapter switched off: what of it is packed stays so.
        own: it is the trained model as it is.
    """
    r = a.recipe
    tuning = r.tuning
    if tuning is not None and not own:
        tuning = tuning.but(method=None, own=None) if off else None
    return Ahead(
        a.model, ends, batch=a.rows, tokens=r.tokens, kernel=r.kernel, weights=r.weights, autocast=r.autocast,
        casts=not off and (r.tuning is None or not own), tuning=tuning, fused=r.fused if off or own else None,
        makes_mask=r.makes_mask,
    )  # fmt: skip
