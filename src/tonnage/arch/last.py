"""The loss of the last tokens alone: a model that is asked for no other logits (``logits_to_keep``).

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/llama/modeling_llama.py
(LlamaForCausalLM.forward, whose labels then are those of as many tokens)
"""

from __future__ import annotations

from tonnage.arch import ops
from tonnage.arch.ends import Head
from tonnage.arch.forward import Forward
from tonnage.arch.loss import Loss, cross_entropy
from tonnage.arch.tape import Value


class OfLast(Loss):
    """transformers' own loss of the last tokens' logits.

    Args:
        tokens: of each sequence.
    """

    tokens: int

    def forward(self, f: Forward, head: Head, x: Value, labels: Value) -> Value:
        """Mean cross entropy of the last tokens of ``x`` (axes ``B T D``)."""
        B, (_, whole), D = x.axes
        T = ("T", min(self.tokens, whole))
        part = ops.narrow(x, (B, T, D)) if T[1] < whole else x
        if B[1] > 1 and T[1] < whole and f.tape.autocast in (None, x.dtype):
            # Rows of several sequences are no stretch of memory, which the matrix product wants and a cast makes.
            part = ops.copy(part, label="hidden states of the last tokens")
        logits = head.forward(f, part)
        # The output that the caller is handed names them; the model's code, the hidden states.
        f.logits.append(logits)
        return cross_entropy(logits, labels.view((B, T)), causal=True, wide=True)
