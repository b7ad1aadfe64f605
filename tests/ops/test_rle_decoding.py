"""Validation of run lengths: pycocotools' own are valid, those that it would read beyond its memory are not."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from htc_tf.ops.rle_decoding import decode_counts, decode_edges, is_valid_rle


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 1])
def test_accepts_pycocotools_strings(share):
    rng = np.random.default_rng(0)
    for _ in range(20):
        height, width = (int(side) for side in rng.integers(1, 300, 2))
        bitmap = (rng.random((height, width)) < share).astype(np.uint8)
        counts = coco_mask.encode(np.asfortranarray(bitmap))["counts"]
        runs = decode_counts(counts)
        np.testing.assert_array_equal(np.repeat(np.arange(len(runs)) % 2, runs).reshape(width, height).T, bitmap)
        for form in (counts, counts.decode(), runs.tolist()):
            assert is_valid_rle({"size": [height, width], "counts": form}, height, width)
        assert not is_valid_rle({"size": [height, width], "counts": counts}, height, width + 1)


def test_edges_of_several_masks():
    bitmap = np.zeros((700, 900), np.uint8)
    bitmap[650:, 899] = 1  # a first run of more than 2 ** 19 pixels: four characters
    encoded = [coco_mask.encode(np.asfortranarray(mask))["counts"] for mask in (bitmap, bitmap[:, ::-1])]
    ends, starts = decode_edges(encoded, bitmap.size)
    np.testing.assert_array_equal(ends, [629950, 630000, 650, 700, 630000])
    np.testing.assert_array_equal(starts, [0, 2, 5])
    # Halves of a number at the end of a mask and at the start of the next one are not put together.
    for divided in ([encoded[0][:2], encoded[0][2:]], [encoded[0], encoded[1] + b"0"], [encoded[0], b"0"]):
        with pytest.raises(ValueError, match="of the image's 630000 pixels"):
            decode_edges(divided, bitmap.size)


@pytest.mark.parametrize(
    "counts",
    ["", "5", "5o", "05", "\x00", "é", "~~", b"\xff", "o" * 9 + "0", [50, 49], [50, -3, 53], [100.0], [[100]], 7, None],
)
def test_rejects_counts_that_do_not_fill_the_image(counts):
    assert not is_valid_rle({"size": [10, 10], "counts": counts}, 10, 10)


@pytest.mark.parametrize("mask", [None, [], "04", {}, {"size": 10}, {"size": ["10", "10"], "counts": [100]}])
def test_rejects_other_values(mask):
    assert not is_valid_rle(mask, 10, 10)
    assert not is_valid_rle({"size": [2**16, 2**16], "counts": [2**32]}, 2**16, 2**16)


def compress(number):
    """Returns a number in COCO's characters."""
    text = b""
    while True:
        bits, number = number & 31, number >> 5
        if number == (-1 if bits & 16 else 0):
            return text + bytes([48 + bits])
        text += bytes([80 + bits])


def test_sums_that_overflow_are_refused():
    """65,536 runs, each longer by the same than the one before: 2 ** 64 + 100 pixels, 100 in 64 bits."""
    count = 2**16
    step, rest = divmod(2**64, count * (count + 1) // 2)
    counts = compress(0) + (compress(step) + compress(0)) * (count - 1) + compress(step) + compress(rest + 100)
    assert decode_counts(counts).sum() == 100
    assert not is_valid_rle({"size": [10, 10], "counts": counts}, 10, 10)
    with pytest.raises(ValueError, match="of the image's 100 pixels"):
        decode_edges([counts], 100)
