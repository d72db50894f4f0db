"""Three introductory texts, figure by figure: "Memory requirement of a 1 B parameter model" (A), "Parameters and memory
requirements, a deep dive" (B) and "Calculating the memory of large AI models" (C).

Where a text contradicts its own formula, the formula is what is expected and the printed figure is an erratum.
"""

from __future__ import annotations

import inspect
import re

import pytest

from tonnage import api, rules
from tonnage.cli.options import plain
from tonnage.errors import InputError, UnsupportedError
from tonnage.units import GB, GiB

FUNCTIONS = {name: f for name in rules.__all__ if inspect.isfunction(f := getattr(rules, name))}
FORMULAS = {name: f for name, f in FUNCTIONS.items() if name not in ("rule", "dimensions")}


def value(row: str) -> float | None:
    return rules.RULES[row].value


# A: "Memory requirement of a 1 B parameter model"


def test_a_one_billion_parameters() -> None:
    assert value("A1") == 4 * GB
    assert value("A2") == 24 * GB == 6 * 4 * GB
    assert value("A3") == 4 * GB
    assert (value("A4"), value("A4b")) == (2 * GB, 1 * GB)


# B: "Parameters and memory requirements, a deep dive"


def test_b1_to_b5_the_worked_example() -> None:
    assert rules.embedding_parameters(50_000, 768) == 38_400_000
    assert rules.attention_parameters(768) == 2_359_296
    assert rules.feed_forward_parameters(768, 3072) == 4_722_432
    assert rules.norm_parameters(768) == 3_072
    assert rules.layer_parameters(768, 3072) == 7_084_800
    assert rules.stack_parameters(768, 3072, 12) == 85_017_600
    assert rules.total_parameters(50_000, 768, 3072, 12) == 123_417_600
    assert [value(f"B{i}") for i in range(1, 6)] == [38_400_000, 2_359_296, 4_722_432, 3_072, 123_417_600]


def test_b5_an_output_matrix_of_its_own_is_a_second_table() -> None:
    assert rules.total_parameters(50_000, 768, 3072, 12, output=True) == 123_417_600 + 38_400_000


def test_b3_b5_b6_printed_figures_hang_together_and_miss_the_formula() -> None:
    """The printed feed-forward has 1,024 elements of bias where the formula has 3,840; the totals follow from it."""
    layer = 2_359_296 + 4_719_616 + 3_072
    assert layer == 7_081_984
    assert 12 * layer + 38_400_000 == 123_383_808
    assert (4 * 123_383_808, 2 * 123_383_808) == (493_535_232, 246_767_616)
    assert rules.feed_forward_parameters(768, 3072) - 4_719_616 == 3_840 - 1_024


def test_b6_model_memory() -> None:
    assert (value("B6"), value("B6b")) == (493_670_400, 246_835_200)


def test_b7_working_memory() -> None:
    assert (value("B7"), value("B7b")) == (987_340_800, 1_974_681_600)
    assert (2 * 494, 4 * 494) == (988, 1_976)


def test_b8_steady_state_is_the_sum_of_its_parts() -> None:
    N, B, D = 123_417_600, 4, 512
    assert rules.steady_bytes(N, B, D) == 4 * N + 8 * N + 4 * N + 8 * B * D
    assert value("B8") == 16 * N + 8 * 1024


def test_b9_activations() -> None:
    L, B, S, H, V = 12, 2, 128, 768, 50_000
    E = B * S * H
    assert rules.activation_bytes(L, B, S, H, V) == L * (14 * E + 4 * B * S * S) + 6 * B * S * V
    assert value("B9") == 489_652_224


def test_b9_the_itemised_list_is_not_14() -> None:
    norm, attention, feed_forward = 4, 2 + 2, 2 + 8 + 2
    assert norm + attention + feed_forward == 20
    assert 2 * norm + attention + feed_forward == 24


def test_b10_peak() -> None:
    N, L, B, S, H, V = 123_417_600, 12, 1, 1024, 768, 50_000
    parts = rules.steady_bytes(N, B, S) + rules.activation_bytes(L, B, S, H, V) + 4 * B * S * V
    assert rules.peak_bytes(N, L, B, S, H, V) == parts == value("B10") == 2_669_142_016


def test_b11_cross_attention_needs_an_encoder() -> None:
    sizes = (50_000, 768, 3072)
    both = rules.encoder_decoder_parameters(*sizes, 6, 6)
    assert both - rules.total_parameters(*sizes, 12) == 6 * (2_359_296 + 2 * 768)
    assert rules.encoder_decoder_parameters(*sizes, 0, 12) == rules.total_parameters(*sizes, 12)
    assert rules.encoder_decoder_parameters(*sizes, 12, 0) == rules.total_parameters(*sizes, 12)


def test_b12_power_law() -> None:
    assert round(rules.parameters_ratio(1.1, 0.07), 1) == 3.9
    assert 1.9e14 < rules.parameters_ratio(10, 0.07) < 2.0e14


def test_b13_hypothetical_gpt_3() -> None:
    assert rules.layer_parameters(12_288, 4 * 12_288) == 1_812_049_920
    assert value("B13") == 173_956_792_320
    assert value("B13b") == 1_812_049_920


def test_b14_every_knob_has_an_effect() -> None:
    assert value("B14a") == 493_670_400 // 2
    assert rules.mixed_precision_saved_bytes(123_417_600, 8) == 493_670_400 * 3 // 4
    assert value("B14b") == 493_670_400 * 7 // 8
    E, scores = 1024 * 768, 1024 * 1024
    assert value("B14c") == 11 * (14 * E + 4 * scores) - 12 * 4 * E
    assert value("B14d") == 493_670_400 - 123_417_600 // 2
    assert value("B14e") == 4 * 6 * 7_084_800


def test_b14_a_share_is_padded() -> None:
    assert rules.parallel_saved_bytes(10, 4) == 40 - 12


def test_b15_no_count_is_invented() -> None:
    assert value("B15") is None
    with pytest.raises(UnsupportedError, match="not published"):
        rules.closed_model_parameters("a closed model")


# C: "Calculating the memory of large AI models"


def test_c1_parameters_times_bytes() -> None:
    assert value("C1") == 700 * GB
    assert f"{rules.memory_bytes(175 * 10**9, 4) / GiB:.2f}" == "651.93"


def test_c2_training_is_three_to_four_times_inference() -> None:
    assert rules.memory_bytes(10 * 10**9) == 40 * GB
    assert (value("C2"), value("C2b")) == (120 * GB, 160 * GB)


def test_c3_adam_is_twice_the_parameters() -> None:
    assert value("C3") == 2 * 40 * GB


def test_c4_activations_vary_with_batch_and_sequence() -> None:
    assert value("C4") == 2
    assert 2 < value("C4b") < 4


def test_c6_weights_of_each_device() -> None:
    assert value("C6") == 87.5 * GB


def test_c7_eight_bits_save_three_quarters() -> None:
    assert value("C7") == 0.75
    assert rules.saved_share(16, 8) == 0.5


def test_c9_hardware() -> None:
    assert [value(row) for row in ("C9", "C9b", "C9c")] == [40 * GB, 80 * GB, 32 * GB]
    with pytest.raises(InputError):
        rules.device_bytes("t4")


@pytest.mark.parametrize("row", ["C5", "C8", "C10", "C11"])
def test_qualitative_rows_say_where_it_is(row: str) -> None:
    assert value(row) is None
    assert rules.RULES[row].note


def test_c12_is_refused() -> None:
    assert value("C12") is None
    with pytest.raises(UnsupportedError, match="not modelled"):
        rules.neuromorphic_bytes("a brain")


# The registry


def test_every_row_is_there() -> None:
    rows = [f"{letter}{i}" for letter, last in (("A", 4), ("B", 15), ("C", 12)) for i in range(1, last + 1)]
    assert set(rows) <= set(rules.RULES)
    assert [row for row in rules.RULES if row in rows] == rows
    assert {f"B14{knob}" for knob in "abcde"} <= set(rules.RULES)


def test_rows_name_a_text_and_their_errata() -> None:
    for name, row in rules.RULES.items():
        assert row.id == name
        assert row.statement
        assert (row.value is None) == (not row.unit), name
        assert row.text == {"A": rules.rows.A, "B": rules.rows.B, "C": rules.rows.C}[name[0]]
    told = {name for name, row in rules.RULES.items() if row.erratum}
    assert told == {"B3", "B5", "B6", "B6b", "B7", "B7b", "B9", "B12", "B13", "B13b", "C1", "C9c"}


def test_an_unknown_row_is_refused() -> None:
    with pytest.raises(InputError):
        rules.rule("D1")


@pytest.mark.parametrize(("case", "parameters"), [("1 B", 10**9), ("10 B", 10**10), ("123 M", 123_456_000)])
def test_the_cases_of_the_texts_have_that_many_parameters(case: str, parameters: int) -> None:
    dimensions = rules.CASES[case]
    assert isinstance(dimensions, dict)
    assert api.load(plain(dimensions)).parameters.total == parameters


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_are_documented(name: str) -> None:
    doc = inspect.getdoc(FORMULAS[name]) or ""
    arguments = doc.partition("Args:")[2].partition("\n\n")[0]
    assert re.findall(r"^    (\w+):", arguments, re.M) == list(inspect.signature(FORMULAS[name]).parameters)
    assert len(re.findall(r"\[\w+\]$", arguments, re.M)) == len(inspect.signature(FORMULAS[name]).parameters)
    assert re.search(r"Returns:\n.*\[\w+\]", doc, re.S)
    assert ">>>" in doc
    assert "Leaves out:" in doc
    assert 'Reference: "' in doc


def test_every_formula_is_a_row() -> None:
    assert {row.function for row in rules.RULES.values() if row.function} == set(FORMULAS.values())


# For a model


def test_dimensions_of_a_real_model() -> None:
    found = rules.dimensions(api.load("gpt2"))
    assert found["parameters"] == 124_439_808
    assert (found["vocabulary"], found["width"], found["feed_forward"], found["layers"]) == (50_257, 768, 3072, 12)
    assert (found["output"], found["tokens"]) == (False, 1024)
    assert rules.RULES["B5"].of(found) == 12 * 7_084_800 + 50_257 * 768
