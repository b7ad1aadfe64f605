"""Preprocessing: sizes as in mmcv, pixels as in bilinear interpolation, and padded shapes that hold every image."""

import json

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.data import preprocessing


@pytest.mark.parametrize(
    "size, sides, expected",
    [
        ((480, 640), (800, 1333), (800, 1067)),
        ((427, 640), (800, 1333), (800, 1199)),
        ((640, 427), (800, 1333), (1199, 800)),
        ((500, 1500), (800, 1333), (444, 1333)),
        ((192, 192), (192, 192), (192, 192)),
        ((1, 10000), (800, 1333), (1, 1333)),
    ],
)
def test_fitted_size(size, sides, expected):
    assert tuple(preprocessing.fitted_size(*size, *sides).numpy()) == expected


def test_fitted_size_is_as_in_mmcv_and_fits_a_padded_shape():
    generator = np.random.default_rng(0)
    for height, width in generator.integers(20, 900, (200, 2)).tolist():
        scale = min(1333 / max(height, width), 800 / min(height, width))
        expected = int(height * scale + 0.5), int(width * scale + 0.5)
        size = preprocessing.fitted_size(tf.constant(height), tf.constant(width), 800, 1333)
        assert tuple(size.numpy()) == expected
        shapes = preprocessing.padded_shapes(800, 1333)
        shape = shapes[int(preprocessing.choose_shape(size, shapes))]
        assert expected[0] <= shape[0] and expected[1] <= shape[1]


@pytest.mark.parametrize(
    "sides, settings, expected",
    [
        ((800, 1333), {}, [(800, 1088), (800, 1216), (800, 1344), (1088, 800), (1216, 800), (1344, 800)]),
        ((800, 1333), {"aspects": ()}, [(800, 1344), (1344, 800)]),
        ((800, 1333), {"aspects": (1, 16 / 9)}, [(800, 800), (800, 1344), (1344, 800)]),
        ((192, 192), {}, [(192, 192)]),
        ((180, 192), {}, [(192, 192)]),
        ((160, 224), {}, [(160, 224), (224, 160)]),
        ((100, 150), {"divisor": 64}, [(128, 192), (192, 128)]),
    ],
)
def test_padded_shapes(sides, settings, expected):
    assert preprocessing.padded_shapes(*sides, **settings) == expected


def test_an_image_goes_to_the_smallest_shape_that_holds_it():
    shapes = preprocessing.padded_shapes(800, 1333)
    chosen = [
        shapes[preprocessing.choose_shape(size, shapes)] for size in [(800, 1067), (1200, 800), (800, 800), (444, 1333)]
    ]
    assert chosen == [(800, 1088), (1216, 800), (800, 1088), (800, 1344)]


def test_padding_of_coco(coco_sample):
    """Three quarters of the images are landscape, most of them 640 x 480 or 640 x 427."""
    images = json.loads((coco_sample / "annotations" / "instances_train2017.json").read_text())["images"]
    sizes = [preprocessing.fitted_size(image["height"], image["width"], 800, 1333).numpy() for image in images]
    used = sum(size.prod() for size in sizes)
    padded = {}
    for aspects in ((), preprocessing.ASPECTS):
        shapes = preprocessing.padded_shapes(800, 1333, aspects=aspects)
        padded[len(shapes)] = sum(np.prod(shapes[preprocessing.choose_shape(size, shapes)]) for size in sizes) / used
    assert padded[6] < 1.05 < 1.15 < padded[2]


def test_resize_of_a_ramp():
    ramp = np.uint8([[[0], [100]]])
    np.testing.assert_array_equal(preprocessing.resize(tf.constant(ramp), [1, 4])[0, :, 0], [0, 25, 75, 100])
    np.testing.assert_array_equal(preprocessing.resize(tf.constant(ramp), [1, 1])[0, :, 0], [50])


@pytest.mark.parametrize("size", [(31, 47), (9, 14), (23, 17)])
def test_resize_is_bilinear_between_pixel_centers(size):
    image = np.random.default_rng(1).integers(0, 256, (17, 23, 3)).astype(np.uint8)

    def weights(old, new):
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(old)))

    exact = np.einsum("yh,hwc,xw->yxc", weights(17, size[0]), image, weights(23, size[1]))
    resized = preprocessing.resize(tf.constant(image), size).numpy()
    # Rounded to the nearest gray level; an exact half may go either way.
    assert np.abs(resized - exact).max() <= 0.5 + 1e-3


def test_resize_keeps_every_gray_level():
    for level in (0, 1, 127, 254, 255):
        image = tf.fill([5, 7, 3], tf.constant(level, tf.uint8))
        assert np.unique(preprocessing.resize(image, [13, 4])).tolist() == [level]


def test_resize_to_fit_and_pad_in_a_graph():
    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)], autograph=False)
    def prepare(image):
        fitted, size = preprocessing.resize_to_fit(image, 64, 96)
        return fitted, size, preprocessing.pad_to(fitted, 64, 96)

    fitted, size, padded = prepare(tf.fill([30, 40, 3], tf.constant(9, tf.uint8)))
    assert fitted.shape == (64, 85, 3) and size.dtype == tf.float32
    np.testing.assert_array_equal(size, [64, 85])
    assert prepare.get_concrete_function().output_shapes[2] == (64, 96, 3)
    np.testing.assert_array_equal(padded[:, :85], fitted)
    assert not np.any(padded[:, 85:])


def test_pad_to_pads_below_and_to_the_right():
    padded = preprocessing.pad_to(tf.constant(np.arange(1, 13, dtype=np.uint8).reshape(2, 2, 3)), 3, 4).numpy()
    np.testing.assert_array_equal(padded[1, 1], [10, 11, 12])
    assert padded.sum() == 78 and padded.shape == (3, 4, 3)
