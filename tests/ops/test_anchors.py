"""Anchors of small maps written out by hand, and mmdetection's, to the last bit."""

import numpy as np
import tensorflow as tf

from htc_tf.ops import anchors

STRIDES = (4, 8, 16, 32, 64)


def pyramid_anchors(shapes, strides):
    """The anchors of all levels, one level after the other, as mmdetection has them."""
    return tf.concat([anchors.level_anchors(*shape, stride) for shape, stride in zip(shapes, strides, strict=True)], 0)


def test_one_cell():
    tall, wide = 16 * np.sqrt(2), 8 * np.sqrt(2)
    expected = [[-wide, -tall, wide, tall], [-16, -16, 16, 16], [-tall, -wide, tall, wide]]
    np.testing.assert_allclose(anchors.level_anchors(1, 1, 4), expected, rtol=1e-6)


def test_two_by_two_cells_go_row_column_ratio():
    result = anchors.level_anchors(2, 2, 10, scale=1.0, ratios=(1.0, 4.0))
    square, tall = np.array([-5, -5, 5, 5]), np.array([-10, -2.5, 10, 2.5])
    down, right = np.array([10, 0, 10, 0]), np.array([0, 10, 0, 10])
    expected = [
        *(square, tall),
        *(square + right, tall + right),
        *(square + down, tall + down),
        *(square + down + right, tall + down + right),
    ]
    np.testing.assert_array_equal(result, expected)


def test_shape_may_be_a_tensor():
    build = tf.function(lambda shape: anchors.level_anchors(shape[0], shape[1], 8), autograph=False)
    np.testing.assert_array_equal(build(tf.constant([3, 5])), anchors.level_anchors(3, 5, 8))


def test_compiled_is_the_same():
    build = tf.function(lambda: anchors.level_anchors(3, 5, 8), jit_compile=True, autograph=False)
    np.testing.assert_array_equal(build(), anchors.level_anchors(3, 5, 8))


def test_anchors_equal_mmdetection_to_the_last_bit(reference, compare):
    arrays = reference("op_anchors")
    for case, every in (("a", 1), ("b", 997)):
        for level, stride in enumerate(STRIDES):
            result = anchors.level_anchors(*arrays[f"sizes_{case}"][level], stride).numpy()
            expected = arrays[f"anchors_{case}_{level}"][:, [1, 0, 3, 2]]
            compare("anchors, pixels", result[::every], expected)


def test_touching_the_bottom_or_right_edge_is_outside():
    given = tf.constant([[0.0, 0, 9, 19], [0, 0, 10, 19], [0, 0, 9, 20], [-1, 0, 9, 19], [0, -1, 9, 19]])
    sizes = tf.constant([[10.0, 20.0], [11.0, 21.0]])
    np.testing.assert_array_equal(
        anchors.inside(given, sizes), [[True, False, False, False, False], [True, True, True, False, False]]
    )


def test_inside_equals_mmdetection(reference, compare):
    arrays = reference("op_anchors")
    given = pyramid_anchors(arrays["sizes_a"].tolist(), STRIDES)
    sizes = tf.constant([[120.0, 150.0], [1e6, 1e6]])
    result = tf.function(anchors.inside, jit_compile=True, autograph=False)(given, sizes).numpy()
    compare("anchors inside the image", result[0], arrays["inside_a_img120x150"] & arrays["valid_a"])
    assert result[0].sum() < result[1].sum()


def test_center_inside_leaves_out_the_batch_s_padding():
    """For an image of 33 x 60 in a batch of 96 x 96, rows and columns up to 64 count, at every stride."""
    shapes, strides = [(24, 24), (12, 12), (3, 3)], [4, 8, 32]
    given = pyramid_anchors(shapes, strides)
    result = tf.function(anchors.center_inside, jit_compile=True, autograph=False)(
        given, tf.constant([[33.0, 60.0], [96.0, 65.0]])
    )
    expected = [
        np.concatenate(
            [
                np.repeat(np.outer(np.arange(rows) * stride < height, np.arange(columns) * stride < width).ravel(), 3)
                for (rows, columns), stride in zip(shapes, strides, strict=True)
            ]
        )
        for height, width in ((64, 64), (96, 96))
    ]
    np.testing.assert_array_equal(result, expected)
