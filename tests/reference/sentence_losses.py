"""sentence-transformers' losses traced on tensors without data, for comparison with the closed form.

``python tests/reference/sentence_losses.py`` writes data/embeddings.json, where sentence-transformers 6.2.0 and trl are
installed beside torch 2.13.0 and transformers 5.23.0. The losses and ``Pooling`` are the library's own; a module that
calls the model and the pooling stands for ``SentenceTransformer``, whose modules do the same to the dictionary they are
given. A cached loss saves no state of random numbers, and takes no column as padding: both ask for data.
"""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from tracing_cases import CONFIGS
from trl_losses import FORMATS, prepared

from tonnage.tracing.context import Tracing
from tonnage.tracing.levels import levels

KINDS: Final = ("forward", "backward", "optimizer")
COLUMNS: Final = {"triplet": 3}
LABELLED: Final = ("cosent", "cosine", "contrastive")
VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "fp32": {"precision": "fp32"},
    "mixed": {"precision": "bf16-mixed"},
    "recomputed": {"recompute": "full", "seq": 256},
}
OWN: Final[dict[str, dict[str, Any]]] = {
    "mnrl": {}, "mnrl negatives": {"columns": 3}, "mnrl many negatives": {"columns": 5}, "cosent": {}, "cosine": {},
    "contrastive": {}, "triplet": {}, "matryoshka": {"matryoshka_dims": [32, 16]},
    "matryoshka negatives": {"matryoshka_dims": [32, 16], "columns": 3},
    "cached-mnrl": {"mini_batch": 4}, "cached-mnrl negatives": {"mini_batch": 4, "columns": 3},
}  # fmt: skip
"""By loss: keys of a workload beside those of every case."""


def cases() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What is traced: a name, a family, and the keys of a workload."""
    for name, own in OWN.items():
        first = name.split(" ")[0]
        loss = {} if first == "matryoshka" else {"embed_loss": first}
        for variant, said in VARIANTS.items():
            both = {"objective": "embed", "batch": 16, "seq": 32, "precision": "bf16", **loss, **own, **said}
            yield f"{name} {variant}", "llama", both
    for family in ("bert", "llama"):
        for variant, said in VARIANTS.items():
            both = {"objective": "rerank", "batch": 8, "seq": 64, "precision": "bf16", **said}
            yield f"rerank {family} {variant}", family, both
    for family in ("bert", "qwen3"):
        for name in ("mnrl", "mnrl negatives", "cached-mnrl"):
            said = {"objective": "embed", "batch": 16, "seq": 64, "precision": "bf16", "embed_loss": name.split(" ")[0]}
            yield f"{name} {family}", family, said | OWN[name]


class Judge(torch.nn.Module):
    """A classifier with one label, as ``CrossEncoder.forward`` runs it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: dict[str, Any]) -> Any:
        features["scores"] = self.model(**{k: features[k] for k in ("input_ids", "attention_mask")})["logits"]
        return features


class Sentences(torch.nn.Module):
    """The model and its pooling, as ``SentenceTransformer.forward`` runs them over a column."""

    similarity_fn_name = "cosine"

    def __init__(self, model: Any) -> None:
        from sentence_transformers.sentence_transformer.modules.pooling import Pooling

        super().__init__()
        self.model, self.pooling = model, Pooling(model.config.hidden_size, pooling_mode="mean")

    def forward(self, features: dict[str, Any]) -> Any:
        features["token_embeddings"] = self.model(**{k: features[k] for k in ("input_ids", "attention_mask")})[0]
        return self.pooling(features)

    def __getitem__(self, index: int) -> Any:
        return (self.model, self.pooling)[index]

    def get_embedding_dimension(self) -> int:
        return int(self.model.config.hidden_size)


def loss_of(said: dict[str, Any], model: Any) -> Any:
    """The library's loss; of a cross-encoder, what it does when texts are tokens."""
    if said["objective"] == "rerank":
        bce = torch.nn.BCEWithLogitsLoss()
        return lambda features, labels: bce(model(features[0])["scores"].view(-1), labels.view(-1).float())
    from sentence_transformers.sentence_transformer import losses

    kind = said.get("embed_loss", "mnrl")
    made = {
        "mnrl": losses.MultipleNegativesRankingLoss, "cosent": losses.CoSENTLoss, "cosine": losses.CosineSimilarityLoss,
        "contrastive": losses.ContrastiveLoss, "triplet": losses.TripletLoss,
        "cached-mnrl": losses.CachedMultipleNegativesRankingLoss,
    }[kind]  # fmt: skip
    inner = made(model, mini_batch_size=said["mini_batch"]) if kind == "cached-mnrl" else made(model)
    if dims := said.get("matryoshka_dims"):
        return losses.MatryoshkaLoss(model, inner, matryoshka_dims=[model.get_embedding_dimension(), *dims])
    return inner


@contextlib.contextmanager
def without_data() -> Iterator[None]:
    """What a cached loss asks of data."""
    from sentence_transformers.base.losses import gradcache

    def sliced(features: dict[str, Any], begin: int, end: int) -> dict[str, Any]:
        return {key: value[begin:end] for key, value in features.items() if key in ("input_ids", "attention_mask")}

    swapped = (("RandContext", lambda *_: contextlib.nullcontext()), ("_create_minibatch", sliced))
    before = [(name, getattr(gradcache, name)) for name, _ in swapped]
    for name, made in swapped:
        setattr(gradcache, name, made)
    try:
        yield
    finally:
        for name, made in before:
            setattr(gradcache, name, made)


def peaks(family: str, said: dict[str, Any]) -> list[int]:
    """The most that tensors take in the forward pass, the backward pass and the step. [byte]"""
    weights, autocast = FORMATS[said["precision"]]
    judges = said["objective"] == "rerank"
    more = {"num_labels": 1, "pad_token_id": 0} if judges else {}
    config = transformers.AutoConfig.for_model(**(CONFIGS[family] | more))
    columns = 1 if judges else said.get("columns") or COLUMNS.get(said.get("embed_loss", ""), 2)
    tracing = Tracing(item=1.0)
    with without_data(), tracing:
        tracing.phase("load")
        with torch.device("cuda"):
            auto = transformers.AutoModelForSequenceClassification if judges else transformers.AutoModel
            inner = auto.from_config(config, attn_implementation="sdpa", dtype=weights)
        inner.train()
        inner.config.use_cache = False
        if said.get("recompute") == "full":
            inner.gradient_checkpointing_enable({"use_reentrant": False})
        model = prepared(Judge(inner) if judges else Sentences(inner), autocast)
        loss_fn = loss_of(said, model)
        shape = (said["batch"], said["seq"])
        batch = [{k: torch.empty(shape, dtype=torch.int64) for k in ("input_ids", "attention_mask")}
                 for _ in range(columns)]  # fmt: skip
        labels = torch.empty(said["batch"]) if judges or said.get("embed_loss") in LABELLED else None
        step = torch.optim.AdamW(inner.parameters(), lr=1e-4, fused=True)
        loss = None
        for number in (1, 2):
            tracing.step(number)
            # The trainer's own names for the columns are there until the loss is.
            features = [dict(column) for column in batch]
            loss = loss_fn(features, labels)
            del features
            loss.backward()
            loss = loss.detach()
            # Closures that make masks hold each other, and with them the joined mask.
            gc.collect()
            step.step()
            step.zero_grad()
        tracing.phase("end")
    found = levels(tracing.trace())
    parts: dict[str, range] = {}
    for name, start, stop in found.traced.phases():
        if stop > start:
            parts.setdefault(name, range(start - 1, stop))
    if said.get("embed_loss") == "cached-mnrl":
        # It goes back and forth: all before the step is one phase.
        whole = range(
            min(r.start for name, r in parts.items() if name.startswith("step2")), parts["step2.optimizer"].start
        )
        return [max(found.requested[i] for i in r) for r in (whole, whole, parts["step2.optimizer"])]
    return [max(found.requested[i] for i in parts[f"step2.{kind}"]) for kind in KINDS]


def main() -> None:
    """Record every case."""
    runs = [
        {"id": name, "family": family, "said": said, "peaks": peaks(family, said)} for name, family, said in cases()
    ]
    how = "tests/reference/sentence_losses.py: sentence-transformers 6.2.0, torch 2.13.0, transformers 5.23.0"
    path = Path(__file__).parent.parent / "data" / "embeddings.json"
    lines = ",\n".join(json.dumps(run) for run in runs)
    path.write_text(f'{{"made": {json.dumps(how)}, "runs": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
