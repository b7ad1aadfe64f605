"""Validation of run lengths: pycocotools' own are valid, those that it would read beyond its memory are not."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from htc_tf.ops.rle_decoding import decode_counts, is_valid_rle


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
