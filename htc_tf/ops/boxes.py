"""Box arithmetic: areas, overlaps, and the deltas that turn one box into another.

The RPN and the box heads predict deltas; `decode` makes proposals and refined boxes of them, `encode` makes
their targets of the objects that `matching` gave them. Boxes are [y1, x1, y2, x2] in pixels.
"""

import math

import tensorflow as tf

# A box changes its height or width at most by this factor in one step (and by its inverse).
MAX_LOG_RATIO = abs(math.log(16 / 1000))


def area(boxes):
    """Areas of boxes [..., 4] in square pixels, [...]. Negative if one side of a box is."""
    y1, x1, y2, x2 = tf.unstack(boxes, axis=-1)
    return (x2 - x1) * (y2 - y1)


def iou(a, b):
    """Overlaps of all boxes a [..., N, 4] with all boxes b [..., M, 4]: [..., N, M] float32, 0 ... 1.

    Leading axes broadcast. An empty box overlaps nothing: 0, never NaN. Several anchors tie for the best overlap
    with an object and rounding decides which of them win, so the operations and their order are mmdetection's
    (`bbox_overlaps`) and the result is the same to the last bit, compiled or not.
    """
    a = tf.cast(a, tf.float32)[..., :, None, :]
    b = tf.cast(b, tf.float32)[..., None, :, :]
    a_y1, a_x1, a_y2, a_x2 = tf.unstack(a, axis=-1)
    b_y1, b_x1, b_y2, b_x2 = tf.unstack(b, axis=-1)
    width = tf.maximum(tf.minimum(a_x2, b_x2) - tf.maximum(a_x1, b_x1), 0.0)
    height = tf.minimum(a_y2, b_y2) - tf.maximum(a_y1, b_y1)
    # A maximum stands between each product and the sum that follows, or XLA's compiler contracts the two to one
    # instruction that rounds once instead of twice. That of the areas changes nothing: an inverted box has no overlap.
    overlap = tf.maximum(width * height, 0.0)
    union = tf.maximum(area(a), 0.0) + tf.maximum(area(b), 0.0) - overlap
    return overlap / tf.maximum(union, 1e-6)


def exceeds(boxes, size):
    """Which boxes [..., 4] are higher and wider than `size` pixels: [...] bool."""
    return tf.reduce_all(boxes[..., 2:] - boxes[..., :2] > size, axis=-1)


def clip(boxes, sizes):
    """Boxes [B, ..., 4] cut off at the image: y to 0 ... height, x to 0 ... width.

    sizes: [B, 2], [height, width] of each image without its padding.
    """
    sizes = tf.cast(sizes, boxes.dtype)
    limits = tf.reshape(tf.concat([sizes, sizes], axis=-1), [-1] + [1] * (boxes.shape.rank - 2) + [4])
    return tf.minimum(tf.maximum(boxes, 0.0), limits)


def encode(boxes, reference, target_stds):
    """The deltas [..., 4] = [dy, dx, dh, dw] / stds that lead from the reference boxes to the boxes.

    dy, dx: shift of the centre in units of the reference's height and width; dh, dw: log of the ratio of heights
    and widths (R-CNN, arXiv:1311.2524, appendix C). stds: 4 numbers in the order y, x, h, w.
    A row in which either box has no height or no width is 0: padding must not make NaN.
    """
    centre, size = _centre_and_size(boxes)
    reference_centre, reference_size = _centre_and_size(reference)
    usable = tf.reduce_all((size > 0) & (reference_size > 0), axis=-1, keepdims=True)
    size = tf.where(usable, size, 1.0)
    reference_size = tf.where(usable, reference_size, 1.0)
    shift = (centre - reference_centre) / reference_size
    scale = tf.math.log(size / reference_size)
    deltas = tf.concat([shift, scale], axis=-1) / tf.constant(target_stds, tf.float32)
    return tf.where(usable, deltas, 0.0)


def decode(deltas, reference, target_stds, sizes=None):
    """The boxes [..., 4] that deltas [..., 4] make of the reference boxes: the inverse of `encode`.

    dh and dw are limited to |log(16 / 1000)|, so that no delta overflows. Boxes are clipped to sizes [B, 2] (see
    `clip`) where sizes are given.
    """
    deltas = tf.cast(deltas, tf.float32) * tf.constant(target_stds, tf.float32)
    centre, size = _centre_and_size(reference)
    centre += size * deltas[..., :2]
    size *= tf.exp(tf.clip_by_value(deltas[..., 2:], -MAX_LOG_RATIO, MAX_LOG_RATIO))
    boxes = tf.concat([centre - size * 0.5, centre + size * 0.5], axis=-1)
    return boxes if sizes is None else clip(boxes, sizes)


def flip(boxes, width):
    """Boxes [..., 4] mirrored left to right in an image of that width."""
    y1, x1, y2, x2 = tf.unstack(boxes, axis=-1)
    width = tf.cast(width, boxes.dtype)
    return tf.stack([y1, width - x2, y2, width - x1], axis=-1)


def _centre_and_size(boxes):
    boxes = tf.cast(boxes, tf.float32)
    first, last = boxes[..., :2], boxes[..., 2:]
    return (first + last) * 0.5, last - first
