"""Grouped convolution against a separate convolution of each group, in float64."""

import numpy as np
import pytest
import tensorflow as tf

from htc_tf.ops.grouped_convolution import grouped_conv2d, native_grouped_convolution


def reference_result(x, kernel, stride, groups, upstream):
    """Computes value and gradients, "VALID": a matrix product for every tap of every group."""
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


# Blocks: one of two groups, two of two, three of one, with as many or other numbers of inputs and outputs; then groups
# of one input channel and of one or two output channels.
@pytest.mark.parametrize(
    "inputs, outputs, groups, stride",
    [(32, 32, 2, 1), (64, 32, 4, 2), (120, 12, 3, 1), (24, 48, 6, 2), (6, 6, 6, 1), (5, 10, 5, 2)],
)
def test_value_and_gradients(inputs, outputs, groups, stride):
    random = np.random.default_rng(inputs)
    x = random.standard_normal((2, 7, 9, inputs))
    kernel = random.standard_normal((3, 3, inputs // groups, outputs))
    upstream = random.standard_normal((2, *((side - 3) // stride + 1 for side in (7, 9)), outputs))
    expected = reference_result(x, kernel, stride, groups, upstream)

    def run(x, kernel, upstream):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            value = grouped_conv2d(x, kernel, stride, groups, "VALID")
        return value, *tape.gradient(value, [x, kernel], upstream)

    for compiled in (False, True):
        found = tf.function(run, jit_compile=compiled, autograph=False)(
            *(tf.constant(a, tf.float32) for a in (x, kernel, upstream))
        )
        for array, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(array, wanted, atol=1e-5 * np.abs(wanted).max())


def test_native_grouped_convolution_is_one_operation():
    x, kernel = tf.random.stateless_normal([1, 6, 6, 48], (0, 1)), tf.random.stateless_normal([3, 3, 4, 48], (0, 2))
    with native_grouped_convolution():
        graph = tf.function(lambda: grouped_conv2d(x, kernel, 1, 12, "SAME"), autograph=False)
        value = graph()
    assert [op.type for op in graph.get_concrete_function().graph.get_operations()].count("Conv2D") == 1
    np.testing.assert_allclose(value, grouped_conv2d(x, kernel, 1, 12, "SAME"), atol=1e-4)
