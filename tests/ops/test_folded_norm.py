"""A norm folded into a kernel: outputs and gradients are those of the convolution, then the norm."""

import numpy as np
import tensorflow as tf

from htc_tf.ops.folded_norm import fold_norm


def make_inputs():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=[2, 5, 6, 3]), rng.normal(size=[3, 3, 3, 4])
    gamma, beta, mean = rng.normal(size=[3, 4])
    return [tf.constant(array) for array in (x, kernel, gamma, beta, mean, rng.uniform(0.5, 2, [4]))]


def test_golden_numbers():
    """Scale 6 / sqrt(4) = 3: the kernel is tripled, and the mean, 5, tripled, is taken from the offset, 1."""
    kernel, bias = fold_norm(tf.constant([[[[2.0]]]]), *(tf.constant([value]) for value in (6.0, 1.0, 5.0, 4.0)))
    assert kernel.numpy().item() == 6 and bias.numpy().item() == -14


def test_outputs_and_gradients():
    x, kernel, gamma, beta, mean, variance = make_inputs()

    def folded(kernel, gamma, beta):
        kernel, bias = fold_norm(kernel, gamma, beta, mean, variance)
        return tf.nn.conv2d(x, kernel, 1, "SAME") + bias

    def one_after_the_other(kernel, gamma, beta):
        return (tf.nn.conv2d(x, kernel, 1, "SAME") - mean) / tf.sqrt(variance) * gamma + beta

    results = []
    for compute in (folded, one_after_the_other):
        with tf.GradientTape() as tape:
            tape.watch([kernel, gamma, beta])
            y = compute(kernel, gamma, beta)
            total = tf.reduce_sum(y**2)
        results.append([y, *tape.gradient(total, [kernel, gamma, beta])])
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-10)


def test_a_scale_of_zero_still_learns():
    """The last norm of a block starts at zero: its kernel gets no gradient, its scale does."""
    _, kernel, gamma, beta, mean, variance = make_inputs()
    with tf.GradientTape() as tape:
        zero = tf.zeros_like(gamma)
        tape.watch([kernel, zero])
        total = tf.reduce_sum(fold_norm(kernel, zero, beta, mean, variance)[0])
    to_kernel, to_gamma = tape.gradient(total, [kernel, zero])
    assert not np.any(to_kernel)
    np.testing.assert_allclose(to_gamma, np.sum(kernel, (0, 1, 2)) / np.sqrt(variance))
