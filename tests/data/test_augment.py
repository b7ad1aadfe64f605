"""Augmentations change image, boxes, masks and semantic map alike, as a function of the sample's seed."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.data import augment
from htc_tf.data.sample import make_row
from htc_tf.errors import UserError
from htc_tf.structures import IGNORED_LABEL


@pytest.fixture
def sample():
    """One object, exactly the pixels that are not black: columns 1 and 2 of a 3 x 5 image."""
    image = np.zeros((3, 5, 3), np.uint8)
    image[1:, 1:3] = [[10, 20, 30], [40, 50, 60]]
    return {
        "image": tf.constant(image),
        "semantic": tf.constant(np.where(image[..., 0] > 0, 7, 255).astype(np.uint8)),
        "boxes": tf.constant([[1.0, 1.0, 3.0, 3.0]]),
        "classes": tf.constant([4]),
        "masks": tf.constant(np.uint8([[[0, 0, 0, 0], [0, 200, 255, 0], [0, 210, 220, 0], [0, 0, 0, 0]]])),
        "crop_boxes": tf.constant([[0.0, 0.5, 4.0, 3.5]]),
        "image_id": tf.constant(1, tf.int64),
        "original_size": tf.constant([3, 5]),
        "min_side": 100,
        "max_side": 200,
        "seed": tf.constant([3, 4], tf.int64),
    }


def seeded(sample, number):
    return {**sample, "seed": tf.constant([number, 0], tf.int64)}


def test_flip(sample):
    flipped = augment.flip(sample, probability=1.0)
    np.testing.assert_array_equal(flipped["image"][1, :, 0], [0, 0, 40, 10, 0])
    np.testing.assert_array_equal(flipped["semantic"], np.where(flipped["image"][..., 0] > 0, 7, 255))
    np.testing.assert_array_equal(flipped["boxes"], [[1, 2, 3, 4]])
    np.testing.assert_array_equal(flipped["crop_boxes"], [[0, 1.5, 4, 4.5]])
    np.testing.assert_array_equal(flipped["masks"][0, 1], [0, 255, 200, 0])
    twice = augment.flip(flipped, probability=1.0)
    for key in set(sample) - {"seed"}:
        np.testing.assert_array_equal(twice[key], sample[key])


def test_flip_without_objects(sample):
    sample |= {"boxes": tf.zeros([0, 4]), "crop_boxes": tf.zeros([0, 4]), "masks": tf.zeros([0, 4, 4], tf.uint8)}
    flipped = augment.flip(sample, probability=1.0)
    assert flipped["boxes"].shape == (0, 4) and flipped["masks"].shape == (0, 4, 4)


def test_flip_has_the_given_probability(sample):
    flip = tf.function(functools.partial(augment.flip, probability=0.3), autograph=False)
    moved = [flip(seeded(sample, number))["boxes"][0, 1] == 2 for number in range(300)]
    assert abs(np.mean(moved) - 0.3) < 0.08
    assert not any(augment.flip(seeded(sample, number), probability=0.0)["boxes"][0, 1] == 2 for number in range(5))


def test_multi_scale_draws_every_side(sample):
    sides = [int(augment.multi_scale(seeded(sample, n), (60, 80, 100))["min_side"]) for n in range(120)]
    counts = [sides.count(side) for side in (60, 80, 100)]
    assert sum(counts) == 120 and min(counts) > 20


@pytest.mark.parametrize("sides", [(), (0, 50), (80, 101)])
def test_multi_scale_refuses_sides_that_do_not_fit(sample, sides):
    with pytest.raises(UserError, match=r"multi_scale\.min_sides"):
        augment.multi_scale(sample, sides)


def test_scale_range_draws_every_side_of_it(sample):
    sides = [int(augment.scale_range(seeded(sample, n), 97, 100)["min_side"]) for n in range(120)]
    assert min(sides.count(side) for side in (97, 98, 99, 100)) > 15 and len(set(sides)) == 4


@pytest.mark.parametrize("bounds", [(0, 50), (50, 101), (60, 50)])
def test_scale_range_refuses_sides_that_do_not_fit(sample, bounds):
    with pytest.raises(UserError, match=r"scale_range\.lowest"):
        augment.scale_range(sample, *bounds)


def test_the_seed_decides_and_moves_on(sample):
    first, after = augment.draw(sample, 2)
    again, _ = augment.draw(sample, 2)
    following, _ = augment.draw(after, 2)
    np.testing.assert_array_equal(first, again)
    assert not np.any(first == following)
    # Philox's numbers for this seed: a run must resume identically on another machine.
    np.testing.assert_allclose(first, [0.13544238, 0.90046787], rtol=0, atol=1e-7)


def test_photometric_with_zero_amounts_changes_nothing(sample):
    same = augment.photometric(sample, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    np.testing.assert_array_equal(same["image"], sample["image"])


@pytest.mark.parametrize(
    "change, expected",
    [
        ((0.1, 1.0, 1.0, 0.0), [125.5, 75.5, 225.5]),  # + 25.5
        ((0.0, 1.5, 1.0, 0.0), [86.25, 11.25, 236.25]),  # 127.5 + 1.5 (x - 127.5)
        ((0.0, 1.0, 0.0, 0.0), [82.05, 82.05, 82.05]),  # the gray 0.299 r + 0.587 g + 0.114 b
        ((0.0, 1.0, 0.5, 0.0), [91.025, 66.025, 141.025]),  # half way to that gray
        ((0.0, 1.0, 1.0, 1.0), [100, 50, 200]),  # a full turn
    ],
)
def test_color_map(change, expected):
    matrix, offset = augment._color_map(*(tf.constant(amount) for amount in change))
    color = np.float32([100, 50, 200])
    np.testing.assert_allclose(matrix.numpy() @ color + offset.numpy(), expected, atol=1e-2)


def test_rotating_the_hue_keeps_grays_and_luma():
    matrix, _ = augment._color_map(tf.constant(0.0), tf.constant(1.0), tf.constant(1.0), tf.constant(0.2))
    np.testing.assert_allclose(matrix.numpy() @ [90, 90, 90], [90, 90, 90], atol=1e-3)
    luma = np.array([0.299, 0.587, 0.114])
    turned = matrix.numpy() @ [100, 50, 200]
    np.testing.assert_allclose(luma @ turned, luma @ [100, 50, 200], atol=1e-3)
    assert np.abs(turned - [100, 50, 200]).max() > 20


def test_photometric_applies_the_map_and_clips(sample):
    sample["image"] = tf.constant(np.uint8([[[0, 128, 255], [250, 5, 100]]]))
    numbers, _ = augment.draw(sample, 4)
    amounts = (numbers.numpy() * 2 - 1) * [0.4, 0.5, 0.5, 0.05] + [0, 1, 1, 0]
    matrix, offset = augment._color_map(*(tf.constant(np.float32(a)) for a in amounts))
    expected = np.clip(np.round(sample["image"].numpy() @ matrix.numpy().T + offset.numpy()), 0, 255)
    changed = augment.photometric(sample, 0.4, 0.5, 0.5, 0.05)["image"]
    assert changed.dtype == tf.uint8
    np.testing.assert_allclose(changed, expected, atol=1)
    assert np.any(expected != sample["image"])


def test_saturation_and_hue_are_those_of_tensorflow_addons(monkeypatch):
    """Its matrices are rounded to three digits."""
    monkeypatch.setenv("TF_ADDONS_PY_OPS", "1")
    reason = "tensorflow-addons is not installed: it has no wheels for Python 3.12 and later"
    distort_image_ops = pytest.importorskip("tensorflow_addons.image.distort_image_ops", reason=reason)
    colors = np.random.default_rng(0).random((1, 50, 3)).astype(np.float32)
    matrix, _ = augment._color_map(tf.constant(0.0), tf.constant(1.0), tf.constant(0.7), tf.constant(0.1))
    expected = distort_image_ops.adjust_hsv_in_yiq(tf.constant(colors), 0.1 * 2 * np.pi, scale_saturation=0.7)
    np.testing.assert_allclose(colors @ matrix.numpy().T, expected, atol=2e-3)


def bar_and_square():
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
    sample = bar_and_square()
    cut = augment.crop(sample, tf.constant([2, 2]), tf.constant([2, 5]))
    np.testing.assert_array_equal(cut["image"], sample["image"][2:4, 2:7])
    np.testing.assert_array_equal(cut["semantic"], [[1, 255, 255, 255, 255], [1, 255, 255, 2, 2]])
    np.testing.assert_array_equal(cut["boxes"], [[0, 0, 2, 1], [1, 3, 2, 5]])
    np.testing.assert_array_equal(cut["crop_boxes"], [[-3, -4, 5, 4], [-1, 1, 7, 9]])
    np.testing.assert_array_equal(cut["masks"], sample["masks"])
    np.testing.assert_array_equal(cut["classes"], [1, 2])


def test_crop_drops_invisible_objects():
    cut = augment.crop(bar_and_square(), tf.constant([0, 3]), tf.constant([6, 5]))
    np.testing.assert_array_equal(cut["classes"], [2])
    np.testing.assert_array_equal(cut["boxes"], [[3, 2, 5, 4]])
    assert cut["masks"].shape == (1, 8, 8)
    assert augment.crop(bar_and_square(), tf.constant([0, 3]), tf.constant([3, 5]))["boxes"].shape == (0, 4)


@pytest.mark.parametrize(("max_side", "scale"), [(100, 2), (12, 1.5)])
def test_random_crops_have_sizes_of_the_resized_image(max_side, scale):
    """The 6 x 8 image at a short side of 12, unless its long side is limited; windows of 4 ... 9 of its pixels."""

    @tf.function(autograph=False)
    def cut(seed):
        sample = {**bar_and_square(), "max_side": max_side, "seed": seed}
        return augment.random_crop(sample, probability=1.0, min_sides=(12,), sizes=(4, 9))

    shapes, corners = set(), set()
    for number in range(100):
        found = cut(tf.constant([number, 0], tf.int64))
        shapes.add(tuple(found["image"].shape[:2].as_list()))
        corners.add(tuple(found["image"][0, 0, :2].numpy()))
        np.testing.assert_array_equal(found["image"][..., 2], found["semantic"])
    heights, widths = ({shape[axis] for shape in shapes} for axis in (0, 1))
    assert heights == widths == set(range(round(4 / scale), min(round(9 / scale), 6) + 1))
    assert len(shapes) > len(heights) and {y for y, _ in corners} >= {0, 1, 2} and {x for _, x in corners} >= {0, 4}


def test_random_crops_of_a_share_of_the_images():
    cropped = 0
    for number in range(60):
        sample = seeded(bar_and_square(), number)
        found = augment.random_crop(sample, probability=0.3, min_sides=(6,), sizes=(2, 3))
        whole = found["image"].shape == (6, 8, 3)
        cropped += not whole
        if whole:
            assert all(np.array_equal(found[key], sample[key]) for key in ("image", "boxes", "classes", "crop_boxes"))
    assert 8 <= cropped <= 30
    with pytest.raises(UserError, match=r"random_crop\.sizes = \(3, 2\)"):
        augment.random_crop(bar_and_square(), sizes=(3, 2))


def test_large_scale_jitter():
    """At scale 2 the image is 4 times as large: a window of 4 x 4 pixels is left."""
    sample = bar_and_square()
    cut = augment.large_scale_jitter(sample, scales=(2.0, 2.0))
    assert cut["image"].shape == (4, 4, 3)
    top, left = cut["image"][0, 0, :2].numpy()
    np.testing.assert_array_equal(cut["image"], sample["image"][top : top + 4, left : left + 4])
    row = make_row(cut, (16, 16), max_objects=3, semantic_stride=8)
    np.testing.assert_array_equal(row.sizes, [16, 16])
    np.testing.assert_array_equal(row.original_sizes, [6, 8])
    expected = np.clip(np.float32([[0, 1, 6, 3], [3, 5, 5, 7]]) - np.tile([top, left], 2), 0, 4) * 4
    seen = np.all(expected[:, 2:] > expected[:, :2], axis=1)
    np.testing.assert_array_equal(row.truth.boxes[: seen.sum()], expected[seen])
    np.testing.assert_array_equal(row.truth.valid, np.arange(3) < seen.sum())


@pytest.mark.parametrize("canvas", [(16, 16), (40, 10)])
def test_the_crop_fits_and_fills_the_canvas(canvas):
    @tf.function(autograph=False)
    def shift(seed):
        cut = augment.large_scale_jitter({**bar_and_square(), "canvas": canvas, "seed": seed})
        return cut["image"], cut["semantic"], make_row(cut, canvas, max_objects=3, semantic_stride=2)

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
