"""Names and expressions that stand for modules."""

from __future__ import annotations

import pytest

from tonnage.errors import ConfigError
from tonnage.quant._matching import expression


@pytest.mark.parametrize("pattern", ["(a|a)+b", "((a|a))*b", "(?:a*)*b", "(a?){40}b", "a*a*a*a*a*a*a*b"])
def test_an_expression_that_may_take_long_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match="unbounded time"):
        expression(pattern)


@pytest.mark.parametrize("pattern", [r"model\.layers\.(1[4-9]|2[0-9])\..*", r".*\.(q|v)_proj$", r"\(a\)+"])
def test_an_expression_of_a_config_is_read(pattern: str) -> None:
    assert expression(pattern).pattern == pattern
