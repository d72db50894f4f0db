"""Several texts in one row, whose positions begin anew: sample packing, and batches without padding.

Mostly no mask comes with them. What masks itself finds them in the positions, and hides texts from each other;
flash-attn's kernels are told where each begins, by the batch, or by every layer anew.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/masking_utils.py
(``find_packed_sequence_indices``), modeling_flash_attention_utils.py (``_is_packed_sequence``,
``prepare_fa_kwargs_from_position_ids``) and data/data_collator.py (``DataCollatorWithFlattening``);
https://github.com/huggingface/trl/blob/v1.16.0/trl/trainer/sft_trainer.py (``DataCollatorForLanguageModeling``);
https://github.com/hiyouga/LLaMA-Factory/blob/v0.9.5/src/llamafactory/data/collator.py (``prepare_4d_attention_mask``);
https://github.com/Dao-AILab/flash-attention/blob/v2.8.3/flash_attn/flash_attn_interface.py (``FlashAttnVarlenFunc``)

Leaves out: what finds texts for a moment, up to 41 B a token and, where a mask is made, two masks more; where layers
look for texts themselves, the length of the longest, which each function of flash-attn holds as long as the loss is
there: 4 B.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tonnage.arch.tape import Value
from tonnage.record import Record
from tonnage.tensors import Axes

if TYPE_CHECKING:
    from tonnage.arch.forward import Forward


class Texts(Record):
    """The texts of a pass.

    Args:
        count: how many.
        told: the batch tells where each begins, and which one a token is of; else every layer looks for it.
        form: of the mask that the batch brings, numbers for every pair of tokens in a row; None where it brings none.
        viewed: queries, keys and values are taken as they lie.
    """

    count: int
    told: bool = False
    form: str | None = None
    viewed: bool = False

    def enter(self, f: Forward, rows: Axes, windows: Iterable[int | None]) -> list[Value]:
        """What the batch brings beside token ids, put where the pass finds it: positions; where it tells them, the
        bounds of texts; a mask, which all layers share whatever their window is.

        Bounds of queries and of keys are one tensor, which is moved to the device twice.
        """
        tape, (B, T) = f.tape, rows
        f.given = tape.new("position ids", rows, "int64")
        found = [f.given]
        if self.told:
            found += [tape.new("bounds of texts", self.bounds, "int32") for _ in range(2)]
            f.bounds = found[1]
            found.append(tape.new("texts of tokens", rows, "int32"))
        if self.form is not None:
            mask = tape.new("attention mask", (B, ("X", 1), T, ("S", T[1])), self.form)
            f.masks |= dict.fromkeys(windows, mask)
            found.append(mask)
        return found

    @property
    def bounds(self) -> Axes:
        """Where each text begins, and where the last one ends."""
        return (("X", self.count + 1),)

    def found(self, rows: int) -> bool:
        """Whether positions begin anew within a row: else a mask is made as for one text."""
        return self.count > rows

    def separate(self, rows: int) -> bool:
        """Whether flash-attn's kernels are told of texts: in a batch of one row alone."""
        return rows == 1 and (self.told or self.found(rows))
