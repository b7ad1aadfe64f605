"""Mask targets and pasting: against mmdetection, against plain loops over samples, and on simple grids."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.ops import masks
from tests.modes import MODES


@pytest.fixture(params=MODES)
def compiled(request):
    return MODES[request.param]


def roi_align(mask, start, end, size):
    """Computes RoIAlign of one mask as mmcv's loops do. start, end: (y, x) in cells, edges of the box."""
    bins = (np.asarray(end) - np.asarray(start)) / size
    count = np.ceil(bins).astype(int)
    out = np.zeros((size, size))
    if (count < 1).any():
        return out
    ys, xs = (start[axis] - 0.5 + bins[axis] * (np.arange(size * count[axis]) + 0.5) / count[axis] for axis in (0, 1))
    values = np.array([[bilinear(mask, y, x) for x in xs] for y in ys])
    return values.reshape(size, count[0], size, count[1]).mean(axis=(1, 3))


def bilinear(mask, y, x):
    if not (-1 <= y <= mask.shape[0] and -1 <= x <= mask.shape[1]):
        return 0.0
    y, x = np.clip(y, 0, mask.shape[0] - 1), np.clip(x, 0, mask.shape[1] - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, mask.shape[0] - 1), min(left + 1, mask.shape[1] - 1)
    upper = mask[top, left] * (left + 1 - x) + mask[top, right] * (x - left)
    lower = mask[bottom, left] * (left + 1 - x) + mask[bottom, right] * (x - left)
    return upper * (top + 1 - y) + lower * (y - top)


def blobs(*shape, seed=0):
    """Returns the coverage of smooth shapes, [..., h, w] uint8."""
    height, width = shape[-2:]
    waves = np.random.RandomState(seed).uniform(-3, 3, (4, *shape[:-2], 1, 1))
    y, x = np.linspace(0, 2, height)[:, None], np.linspace(0, 2, width)
    value = np.sin(waves[0] + waves[1] * y + 2 * x) + np.cos(waves[2] + waves[3] * x - 3 * y)
    return np.uint8(np.clip(128 + 200 * value, 0, 255))


def test_targets_equal_mmdetection(reference, compiled, compare):
    arrays = reference("op_mask_target")
    height, width = arrays["shape"]
    bitmaps = 255 * np.unpackbits(arrays["gt_masks"], axis=-1)[None, ..., :width]
    crop_boxes = np.tile(np.float32([0, 0, height, width]), (1, len(bitmaps[0]), 1))
    boxes, matches = arrays["rois"][None][..., [1, 0, 3, 2]], arrays["inds"][None].astype(np.int32)
    targets = compiled(masks.mask_targets)(*map(tf.constant, (bitmaps, crop_boxes, boxes, matches)))
    compare("mask targets", targets[0], np.unpackbits(arrays["target"], axis=-1)[..., :28])
    assert 0.2 < targets.numpy().mean() < 0.8


def test_target_of_the_crop_box_itself_is_the_mask(compiled):
    mask = np.random.RandomState(0).randint(0, 2, (2, 3, 28, 28), np.uint8)
    crop_boxes = np.float32([[[5, 7, 33, 35], [100, 20, 156, 76], [0, 0, 7, 14]]] * 2)
    matches = np.int32([[2, 0, 1, 0], [1, 1, 0, 2]])
    boxes = np.take_along_axis(crop_boxes, matches[..., None], axis=1)
    targets = compiled(masks.mask_targets)(*map(tf.constant, (255 * mask, crop_boxes, boxes, matches)))
    assert targets.dtype == tf.float32
    np.testing.assert_array_equal(targets, np.take_along_axis(mask, matches[..., None, None], axis=1))


BOXES = np.float32(
    [
        [40, 60, 90, 160],  # the crop box
        [50, 80, 62, 101],  # a small part: fewer cells than bins
        [50.3, 80.2, 50.4, 80.3],  # inside one cell
        [30.5, 45.1, 97.3, 171.9],  # somewhat larger
        [38, -200, 93, 420],  # several samples a bin, most of them outside
        [-300, -500, 900, 1300],  # many samples a bin
        [80, 150, 99, 190],  # crosses the corner
        [200, 300, 220, 340],  # beside it
    ]
)


def test_targets_equal_plain_sampling(compiled):
    mask = blobs(18, 31)
    crop_box, count = np.float32([40, 60, 90, 160]), len(BOXES)
    coverage, crop_boxes = np.broadcast_to(mask, (1, 1, 18, 31)), crop_box[None, None]
    targets = compiled(lambda *x: masks.mask_targets(*x, size=6))(
        *map(tf.constant, (coverage, crop_boxes, BOXES[None], np.zeros((1, count), np.int32)))
    )
    scale = np.array([18, 31]) / (crop_box[2:] - crop_box[:2])
    pooled = [roi_align(mask / 255, (b[:2] - crop_box[:2]) * scale, (b[2:] - crop_box[:2]) * scale, 6) for b in BOXES]
    sure = np.abs(np.array(pooled) - 0.5) > 1e-4
    assert sure.mean() > 0.98
    np.testing.assert_array_equal(targets[0].numpy()[sure], (np.array(pooled) >= 0.5)[sure])
    assert {0.0, 1.0} == set(np.unique(targets[0, :2]))


def test_bins_average_every_cell_of_a_large_box():
    """The weights themselves, before the threshold: 40 cells in 4 bins of 10 samples each; they sum to 1."""
    weights = masks._pooling_weights(tf.constant([[[3.0, 83.0]]]), tf.constant([[[3.0, 83.0]]]), 40, 4)
    np.testing.assert_allclose(weights[0, 0], np.kron(np.eye(4), np.full((1, 10), 0.1)), atol=1e-6)


def test_crop_and_bitmap_give_the_same_targets():
    """The two equivalent forms of a ground-truth mask (`structures.GroundTruth`)."""
    bitmap = np.zeros((80, 120), np.uint8)
    bitmap[31:59, 42:88] = blobs(28, 46, seed=4)
    whole, crop = np.float32([0, 0, 80, 120]), np.float32([30, 40, 60, 90])
    random = np.random.RandomState(5)
    first = random.uniform(10, 50, (1, 20, 2))
    boxes = tf.constant(np.concatenate([first, first + random.uniform(3, 60, (1, 20, 2))], axis=-1), tf.float32)
    matches = tf.zeros([1, 20], tf.int32)
    by_bitmap = masks.mask_targets(bitmap[None, None], whole[None, None], boxes, matches)
    by_crop = masks.mask_targets(bitmap[None, None, 30:60, 40:90], crop[None, None], boxes, matches)
    assert 0.05 < by_crop.numpy().mean() < 0.9
    assert np.mean(by_bitmap != by_crop) < 1e-3  # rounding at the threshold


def test_targets_of_padding_are_zero(compiled):
    full = np.full((1, 3, 7, 7), 255, np.uint8)
    crop_boxes = np.float32([[[0, 0, 0, 0], [9, 9, 5, 5], [5, 5, 5, 50]]])
    boxes = np.repeat(np.float32([[[0, 0, 0, 0], [10, 10, 50, 50], [-1e4, -1e4, 1e4, 1e4]]]), 3, axis=1)
    matches = np.tile(np.int32([[0, 1, 2]]), 3)
    targets = compiled(masks.mask_targets)(*map(tf.constant, (full, crop_boxes, boxes, matches)))
    np.testing.assert_array_equal(targets, np.zeros((1, 9, 28, 28)))


def test_targets_of_empty_boxes_are_zero(compiled):
    full, crop_box = np.full((1, 1, 7, 7), 255, np.uint8), np.float32([[[0, 0, 70, 70]]])
    boxes = np.float32([[[9, 9, 9, 9], [9, 9, 9, 30], [30, 30, 9, 9], [9, 9, 30, 30]]])
    targets = compiled(masks.mask_targets)(*map(tf.constant, (full, crop_box, boxes, np.zeros((1, 4), np.int32))))
    np.testing.assert_array_equal(tf.reduce_mean(targets, [2, 3]), [[0, 0, 0, 1]])


def test_paste_equals_mmdetection(reference, compiled, compare):
    arrays = reference("op_mask_paste")
    height, width = map(int, arrays["img_shape"])
    pasted = compiled(lambda *x: masks.paste(*x, height, width))(arrays["masks"], arrays["boxes"][:, [1, 0, 3, 2]])
    expected = np.unpackbits(arrays["binary"], axis=-1)[..., :width].astype(bool)
    assert expected.any(axis=(1, 2)).sum() > 10
    compare("pasted masks", pasted, expected)


def test_paste_at_its_own_size_is_the_mask(compiled):
    mask = np.random.RandomState(0).uniform(size=(2, 28, 28)).astype(np.float32)
    boxes = tf.constant([[2.0, 3.0, 30.0, 31.0], [-8.0, 30.0, 20.0, 58.0]])
    pasted = compiled(lambda *x: masks.paste(*x, 40, 50))(mask, boxes)
    expected = np.zeros((2, 40, 50), bool)
    expected[0, 2:30, 3:31] = mask[0] >= 0.5
    expected[1, :20, 30:] = mask[1, 8:, :20] >= 0.5
    assert pasted.dtype == tf.bool
    np.testing.assert_array_equal(pasted, expected)


def test_paste_interpolates_between_cells():
    mask = tf.constant([[[1.0, 0.0]]])
    # Cell centers are at x = 2 and 6; between them the probability falls by 1 / 4 per pixel.
    pasted = masks.paste(mask, tf.constant([[0.0, 0.0, 1.0, 8.0]]), 1, 8, threshold=0.6)
    np.testing.assert_array_equal(pasted[0, 0], [True, True, True, True, False, False, False, False])
    pasted = masks.paste(mask, tf.constant([[0.0, 0.0, 1.0, 8.0]]), 1, 8, threshold=0.7)
    np.testing.assert_array_equal(pasted[0, 0], [False, True, True, False, False, False, False, False])


def test_paste_of_empty_and_outside_boxes_is_empty(compiled):
    boxes = tf.constant([[5.0, 5, 5, 5], [5, 5, 5, 20], [20, 20, 5, 5], [5.5, 5.5, 5.5, 5.5], [50, 50, 80, 80]])
    pasted = compiled(lambda *x: masks.paste(*x, 30, 40))(tf.ones([5, 28, 28]), boxes)
    assert not np.any(pasted)


def test_paste_size_may_be_a_tensor():
    arguments = tf.ones([1, 28, 28]), tf.constant([[10.0, 10.0, 20.0, 30.0]])
    pasted = tf.function(masks.paste, autograph=False)(*arguments, tf.constant(30), tf.constant(40))
    np.testing.assert_array_equal(pasted, masks.paste(*arguments, 30, 40))
    assert pasted.shape == (1, 30, 40)
    assert tf.function(masks.paste, autograph=False)(tf.ones([0, 28, 28]), tf.ones([0, 4]), 30, 40).shape == (0, 30, 40)


def test_select_class(compiled):
    logits = tf.constant(np.random.RandomState(0).normal(size=(2, 3, 4, 5, 7)), tf.float32)
    classes = np.int32([[0, 6, 3], [2, 2, 5]])
    chosen = compiled(masks.select_class)(logits, tf.constant(classes))
    for at in np.ndindex(2, 3):
        np.testing.assert_array_equal(chosen[at], logits[at][..., classes[at]])
    np.testing.assert_array_equal(compiled(masks.select_class)(logits[0], tf.constant(classes[0])), chosen[0])


def test_select_class_has_a_gradient_for_the_selected_class_only(compiled):
    logits = tf.random.stateless_normal([2, 3, 4, 4, 5], seed=[1, 2])
    classes = tf.constant([[0, 4, 3], [2, 2, 1]])

    def gradient(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = tf.reduce_sum(masks.select_class(logits, classes))
        return tape.gradient(loss, logits)

    expected = np.broadcast_to(tf.one_hot(classes, 5)[:, :, None, None], logits.shape)
    np.testing.assert_array_equal(compiled(gradient)(logits), expected)
