"""What a training checkpoint takes on disk: weights, optimizer state and master copies, as common stacks write them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tonnage import quant
from tonnage.evidence import ASSUMED, DERIVED, EXACT
from tonnage.formats import FORMATS
from tonnage.memory.adapters import targeted
from tonnage.memory.store.storing import ARCHIVE, SAFETENSORS, Kept, archive_bytes, header_bytes
from tonnage.memory.store.ways import Subject, Way, line, subject
from tonnage.timeline import Component

TRAINER: Final = (
    "https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/trainer.py _save_checkpoint, "
    "_save_optimizer_and_scheduler"
)
ZERO: Final = (
    "https://github.com/deepspeedai/DeepSpeed deepspeed/runtime/engine.py _save_checkpoint, _save_zero_checkpoint; "
    "docs: zero_to_fp32.py"
)
SHARDED: Final = (
    "https://github.com/pytorch/pytorch/blob/v2.13.0/torch/distributed/checkpoint/filesystem.py; accelerate v1.15.0 "
    "utils/fsdp_utils.py save_fsdp_model, save_fsdp_optimizer"
)
MEGATRON: Final = (
    "https://github.com/NVIDIA/Megatron-LM megatron/core/optimizer/distrib_optimizer.py sharded_param_state_*; "
    "--ckpt-format torch_dist"
)
PEFT: Final = "https://github.com/huggingface/peft/blob/v0.21.2/src/peft/utils/save_and_load.py"
RANK: Final = 16
"""Of the LoRA that stands for all: its sizes grow with the rank."""
PICKLED: Final = (60, 76, 190)
"""Bytes of ``data.pkl`` a tensor: low and usual for an optimizer, whose keys are numbers; high for long names.
torch 2.13: 71 to 83 for AdamW's and SGD's state, 184 for a state dict of a Llama."""
SMALL: Final = (14_000, 22_000, 2_000_000)
"""rng_state.pth (14,349 B measured on a host without a GPU), scheduler.pt (1,401 B), training_args.bin and
trainer_state.json, which grows with every logged step."""
PLACED: Final = (0.0, 0.0005, 0.002)
"""Shares that padding to equal shards and metadata of sharded checkpoints add."""


def ways(s: Subject) -> Iterator[Way]:
    """One way for each stack and setting, in the order of how common they are."""
    single, half = (s if s.form.name == name else subject(s.model, FORMATS[name]) for name in ("fp32", "bf16"))
    yield _trainer(half, "bf16", "Trainer, pure bf16: moments in bf16")
    yield _trainer(single, "fp32", "Trainer, fp32 or mixed precision over fp32 weights")
    yield _parts("zero-1 or zero-2", "DeepSpeed, bf16 with fp32 master weights, all ranks together", half, single, ZERO)
    yield _zero_three(half, single)
    yield _sharded("fsdp, fp32", "FSDP or torchtitan: torch.distributed.checkpoint of fp32 weights", single)
    yield _sharded("fsdp, bf16", "FSDP over bf16 weights: moments in bf16", half)
    yield _parts("megatron", "Megatron distributed optimizer, all ranks together", half, single, MEGATRON)
    yield _lora(s)
    yield _weights_only(half)


def adapter(s: Subject, rank: int = RANK) -> list[Kept]:
    """The tensors of a LoRA on all linear modules, in the order and under the names that peft writes: always fp32.

    https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/tuners_utils.py, ``cast_adapter_dtype``.
    """
    out = []
    for _, m in targeted(s.model, quant.entries(s.model, by_layer=True), ("all-linear",)):
        name = f"base_model.model.{m.module}.lora_"
        out.append(Kept(f"{name}A.weight", (rank, m.columns), "fp32", 4 * rank * m.columns))
        out.append(Kept(f"{name}B.weight", (m.rows, rank), "fp32", 4 * rank * m.rows))
    return out


def _lora(s: Subject) -> Way:
    tensors = adapter(s)
    size = header_bytes(tensors) + sum(t.nbytes for t in tensors)
    low, usual, high = (optimizer_bytes(tensors, n) for n in PICKLED)
    why = f"two matrices of rank {RANK} for each linear module, in fp32; the base model is not saved"
    return Way(
        "trainer, lora",
        f"Trainer with peft: a LoRA of rank {RANK} on all linear modules",
        (
            line("disk", "weights", size, f"adapter_model.safetensors: {why}", PEFT, trust=EXACT),
            line("disk", "optimizer_state", usual, f"optimizer.pt: AdamW's moments of {len(tensors):,} tensors in fp32",
                 ARCHIVE, low=low, high=high),
            line("disk", "other:small", SMALL[1], "scheduler, random states, arguments and the trainer's log", TRAINER,
                 trust=ASSUMED, low=SMALL[0], high=SMALL[2]),
        ),
    )  # fmt: skip


def parameters(s: Subject) -> list[Kept]:
    """The tensors that an optimizer holds state for: no buffers."""
    buffers = {t.name for t in s.model.tensors() if t.role == "buffer"}
    return [t for t in s.tensors if t.name not in buffers]


def optimizer_bytes(tensors: list[Kept], pickled: int = PICKLED[1]) -> int:
    """Bytes of ``optimizer.pt`` for AdamW: a counter in fp32 and two moments for each parameter. [byte]"""
    sizes = [n for t in tensors for n in (4, t.nbytes, t.nbytes)]
    return archive_bytes(sizes, pickled * len(sizes), "optimizer")


def _weights(s: Subject, why: str) -> Component:
    return line("disk", "weights", s.disk, why, SAFETENSORS, trust=EXACT if len(s.files) == 1 else DERIVED)


def _trainer(s: Subject, form: str, what: str) -> Way:
    tensors = parameters(s)
    low, usual, high = (optimizer_bytes(tensors, n) for n in PICKLED)
    kept = sum(t.nbytes for t in tensors)
    why = f"2 moments x {kept:,} B, {len(tensors):,} counters and the archive around them"
    return Way(
        f"trainer, {form}",
        what,
        (
            _weights(s, f"model.safetensors in {form}"),
            line("disk", "optimizer_state", usual, f"optimizer.pt: {why}", ARCHIVE, low=low, high=high),
            line("disk", "other:small", SMALL[1], "scheduler, random states, arguments and the trainer's log", TRAINER,
                 trust=ASSUMED, low=SMALL[0], high=SMALL[2]),
            line("host", "other:saving", s.largest, "torch.save copies one storage after the other to the host",
                 ARCHIVE, low=0),
        ),
    )  # fmt: skip


def _spread(name: str, size: int, why: str, reference: str) -> Component:
    low, usual, high = (round(size * (1 + share)) for share in PLACED)
    return line("disk", name, usual, why, reference, low=low, high=high)


def _parts(name: str, what: str, half: Subject, single: Subject, reference: str) -> Way:
    moments, master = 2 * single.data, single.data
    return Way(
        name,
        what,
        (
            _spread("weights", half.data, "bf16 weights", reference),
            _spread("master_weights", master, "an fp32 copy of every parameter", reference),
            _spread("optimizer_state", moments, "AdamW's two moments in fp32", reference),
        ),
    )


def _zero_three(half: Subject, single: Subject) -> Way:
    gathered = "; with stage3_gather_16bit_weights_on_model_save the 16-bit weights too"
    return Way(
        "zero-3",
        "DeepSpeed ZeRO-3, all ranks together",
        (
            _spread("master_weights", single.data, "fp32 partitions; the 16-bit weights follow from them", ZERO),
            _spread("optimizer_state", 2 * single.data, "AdamW's two moments in fp32", ZERO),
            line("disk", "weights", 0, f"no 16-bit weights{gathered}", ZERO, high=half.data),
        ),
    )


def _sharded(name: str, what: str, s: Subject) -> Way:
    return Way(
        name,
        what,
        (
            _spread("weights", s.data, f"weights in {s.form.name}", SHARDED),
            _spread("optimizer_state", 2 * s.data, f"AdamW's two moments in {s.form.name}", SHARDED),
        ),
    )


def _weights_only(s: Subject) -> Way:
    return Way("weights only", "save_only_model, or the end of a run", (_weights(s, "model.safetensors in bf16"),))
