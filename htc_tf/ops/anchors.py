"""Anchors: the fixed boxes that the RPN classifies and regresses, the same for every image of a shape.

Centers lie on multiples of the stride, without rounding.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf


def level_anchors(
    height: int | tf.Tensor,
    width: int | tf.Tensor,
    stride: int,
    scale: float = 8.0,
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
) -> tf.Tensor:
    """Generates the anchors of one feature map.

    Source: `AnchorGenerator` of mmdetection with center offset 0 (https://github.com/open-mmlab/mmdetection).

    Args:
        height, width: ints or [] tensors, the map's shape.
        stride: pixels between neighboring cells.
        scale: an anchor's area is (scale * stride)^2 square pixels.
        ratios: R floats, height / width.

    Returns:
        [height * width * R, 4] float32, in the order row, column, ratio.
    """
    row = tf.cast(tf.range(height), tf.float32) * stride
    column = tf.cast(tf.range(width), tf.float32) * stride
    y, x = tf.meshgrid(row, column, indexing="ij")
    centers = tf.stack([y, x, y, x], axis=-1)[:, :, None, :]  # [height, width, 1, 4]
    return tf.reshape(centers + _anchors_at_origin(stride, scale, ratios), [-1, 4])


def inside(anchors: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Selects the anchors inside each image; an anchor that touches the bottom or right edge is outside.

    Args:
        anchors: [A, 4] float32.
        sizes: [B, 2], height and width of the images without their padding.

    Returns:
        [B, A] bool.
    """
    positive = tf.reduce_all(anchors[:, :2] >= 0.0, axis=-1)  # [A]
    below = tf.reduce_all(anchors[:, 2:] < tf.cast(sizes, anchors.dtype)[:, None, :], axis=-1)  # [B, A]
    return positive & below


def center_inside(anchors: tf.Tensor, sizes: tf.Tensor, divisor: int = 32) -> tf.Tensor:
    """Selects the anchors whose center lies inside each image, padded to multiples of `divisor`.

    The other cells exist only because another image of the batch is larger: mmdetection's `valid_flags`.

    Args:
        anchors: [A, 4] float32.
        sizes: [B, 2], height and width of the images without their padding.
        divisor: int.

    Returns:
        [B, A] bool.
    """
    padded = tf.math.ceil(tf.cast(sizes, anchors.dtype) / divisor) * divisor
    # Centers and the border lie on multiples of the stride, which is 2 or more: one pixel covers rounding errors.
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    return tf.reduce_all(centers < padded[:, None, :] - 1.0, axis=-1)


def _anchors_at_origin(stride, scale, ratios):
    """Returns [R, 4], in float32 and in this order of products, which decides ties of the IoU with an object."""
    tall = np.sqrt(np.asarray(ratios, np.float32))
    wide = np.float32(1) / tall
    half_height = np.float32(0.5) * (np.float32(stride) * tall * np.float32(scale))
    half_width = np.float32(0.5) * (np.float32(stride) * wide * np.float32(scale))
    return np.stack([-half_height, -half_width, half_height, half_width], axis=-1)
