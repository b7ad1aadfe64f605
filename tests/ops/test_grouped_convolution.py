"""Convolution in groups against each group convolved by itself, in float64."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.ops.grouped_convolution import grouped_conv2d, one_operation


def second_way(x, kernel, stride, groups, upstream):
    """Value and gradients, "VALID": for every tap of every group a product of matrices."""
    side, _, inputs, outputs = kernel.shape
    value, x_gradient, kernel_gradient = np.zeros(upstream.shape), np.zeros(x.shape), np.zeros(kernel.shape)
    _, height, width, _ = upstream.shape
    for group, row, column in np.ndindex(groups, side, side):
        i, o = (slice(group * n, (group + 1) * n) for n in (inputs, outputs // groups))
        seen = (
            slice(None),
            slice(row, row + stride * (height - 1) + 1, stride),
            slice(column, column + stride * (width - 1) + 1, stride),
            i,
        )
        value[..., o] += x[seen] @ kernel[row, column, :, o]
        x_gradient[seen] += upstream[..., o] @ kernel[row, column, :, o].T
        kernel_gradient[row, column, :, o] += np.einsum("bhwi,bhwo->io", x[seen], upstream[..., o])
    return value, x_gradient, kernel_gradient


# Blocks: one of two groups, two of two, three of one, as wide inside as outside or not.
@pytest.mark.parametrize(
    "inputs, outputs, groups, stride", [(32, 32, 2, 1), (64, 32, 4, 2), (120, 12, 3, 1), (24, 48, 6, 2)]
)
def test_value_and_gradients(inputs, outputs, groups, stride):
    random = np.random.default_rng(inputs)
    x = random.standard_normal((2, 7, 9, inputs))
    kernel = random.standard_normal((3, 3, inputs // groups, outputs))
    upstream = random.standard_normal((2, *((side - 3) // stride + 1 for side in (7, 9)), outputs))
    expected = second_way(x, kernel, stride, groups, upstream)

    def run(x, kernel, upstream):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            value = grouped_conv2d(x, kernel, stride, groups, "VALID")
        return value, *tape.gradient(value, [x, kernel], upstream)

    for compiled in (False, True):
        found = tf.function(run, jit_compile=compiled)(*(tf.constant(a, tf.float32) for a in (x, kernel, upstream)))
        for array, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(array, wanted, atol=1e-5 * np.abs(wanted).max())


def test_one_operation_gives_the_same():
    x, kernel = tf.random.stateless_normal([1, 6, 6, 48], (0, 1)), tf.random.stateless_normal([3, 3, 4, 48], (0, 2))
    with one_operation():
        graph = tf.function(lambda: grouped_conv2d(x, kernel, 1, 12, "SAME"))
        value = graph()
    assert [op.type for op in graph.get_concrete_function().graph.get_operations()].count("Conv2D") == 1
    np.testing.assert_allclose(value, grouped_conv2d(x, kernel, 1, 12, "SAME"), atol=1e-4)
