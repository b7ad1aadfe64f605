"""A crop cuts image, labels, boxes and masks at the same edge; jitter draws scale and place by the sample's seed."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.data import ground_truth, large_scale_jitter
from htc_tf.data.sample import IGNORED_LABEL


def make_sample():
    """A 6 x 8 image with an upright bar in columns 1 and 2 and a square in rows 3 and 4, columns 5 and 6."""
    image = np.zeros((6, 8, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(6)[:, None], np.arange(8)
    labels = np.full((6, 8), IGNORED_LABEL, np.uint8)
    labels[0:6, 1:3], labels[3:5, 5:7] = 1, 2
    image[..., 2] = labels
    masks = np.zeros((2, 8, 8), np.uint8)
    masks[0, 1:7, 3:5], masks[1, 2:4, 2:4] = 255, 255
    return {
        "image": tf.constant(image),
        "semantic": tf.constant(labels),
        "boxes": tf.constant([[0.0, 1, 6, 3], [3, 5, 5, 7]]),
        "classes": tf.constant([1, 2]),
        "masks": tf.constant(masks),
        "crop_boxes": tf.constant([[-1.0, -2, 7, 6], [1, 3, 9, 11]]),  # cells of one pixel
        "image_id": tf.constant(1, tf.int64),
        "original_size": tf.constant([6, 8]),
        "min_side": 12,
        "max_side": 16,
        "canvas": (16, 16),
        "seed": tf.constant([3, 4], tf.int64),
    }


def test_crop():
    sample = make_sample()
    cut = large_scale_jitter.crop(sample, tf.constant([2, 2]), tf.constant([2, 5]))
    np.testing.assert_array_equal(cut["image"], sample["image"][2:4, 2:7])
    np.testing.assert_array_equal(cut["semantic"], [[1, 255, 255, 255, 255], [1, 255, 255, 2, 2]])
    np.testing.assert_array_equal(cut["boxes"], [[0, 0, 2, 1], [1, 3, 2, 5]])
    np.testing.assert_array_equal(cut["crop_boxes"], [[-3, -4, 5, 4], [-1, 1, 7, 9]])
    np.testing.assert_array_equal(cut["masks"], sample["masks"])
    np.testing.assert_array_equal(cut["classes"], [1, 2])


def test_crop_drops_what_is_not_seen():
    cut = large_scale_jitter.crop(make_sample(), tf.constant([0, 3]), tf.constant([6, 5]))
    np.testing.assert_array_equal(cut["classes"], [2])
    np.testing.assert_array_equal(cut["boxes"], [[3, 2, 5, 4]])
    assert cut["masks"].shape == (1, 8, 8)
    assert large_scale_jitter.crop(make_sample(), tf.constant([0, 3]), tf.constant([3, 5]))["boxes"].shape == (0, 4)


def test_large_scale_jitter():
    """At twice the size that fills the square: 4 times as large, a window of 4 x 4 pixels."""
    sample = make_sample()
    cut = large_scale_jitter.large_scale_jitter(sample, scales=(2.0, 2.0))
    assert cut["image"].shape == (4, 4, 3)
    top, left = cut["image"][0, 0, :2].numpy()
    np.testing.assert_array_equal(cut["image"], sample["image"][top : top + 4, left : left + 4])
    row = ground_truth.make_row(cut, (16, 16), max_objects=3, semantic_stride=8)
    np.testing.assert_array_equal(row.sizes, [16, 16])
    np.testing.assert_array_equal(row.original_sizes, [6, 8])
    expected = np.clip(np.float32([[0, 1, 6, 3], [3, 5, 5, 7]]) - np.tile([top, left], 2), 0, 4) * 4
    seen = np.all(expected[:, 2:] > expected[:, :2], axis=1)
    np.testing.assert_array_equal(row.truth.boxes[: seen.sum()], expected[seen])
    np.testing.assert_array_equal(row.truth.valid, np.arange(3) < seen.sum())


@pytest.mark.parametrize("canvas", [(16, 16), (40, 10)])
def test_what_is_left_fits_and_fills_the_canvas(canvas):
    @tf.function(autograph=False)
    def shift(seed):
        cut = large_scale_jitter.large_scale_jitter({**make_sample(), "canvas": canvas, "seed": seed})
        return cut["image"], cut["semantic"], ground_truth.make_row(cut, canvas, max_objects=3, semantic_stride=2)

    scales, corners = [], set()
    for number in range(40):
        image, labels, row = shift(tf.constant([number, 0], tf.int64))
        sizes, boxes = row.sizes.numpy(), row.truth.boxes.numpy()[row.truth.valid.numpy()]
        assert (sizes <= canvas).all() and (sizes >= 1).all()
        assert np.all(boxes[:, 2:] > boxes[:, :2]) and np.all(boxes[:, 2:] <= sizes) and np.all(boxes >= 0)
        np.testing.assert_array_equal(image[..., 2], labels)
        scales.append(sizes[0] / len(image) / min(canvas[0] / 6, canvas[1] / 8))
        corners.add(tuple(image[0, 0, :2].numpy()))
    assert min(scales) < 0.5 and max(scales) > 1.6 and len(corners) > 3
