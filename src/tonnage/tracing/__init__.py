"""The real code on tensors without data: every storage that it makes and drops, in order.

A trace runs in a process of its own (``process``, ``child``), where torch and transformers are imported and patched.
What comes back (``stream``) and all that is told about it needs neither: ``spread`` repeats identical layers,
``levels`` plays the events to the model of the caching allocator, ``answer`` makes a result of them.
"""

from __future__ import annotations
