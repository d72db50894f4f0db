"""A mixer and attention that see the same, and whose outputs are added up (Falcon-H1).

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/falcon_h1/
modeling_falcon_h1.py (FalconH1DecoderLayer).
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.attention import GroupedQuery
from tonnage.arch.forward import Forward
from tonnage.arch.mixers.recurrent import Mamba2
from tonnage.arch.parts import Parts
from tonnage.arch.tape import Value


class SideBySide(Parts):
    """Both, with numbers that multiply their outputs and what attention is given.

    Args:
        mixer: the recurrent one.
        inner: attention.
    """

    mixer: Mamba2
    inner: GroupedQuery

    def forward(self, f: Forward, x: Value) -> Value:
        """The sum of both; each keeps its name until the layer returns."""
        mixed = ops.scaled(self.mixer.forward(f, x))
        given = ops.scaled(x)
        attended = self.inner.forward(f, given)
        del given
        attended = ops.scaled(attended)
        f.held += [mixed, attended]
        return ops.add(mixed, attended, "mixed and attended")
