"""Pictures of a batch in a pass: what is given beside the token ids, and where the towers run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tonnage.arch.forward import Forward
from tonnage.arch.sight.pictures import Eye, Pictures
from tonnage.arch.tape import Value

Embeds = Callable[[Value], Value]


def shown(f: Forward, eye: Eye, pictures: Pictures, ids: Value, embeds: Embeds) -> tuple[list[Value], Embeds]:
    """What a batch holds beside its token ids, and the embedding: behind the towers, or with them inside."""
    given = eye.given(f.tape, ids, pictures)
    if not eye.early:
        f.eye = partial(_seen, eye, given, pictures)
        return given, embeds
    return given, partial(_before, partial(_looked, eye, given, pictures, f), embeds)


def _seen(eye: Eye, given: list[Value], pictures: Pictures, f: Forward, ids: Value, x: Value) -> Value:
    """The embedding with what is seen, by towers whose attention has a kernel of its own."""
    own, f.kernel = f.kernel, pictures.kernel
    x = eye.seen(f, ids, x, given, pictures)
    f.kernel = own
    return x


def _looked(eye: Eye, given: list[Value], pictures: Pictures, f: Forward, ids: Value) -> None:
    """The same of towers that run before the tokens are looked up."""
    own, f.kernel = f.kernel, pictures.kernel
    eye.look(f, ids, given, pictures)
    f.kernel = own


def _before(looks: Callable[[Value], None], embeds: Embeds, ids: Value) -> Value:
    """The embedding, once the towers have run."""
    looks(ids)
    return embeds(ids)
