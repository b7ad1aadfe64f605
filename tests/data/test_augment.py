"""Augmentations change image, boxes, masks and semantic map alike, by the sample's seed alone."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.data import augment
from htc_tf.errors import UserError


@pytest.fixture
def sample():
    """One object, which is exactly what is not black: columns 1 and 2 of a 3 x 5 image."""
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


def test_flip_happens_as_often_as_it_should(sample):
    flip = tf.function(functools.partial(augment.flip, probability=0.3))
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
    # Philox's numbers for this seed: a run must go on the same on another machine.
    np.testing.assert_allclose(first, [0.13544238, 0.90046787], rtol=0, atol=1e-7)


def test_photometric_of_nothing_is_nothing(sample):
    same = augment.photometric(sample, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    np.testing.assert_array_equal(same["image"], sample["image"])


@pytest.mark.parametrize(
    "change, expected",
    [
        ((0.1, 1.0, 1.0, 0.0), [125.5, 75.5, 225.5]),  # + 25.5
        ((0.0, 1.5, 1.0, 0.0), [86.25, 11.25, 236.25]),  # 127.5 + 1.5 (x - 127.5)
        ((0.0, 1.0, 0.0, 0.0), [82.05, 82.05, 82.05]),  # the grey 0.299 r + 0.587 g + 0.114 b
        ((0.0, 1.0, 0.5, 0.0), [91.025, 66.025, 141.025]),  # half way to that grey
        ((0.0, 1.0, 1.0, 1.0), [100, 50, 200]),  # a full turn
    ],
)
def test_colour_map(change, expected):
    matrix, offset = augment._colour_map(*(tf.constant(amount) for amount in change))
    colour = np.float32([100, 50, 200])
    np.testing.assert_allclose(matrix.numpy() @ colour + offset.numpy(), expected, atol=1e-2)


def test_turning_the_hue_keeps_greys_and_luma():
    matrix, _ = augment._colour_map(tf.constant(0.0), tf.constant(1.0), tf.constant(1.0), tf.constant(0.2))
    np.testing.assert_allclose(matrix.numpy() @ [90, 90, 90], [90, 90, 90], atol=1e-3)
    luma = np.array([0.299, 0.587, 0.114])
    turned = matrix.numpy() @ [100, 50, 200]
    np.testing.assert_allclose(luma @ turned, luma @ [100, 50, 200], atol=1e-3)
    assert np.abs(turned - [100, 50, 200]).max() > 20


def test_photometric_applies_the_map_and_clips(sample):
    sample["image"] = tf.constant(np.uint8([[[0, 128, 255], [250, 5, 100]]]))
    numbers, _ = augment.draw(sample, 4)
    amounts = (numbers.numpy() * 2 - 1) * [0.4, 0.5, 0.5, 0.05] + [0, 1, 1, 0]
    matrix, offset = augment._colour_map(*(tf.constant(np.float32(a)) for a in amounts))
    expected = np.clip(np.round(sample["image"].numpy() @ matrix.numpy().T + offset.numpy()), 0, 255)
    changed = augment.photometric(sample, 0.4, 0.5, 0.5, 0.05)["image"]
    assert changed.dtype == tf.uint8
    np.testing.assert_allclose(changed, expected, atol=1)
    assert np.any(expected != sample["image"])


def test_saturation_and_hue_are_those_of_tensorflow_addons(monkeypatch):
    """Whose matrices are rounded to three digits."""
    monkeypatch.setenv("TF_ADDONS_PY_OPS", "1")
    from tensorflow_addons.image import distort_image_ops

    colours = np.random.default_rng(0).random((1, 50, 3)).astype(np.float32)
    matrix, _ = augment._colour_map(tf.constant(0.0), tf.constant(1.0), tf.constant(0.7), tf.constant(0.1))
    expected = distort_image_ops.adjust_hsv_in_yiq(tf.constant(colours), 0.1 * 2 * np.pi, scale_saturation=0.7)
    np.testing.assert_allclose(colours @ matrix.numpy().T, expected, atol=2e-3)
