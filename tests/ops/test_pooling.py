"""Max pooling by elementwise maxima: values and gradients of TensorFlow's operation, with determinism under XLA too."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism

from htc_tf.ops.pooling import max_pool2d


@pytest.fixture
def deterministic():
    tf.config.experimental.enable_op_determinism()
    yield
    disable_op_determinism()


def slope(pool, x, upstream):
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(pool(x) * upstream)
    return tape.gradient(total, x)


@pytest.mark.parametrize(("window", "stride", "margin"), [(2, 2, 0), (3, 1, 1), (5, 1, 2), (3, 2, 1)])
def test_values_and_gradients_are_those_of_tensorflow(window, stride, margin):
    """Of equal cells in a window the first one has the gradient."""
    x = tf.constant(np.random.RandomState(0).randint(-3, 3, (2, 8, 6, 3)), tf.float32)
    paddings = [[0, 0], [margin, margin], [margin, margin], [0, 0]]

    def wanted(x):
        return tf.nn.max_pool2d(tf.pad(x, paddings, constant_values=x.dtype.min), window, stride, "VALID")

    found = max_pool2d(x, window, stride, margin)
    np.testing.assert_array_equal(found, wanted(x))
    upstream = tf.random.stateless_normal(found.shape, [0, 1])
    own = slope(lambda x: max_pool2d(x, window, stride, margin), x, upstream)
    np.testing.assert_allclose(own, slope(wanted, x, upstream), atol=1e-6)


def test_xla_has_a_deterministic_gradient(deterministic):
    x = tf.random.stateless_normal([1, 4, 4, 2], [0, 1])
    compiled = tf.function(lambda x: slope(lambda x: max_pool2d(x, 2, 2), x, 1.0), jit_compile=True)
    np.testing.assert_array_equal(compiled(x), slope(lambda x: max_pool2d(x, 2, 2), x, 1.0))


def test_half_precision():
    x = tf.cast(tf.random.stateless_normal([1, 4, 4, 2], [0, 1]), tf.bfloat16)
    assert max_pool2d(x, 3, 1, 1).dtype == tf.bfloat16
    np.testing.assert_array_equal(
        tf.cast(max_pool2d(x, 4), tf.float32)[:, 0, 0], tf.reduce_max(tf.cast(x, tf.float32), [1, 2])
    )
