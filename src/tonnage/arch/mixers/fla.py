"""The gated delta rule by the kernels of flash-linear-attention, in blocks of 64 tokens.

Stated as its Python code allocates: what the ``autograd.Function`` saves, and what it makes again backward instead.

References: https://github.com/fla-org/flash-linear-attention/blob/v0.6.0/fla/ops/gated_delta_rule/chunk.py
(``ChunkGatedDeltaRuleFunction``), chunk_fwd.py, wy_fast.py, .../ops/common/chunk_delta_h.py, chunk_o.py,
.../ops/utils/cumsum.py, .../modules/norm/l2norm.py and .../utils/decorators.py (``input_guard``, which copies what is
not contiguous).

Leaves out: other backends (FlashQLA, TileLang); what Triton takes while it tries configurations in the first step.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.tape import Grads, Value
from tonnage.tensors import Axes

CHUNK: Final = 64
SMALLEST: Final = 16


def delta_rule(q: Value, k: Value, v: Value, g: Value, beta: Value, tiling: int) -> Value:
    """``chunk_gated_delta_rule`` with queries and keys normalised inside.

    Keeps normalised queries and keys, values, cumulated decays, rates, and a block's rows for every token and head.

    Args:
        q, k: parts of something larger, axes ``B T K H``.
        v: the same, axes ``B T N H``.
        g: decays, axes ``B T N``, in fp32.
        beta: rates, axes ``B T N``.
        tiling: columns that a kernel of the device takes at once.
    """
    tape, dtype = q.tape, q.dtype
    keys, values, steps = k.axes, v.axes, beta.axes
    B, T, N = steps
    H, VH = keys[-1], values[-1]
    shared = keys[2][1] != N[1]
    wide: Axes = (B, T, N, H)
    states: Axes = (B, ("X", -(-T[1] // CHUNK)), N, H, ("V", VH[1]))
    columns = -(-H[1] // min(max(1 << (H[1] - 1).bit_length(), SMALLEST), tiling))
    rate = beta.dtype

    whole_q, whole_k = tape.new("queries, contiguous", keys, dtype), tape.new("keys, contiguous", keys, dtype)
    whole_v = tape.new("values, contiguous", values, dtype)
    normed_q, q_rstd = tape.new("normalised queries", keys, dtype), tape.new("rstd", keys[:-1], "fp32")
    normed_k, k_rstd = tape.new("normalised keys", keys, dtype), tape.new("rstd", keys[:-1], "fp32")
    total = tape.new("cumulated decays", steps, "fp32")
    solved = tape.new("solved blocks", (*steps, ("X", CHUNK)), dtype)
    w, u = tape.new("decayed keys", wide, dtype), tape.new("new values", values, dtype)
    h, new = tape.new("states", states, dtype), tape.new("corrected values", values, dtype)
    out = tape.new("output of the delta rule", values, dtype)
    del w, u, h, new, whole_q, whole_k

    def back(do: Value) -> Grads:
        w, u = tape.new("decayed keys", wide, dtype), tape.new("new values", values, dtype)
        h, new = tape.new("states", states, dtype), tape.new("corrected values", values, dtype)
        inside = tape.new("gradient of values, in blocks", values, dtype)
        dh, dv = tape.new("gradient of states", states, dtype), tape.new("gradient of values", values, dtype)
        del inside
        dq, dk = tape.new("gradient of queries", wide, dtype), tape.new("gradient of keys", wide, dtype)
        parts = tape.new("gradient of decays, in parts", (("X", columns), *steps), "fp32")
        dw = tape.new("gradient of decayed keys", wide, dtype)
        if shared:
            dq = tape.new("gradient of queries, summed", keys, dtype)
            dk = tape.new("gradient of keys, summed", keys, dtype)
        dg = tape.new("gradient of decays", steps, "fp32")
        del parts
        more = tape.new("gradient of keys", wide, dtype)
        of_values = tape.new("gradient of values", values, dtype)
        dg2, db = tape.new("gradient of decays", steps, "fp32"), tape.new("gradient of rates", steps, rate)
        if shared:
            more = tape.new("gradient of keys, summed", keys, dtype)
        dv = of_values
        dg = tape.new("gradient of decays, cumulated", steps, "fp32")
        del w, u, h, new, dh, dw, more, dg2, of_values
        dq = tape.new("gradient of queries", keys, dtype)
        dk = tape.new("gradient of keys", keys, dtype)
        return dq, dk, dv, dg, db

    saved = (normed_q, q_rstd, normed_k, k_rstd, whole_v, total, beta, solved)
    tape.record((out,), (q, k, v, g, beta), back, saved[::-1], custom=True)
    return out
