"""Label Studio's brush encoding: known bytes, random masks, and streams from strangers."""

import numpy as np
import pytest

from pipelines.checks import Rejected
from pipelines.importers import brush
from tests.pipelines.importers.brush_encoding import bits, encode


def pack(*parts):
    text = "".join(parts)
    text += "0" * (-len(text) % 8)
    return [int(text[place : place + 8], 2) for place in range(0, len(text), 8)]


HEADER = (bits(7, 5), *(bits(length - 1, 4) for length in (3, 4, 8, 16)))


def test_a_stream_by_hand():
    # One row of three pixels: the first outside, of 4 zeros; then 4 values one by one, whose alpha is 9; then 4 zeros
    # but for red.
    stream = pack(
        bits(12, 32),
        *HEADER,
        *("1", bits(0, 2), bits(3, 3), bits(0, 8)),
        *("0", bits(1, 2), bits(4, 4), bits(0, 8), bits(0, 8), bits(0, 8), bits(9, 8), bits(200, 8)),
        *("1", bits(3, 2), bits(2, 16), bits(0, 8)),
    )
    np.testing.assert_array_equal(brush.decode(stream, 1, 3), [[0, 1, 0]])


@pytest.mark.parametrize("literal", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("value_bits", "value"), [(8, 255), (8, 1), (1, 1), (32, 2**32 - 1)])
@pytest.mark.parametrize("lengths", [(3, 4, 8, 16), (1, 1, 1, 1), (16, 2, 5, 7)])
def test_random_masks(literal, value_bits, value, lengths):
    rng = np.random.default_rng([value_bits, *lengths])
    for seed in range(3):
        height, width = rng.integers(1, 12, 2)
        mask = rng.integers(0, 2, (height, width)).astype(np.uint8)
        mask[: height // 2] = mask[0, 0]  # long runs too
        stream = encode(mask, value, value_bits, lengths, literal, seed)
        np.testing.assert_array_equal(brush.decode(stream, int(height), int(width)), mask)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (10**9, "not a list of integers"),
        ("abc", "not a list of integers"),
        ({"0": 1}, "not a list of integers"),
        ([1, 2.5], "not a list of integers"),
        ([256], "not a list of integers"),
        ([], "rle ends after 0 bytes"),
        (pack(bits(12, 32), *HEADER), "rle ends after 7 bytes"),
        (pack(bits(2**32 - 1, 32), *HEADER), "4,294,967,295 values"),
        (pack(bits(12, 32), *HEADER, "0", bits(3, 2), bits(11, 16)), "within a run"),
        (pack(bits(12, 32), *HEADER, "1", bits(3, 2), bits(12, 16), bits(1, 8)), "a run of rle ends at value 13 of 12"),
    ],
)
def test_a_bad_stream_is_rejected(stream, message):
    with pytest.raises(Rejected, match=message):
        brush.decode(stream, 1, 3)


def test_a_truncated_stream_is_rejected():
    stream = encode(np.ones((5, 7), np.uint8), literal=1.0)
    for end in range(len(stream)):
        with pytest.raises(Rejected):
            brush.decode(stream[:end], 5, 7)
