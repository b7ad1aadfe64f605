"""Anchors: the fixed boxes that the RPN scores and shifts, the same for every image of a shape.

The pyramid's maps come before; the RPN head predicts one logit and four deltas for each anchor, and `matching`
labels the anchors that lie inside the image. Centres lie on multiples of the stride, unrounded.
"""

import numpy as np
import tensorflow as tf


def level_anchors(height, width, stride, scale=8.0, ratios=(0.5, 1.0, 2.0)):
    """Anchors of one map: [height * width * R, 4] float32, in the order row, column, ratio.

    height, width: the map's shape, ints or scalar tensors. stride: pixels from one cell to the next.
    An anchor covers (scale * stride)^2 square pixels; a ratio is its height / width. Source: `AnchorGenerator` of
    mmdetection, centre offset 0 (https://github.com/open-mmlab/mmdetection).
    """
    row = tf.cast(tf.range(height), tf.float32) * stride
    column = tf.cast(tf.range(width), tf.float32) * stride
    y, x = tf.meshgrid(row, column, indexing="ij")
    centres = tf.stack([y, x, y, x], axis=-1)[:, :, None, :]
    return tf.reshape(centres + _anchors_at_origin(stride, scale, ratios), [-1, 4])


def pyramid_anchors(shapes, strides, scale=8.0, ratios=(0.5, 1.0, 2.0)):
    """Anchors of all maps, level after level: [A, 4]. shapes: (height, width) of each map, in the strides' order."""
    levels = [
        level_anchors(height, width, stride, scale, ratios)
        for (height, width), stride in zip(shapes, strides, strict=True)
    ]
    return tf.concat(levels, axis=0)


def inside(anchors, sizes):
    """Which anchors [A, 4] lie inside each image: [B, A] bool. Touching the bottom or the right edge is outside.

    sizes: [B, 2], [height, width] of the images without their padding.
    """
    positive = tf.reduce_all(anchors[:, :2] >= 0.0, axis=-1)
    below = tf.reduce_all(anchors[:, 2:] < tf.cast(sizes, anchors.dtype)[:, None, :], axis=-1)
    return positive & below


def centred_inside(anchors, sizes, divisor=32):
    """Which anchors [A, 4] have their centre inside each image padded to multiples of `divisor`: [B, A] bool.

    The rest belongs to cells that are there only because another image of the batch is larger: mmdetection's
    `valid_flags`. sizes: [B, 2], [height, width] of the images without their padding.
    """
    padded = tf.math.ceil(tf.cast(sizes, anchors.dtype) / divisor) * divisor
    # Centres lie on multiples of the stride, 2 or more, and so does the border: one pixel covers what was rounded.
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    return tf.reduce_all(centres < padded[:, None, :] - 1.0, axis=-1)


def _anchors_at_origin(stride, scale, ratios):
    """[R, 4]. In float32 and in this order of multiplication, which decides ties of the IoU with an object."""
    tall = np.sqrt(np.asarray(ratios, np.float32))
    wide = np.float32(1) / tall
    half_height = np.float32(0.5) * (np.float32(stride) * tall * np.float32(scale))
    half_width = np.float32(0.5) * (np.float32(stride) * wide * np.float32(scale))
    return np.stack([-half_height, -half_width, half_height, half_width], axis=-1)
