"""Values of annotation files in messages: short lists in full, long numbers rounded, all else by its kind."""

import pytest

from pipelines.checks import show


@pytest.mark.parametrize(
    "value, text",
    [
        ([1, 2.5, "3", None], '[1, 2.5, "3", null]'),
        ([115.19999999999999, 86.4, 6.4, 4.8], "[115.19999999999999, 86.4, 6.4, 4.8]"),  # short enough as it is
        ([115.1999999999999, 86.4000000000001, 6.4000000000001, 4.80000000000001], "[115.2, 86.4, 6.4, 4.8]"),
        ([-1.2345678901234567e300, float("nan"), 123456789, 1 / 3], "[-1.23457e+300, NaN, 123456789, 0.333333]"),
        ([0.1234567891] * 8, "a list of 8"),
        ([[1, 2]], "a list of 1"),
        (["x" * 60], "a list of 1"),
        ([], "[]"),
    ],
)
def test_lists(value, text):
    assert show(value) == text
