"""Copy-paste copies pixels, labels and masks to the same position, and cuts or drops what they occlude."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.data.copy_paste import copy_paste
from htc_tf.structures import Batch, GroundTruth

SIDE, CELLS, OBJECTS = 16, 8, 4


def make_row(image_id, level, size, objects):
    """Returns a row: a gray image with rectangles [y1, x1, y2, x2] at even pixels, masks with cells of 2 x 2 pixels."""
    image, labels = np.zeros((SIDE, SIDE, 3), np.uint8), np.full((SIDE, SIDE), 255)
    image[: size[0], : size[1]] = level
    masks, crop_boxes = np.zeros((OBJECTS, CELLS, CELLS), np.uint8), np.zeros((OBJECTS, 4), np.float32)
    boxes = np.zeros((OBJECTS, 4), np.float32)
    for index, (y1, x1, y2, x2) in enumerate(objects):
        image[y1:y2, x1:x2] = level + 1 + index
        labels[y1:y2, x1:x2] = image_id
        crop_boxes[index], boxes[index] = (0, 0, SIDE, SIDE), (y1, x1, y2, x2)  # cells of 2 x 2 pixels
        masks[index, y1 // 2 : y2 // 2, x1 // 2 : x2 // 2] = 255
    truth = GroundTruth(
        boxes=tf.constant(boxes),
        classes=tf.range(OBJECTS) + 10 * image_id,
        valid=tf.range(OBJECTS) < len(objects),
        masks=tf.constant(masks),
        crop_boxes=tf.constant(crop_boxes),
        semantic=tf.constant(labels[::4, ::4], tf.int32),
    )
    size = tf.constant(size)
    return Batch(tf.constant(image), tf.cast(size, tf.float32), size, tf.constant(image_id, tf.int64), truth)


SEED = tf.constant([1, 2], tf.int64)


@pytest.fixture
def ours():
    """Two objects side by side."""
    return make_row(1, 10, (16, 14), [(4, 0, 12, 6), (4, 8, 12, 12)])


def test_golden(ours):
    theirs = make_row(2, 100, (12, 16), [(0, 4, 8, 10)])
    row = copy_paste(ours, theirs, SEED, probability=1.0)
    expected = ours.images.numpy().copy()
    expected[0:8, 4:10] = 101
    np.testing.assert_array_equal(row.images, expected)
    np.testing.assert_array_equal(row.truth.valid, [True, True, True, False])
    np.testing.assert_array_equal(row.truth.classes, [10, 11, 20, 0])
    # Our first object keeps an L of the same extent; the second loses only the right part of its upper half.
    np.testing.assert_array_equal(row.truth.boxes, [[4, 0, 12, 6], [4, 8, 12, 12], [0, 4, 8, 10], [0, 0, 0, 0]])
    left = ours.truth.masks.numpy().copy()
    left[0, 2:4, 2:3] = left[1, 2:4, 4:5] = 0
    np.testing.assert_array_equal(row.truth.masks[:2], left[:2])
    np.testing.assert_array_equal(row.truth.masks[2], theirs.truth.masks[0])
    labels = ours.truth.semantic.numpy().copy()
    labels[0:2, 1:3] = 2
    np.testing.assert_array_equal(row.truth.semantic, labels)
    for field in ("sizes", "original_sizes", "image_ids"):
        np.testing.assert_array_equal(getattr(row, field), getattr(ours, field))


def test_what_a_crop_cut_off_is_not_pasted(ours):
    """The source image ends at column 8, inside its object, but the object's mask and our image extend beyond it."""
    theirs = make_row(2, 100, (16, 8), [(0, 4, 8, 12)])
    row = copy_paste(ours, theirs, SEED, probability=1.0)
    np.testing.assert_array_equal(row.truth.boxes[2], [0, 4, 8, 8])
    expected = theirs.truth.masks[0].numpy()
    expected[:, 4:] = 0
    np.testing.assert_array_equal(row.truth.masks[2], expected)
    assert row.images[0, 7, 0] == 101 and row.images[0, 8, 0] == ours.images[0, 8, 0]


def test_boxes_are_tight_around_the_rest(ours):
    row = copy_paste(ours, make_row(2, 100, (16, 16), [(8, 0, 16, 16)]), SEED, probability=1.0)
    # Pasting ends at the edge of our image, column 14.
    np.testing.assert_array_equal(row.truth.boxes[:3], [[4, 0, 8, 6], [4, 8, 8, 12], [8, 0, 16, 14]])
    assert np.all(row.images.numpy()[:, 14:] == 0) and np.all(row.images.numpy()[8:, :14] == 101)


def test_fully_occluded_objects_are_dropped(ours):
    row = copy_paste(ours, make_row(2, 100, (16, 16), [(2, 0, 14, 8)]), SEED, probability=1.0)
    np.testing.assert_array_equal(row.truth.valid, [True, True, False, False])
    np.testing.assert_array_equal(row.truth.classes[:2], [11, 20])
    np.testing.assert_array_equal(row.truth.boxes[:2], [[4, 8, 12, 12], [2, 0, 14, 8]])


def test_at_most_max_objects_are_kept(ours):
    theirs = make_row(2, 100, (16, 16), [(0, 0, 2, 2), (0, 4, 2, 6), (0, 8, 2, 10), (0, 10, 2, 12)])
    row = copy_paste(ours, theirs, SEED, probability=1.0)
    np.testing.assert_array_equal(row.truth.classes, [10, 11, 20, 21])
    assert row.truth.valid.numpy().all() and row.images[0, 8, 0] == 10 and row.images[0, 4, 0] == 102


def test_objects_beyond_the_image_or_without_a_mask_are_not_pasted(ours):
    theirs = make_row(2, 100, (16, 16), [(0, 14, 4, 16), (0, 0, 4, 4)])
    crop_boxes = theirs.truth.crop_boxes.numpy()
    crop_boxes[1] = 0
    theirs = theirs._replace(truth=theirs.truth._replace(crop_boxes=tf.constant(crop_boxes)))
    row = copy_paste(ours, theirs, SEED, probability=1.0)
    for one, other in zip(tf.nest.flatten(row), tf.nest.flatten(ours), strict=True):
        if one.dtype != tf.int32 or one.shape != (OBJECTS,):  # classes of padding are 0 now
            np.testing.assert_array_equal(one, other)


def test_objects_without_a_pixel_are_not_pasted(ours):
    """An object that is resized to less than half a pixel, and one that covers half of no cell."""
    theirs = make_row(2, 100, (16, 16), [(0, 0, 4, 4), (0, 4, 4, 8)])
    masks, crop_boxes = theirs.truth.masks.numpy(), theirs.truth.crop_boxes.numpy()
    crop_boxes[0] = (1.1, 1.1, 1.9, 1.9)
    masks[1] //= 4
    truth = theirs.truth._replace(masks=tf.constant(masks), crop_boxes=tf.constant(crop_boxes))
    row = copy_paste(ours, theirs._replace(truth=truth), SEED, probability=1.0)
    np.testing.assert_array_equal(row.truth.valid, ours.truth.valid)
    np.testing.assert_array_equal(row.images, ours.images)


def test_each_object_is_chosen_independently_by_the_seed(ours):
    theirs = make_row(2, 100, (16, 16), [(0, 0, 2, 2), (0, 4, 2, 6)])
    paste = tf.function(lambda seed: copy_paste(ours, theirs, seed, probability=0.5), autograph=False)
    rows = [paste(tf.constant([number, 7], tf.int64)) for number in range(30)]
    counts = [np.sum(row.truth.valid) - 2 for row in rows]
    assert set(counts) == {0, 1, 2} and 0.5 < np.mean(counts) < 1.5
    np.testing.assert_array_equal(paste(tf.constant([3, 7], tf.int64)).images, rows[3].images)
