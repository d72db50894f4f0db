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
        B, (_, whole), _ = x.axes
        T = ("T", min(self.tokens, whole))
        logits = head.forward(f, last_states(f, x, T[1]))
        # The output that the caller is handed names them; the model's code, the hidden states.
        f.logits.append(logits)
        return cross_entropy(logits, labels.view((B, T)), causal=True, wide=True)


def last_states(f: Forward, x: Value, tokens: int) -> Value:
    """Hidden states (axes ``B T D``) of the last tokens of each sequence, as the head takes them."""
    B, (_, whole), D = x.axes
    if tokens >= whole:
        return x
    part = ops.narrow(x, (B, ("T", tokens), D))
    if B[1] > 1 and f.tape.autocast in (None, x.dtype):
        # Rows of several sequences are no stretch of memory, which the matrix product wants and a cast makes.
        part = ops.copy(part, label="hidden states of the last tokens")
    return part
