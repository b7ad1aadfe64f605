"""A batch norm on stored statistics as a part of the convolution before it.

The norm multiplies each output channel by a number and adds another, so that the kernel can have the first, and a bias
be the second. A map is then written once, not twice, and the backward pass needs no copy of the norm's input: the
gradient of the norm's scale follows from the kernel's.
"""

import tensorflow as tf


def fold_norm(
    kernel: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Folds a norm into the kernel of the convolution before it.

    Args:
        kernel: [k, k, C, O].
        gamma, beta: [O], scale and offset of the norm.
        mean, variance: [O], the stored statistics, without a gradient; epsilon is in the variance.

    Returns:
        (kernel [k, k, C, O], bias [O]).
    """
    # Variables become tensors, because a custom gradient must not capture them.
    weights = [tf.convert_to_tensor(weight) for weight in (kernel, gamma, beta, mean)]
    return _fold_norm(*weights, tf.math.rsqrt(variance))


@tf.custom_gradient
def _fold_norm(kernel, gamma, beta, mean, factor):
    scale = gamma * factor

    def gradient(to_kernel, to_bias):
        to_scale = tf.reduce_sum(to_kernel * kernel, [0, 1, 2]) - to_bias * mean
        return to_kernel * scale, to_scale * factor, to_bias, None, None

    return (kernel * scale, beta - mean * scale), gradient
