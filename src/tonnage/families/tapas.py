"""TAPAS: BERT that also embeds where in its table a token stands (arXiv:2004.02349)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Stem, Table
from tonnage.arch.model import Model
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._encoder import attention, encoder, only_encoder, pooler, predictions, stem, unrun
from tonnage.keys import Keys

BASE: Final = "tapas"
TYPES: Final = (3, 256, 256, 2, 256, 256, 10)


def read(k: Keys) -> Model:
    """Build the model that ``TapasForMaskedLM`` builds."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 1024)
    only_encoder(k)
    # What its heads for questions do with the logits.
    k.skip("positive_label_weight", "num_aggregation_labels", "aggregation_loss_weight", "use_answer_as_supervision")
    k.skip("answer_loss_importance", "use_normalized_answer_loss", "huber_loss_delta", "aggregation_temperature")
    k.skip("use_gumbel_for_cells", "use_gumbel_for_aggregation", "average_approximation_function")
    k.skip("cell_selection_preference", "answer_loss_cutoff", "max_num_rows", "max_num_columns")
    k.skip("average_logits_per_cell", "select_one_column", "allow_empty_column_selection", "aggregation_labels")
    k.skip("init_cell_selection_weights_to_zero", "reset_position_index_per_cell", "disable_per_token_loss")
    k.skip("no_aggregation_label_index", "softmax_temperature")
    act, tied = k.want("hidden_act", "gelu"), k.want("tie_word_embeddings", True)
    return encoder(
        k,
        BASE,
        _stem(k, D, P),
        (unrun(k, D, "a model of tables", attention(k, D, N)),) * k.need("num_hidden_layers"),
        predictions(BASE, D, k.need("vocab_size"), act, tied=tied),
        positions=P,
        pooler=pooler(BASE, D),
    )


def _stem(k: Keys, D: int, P: int) -> Stem:
    """BERT's, with a table for each kind of token type, and no buffers."""
    sizes = k.optional("type_vocab_sizes", list, list(TYPES)) or []
    if not sizes or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sizes):
        raise ConfigError(
            f"type_vocab_sizes = {sizes} are not sizes of tables", key="type_vocab_sizes", value=sizes, file=k.file
        )
    types = tuple(
        Table(name=f"{BASE}.embeddings.token_type_embeddings_{index}", rows=rows, width=D)
        for index, rows in enumerate(sizes)
    )
    return stem(k, BASE, D, P=P, types=None, extra=types).but(buffers=())


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/tapas/modeling_tapas.py",
)
