"""axolotl: transformers' Trainer over weights in the format of autocast.

Reference: https://github.com/axolotl-ai-cloud/axolotl/blob/v0.19.0/src/axolotl/ (utils/config/__init__.py for
``torch_dtype``) and loaders/model.py (``_configure_embedding_dtypes``: with an adapter or flash attention, norms and
embeddings come back to that format after ``prepare_model_for_kbit_training``; without, norms, embeddings and the head
are left in fp32); core/trainers/dpo/trainer.py (``training_step`` ends with an emptied cache). Its wheels of 0.17, 0.18
and 0.19 pin TRL 1.5.1, 1.8.0 and 1.9.0.
"""

from __future__ import annotations

from typing import Final

from tonnage.releases import Releases
from tonnage.stacks import Stack

STACK: Final = Stack(
    name="axolotl",
    releases=Releases("axolotl", newest=(0, 19), oldest=(0, 12), last={}),
    precision=(((0, 0), "bf16-autocast"),),
    adapted=(((0, 0), "bf16-autocast"),),
    optimizer=(((0, 0), "adamw-fused"),),
    makes_mask=(((0, 0), False),),
    shards="ddp",
    recomputes=("none", "full", "every", "first"),
    places=True,
    # utils/config/__init__.py, normalize_config: where no ``rl`` is said.
    reentrant=(((0, 0), True),),
    trainers=(((0, 19), (1, 9)), ((0, 18), (1, 8)), ((0, 0), (1, 5))),
    compiles="model",
    empties={"dpo": "backward"},
    losses=("full", "fused", "liger", "cut"),
    reference="https://github.com/axolotl-ai-cloud/axolotl/blob/v0.19.0/src/axolotl/loaders/model.py",
)
