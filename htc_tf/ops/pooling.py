"""Pooling: maxima with a deterministic gradient on every device, compiled by XLA or not; means summed in float32.

TensorFlow's max pooling has no deterministic gradient under XLA. It is faster with many channels: the stem of a ResNet,
which is usually frozen, keeps it. TensorFlow's average pooling may sum in half precision.
"""

import functools

import tensorflow as tf


def max_pool2d(x: tf.Tensor, window: int, stride: int = 1, margin: int = 0) -> tf.Tensor:
    """Computes the maximum of each window; of equal cells the first one has the gradient.

    Args:
        x: [B, H, W, C], any float type; H and W are static.
        window: int, cells along each side of a window.
        stride: int.
        margin: int, cells beyond each border, which no window selects.

    Returns:
        [B, h, w, C], h = (H + 2 margin - window) // stride + 1 and w likewise.
    """
    for axis in (2, 1):  # first along the rows, then down the columns
        size = (x.shape[axis] + 2 * margin - window) // stride + 1
        paddings = [[margin, margin] if i == axis else [0, 0] for i in range(4)]
        padded = tf.pad(x, paddings, constant_values=x.dtype.min) if margin else x

        def shifted(first, padded=padded, axis=axis, size=size):
            """Returns the cells at `first` in each window."""
            index = [slice(None)] * 4
            index[axis] = slice(first, first + (size - 1) * stride + 1, stride)
            return padded[tuple(index)]

        x = functools.reduce(tf.maximum, map(shifted, range(window)))
    return x


def average_pool2d(x: tf.Tensor, window: int, stride: int, padding: str) -> tf.Tensor:
    """Computes the mean of each window, in float32.

    Args:
        x: [B, H, W, C], any float type.
        window: int, cells along each side of a window.
        stride: int.
        padding: "VALID", or "SAME", in which cells beyond the border do not count.

    Returns:
        [B, h, w, C], of x's type.
    """
    return tf.cast(tf.nn.avg_pool2d(tf.cast(x, tf.float32), window, stride, padding), x.dtype)
