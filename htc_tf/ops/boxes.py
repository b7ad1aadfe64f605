"""Box arithmetic: areas, IoU, clipping, flipping, and the deltas between boxes.

The RPN and the box heads predict deltas: `decode` turns them into proposals and refined boxes, `encode` computes their
targets. Boxes are [y1, x1, y2, x2] in pixels.
"""

import math
from collections.abc import Sequence

import tensorflow as tf

# One decoding step changes a height or width at most by this factor, or its inverse (detectron2, mmdetection).
MAX_LOG_RATIO = abs(math.log(16 / 1000))


def area(boxes: tf.Tensor) -> tf.Tensor:
    """Returns the areas [...] of boxes [..., 4] in square pixels; negative if one side of a box is."""
    y1, x1, y2, x2 = tf.unstack(boxes, axis=-1)
    return (x2 - x1) * (y2 - y1)


def iou(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Computes the IoU of all pairs of boxes.

    Several anchors tie for the best IoU with an object, and rounding decides which of them win: the operations and
    their order are mmdetection's (`bbox_overlaps`), so that the result equals it to the last bit, compiled or not.

    Args:
        a: [..., N, 4].
        b: [..., M, 4]; leading axes broadcast.

    Returns:
        [..., N, M] float32 in [0, 1]; 0 for an empty box, never NaN.
    """
    a = tf.cast(a, tf.float32)[..., :, None, :]  # [..., N, 1, 4]
    b = tf.cast(b, tf.float32)[..., None, :, :]  # [..., 1, M, 4]
    a_y1, a_x1, a_y2, a_x2 = tf.unstack(a, axis=-1)
    b_y1, b_x1, b_y2, b_x2 = tf.unstack(b, axis=-1)
    width = tf.maximum(tf.minimum(a_x2, b_x2) - tf.maximum(a_x1, b_x1), 0.0)  # [..., N, M]
    height = tf.minimum(a_y2, b_y2) - tf.maximum(a_y1, b_y1)
    # A maximum stands between each product and the sum that follows it. Otherwise XLA fuses the two into one
    # instruction that rounds once instead of twice. The maximum of the areas has no other effect: an inverted box has
    # no overlap.
    overlap = tf.maximum(width * height, 0.0)
    union = tf.maximum(area(a), 0.0) + tf.maximum(area(b), 0.0) - overlap
    return overlap / tf.maximum(union, 1e-6)  # 1e-6: mmdetection's eps


def generalized_iou(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Computes the GIoU of each box with its counterpart (arXiv:1902.09630, algorithm 1).

    Args:
        a, b: [..., 4].

    Returns:
        [...] float32 in [-1, 1]: IoU minus the share of the enclosing box that neither box covers. Inverted boxes count
        as empty; without a union the IoU is 0, and without an enclosing area the share is 0.
    """
    a_y1, a_x1, a_y2, a_x2 = tf.unstack(tf.cast(a, tf.float32), axis=-1)
    b_y1, b_x1, b_y2, b_x2 = tf.unstack(tf.cast(b, tf.float32), axis=-1)

    def clipped_area(y1, x1, y2, x2):
        return tf.maximum(0.0, x2 - x1) * tf.maximum(0.0, y2 - y1)

    a_area, b_area = clipped_area(a_y1, a_x1, a_y2, a_x2), clipped_area(b_y1, b_x1, b_y2, b_x2)
    overlap = clipped_area(
        tf.maximum(a_y1, b_y1), tf.maximum(a_x1, b_x1), tf.minimum(a_y2, b_y2), tf.minimum(a_x2, b_x2)
    )
    enclosing = clipped_area(
        tf.minimum(a_y1, b_y1), tf.minimum(a_x1, b_x1), tf.maximum(a_y2, b_y2), tf.maximum(a_x2, b_x2)
    )
    union = a_area + b_area - overlap
    uncovered = tf.math.divide_no_nan(enclosing - union, enclosing)
    return tf.math.divide_no_nan(overlap, union) - uncovered


def exceeds(boxes: tf.Tensor, size: float) -> tf.Tensor:
    """Returns [...] bool, True for boxes [..., 4] that are both higher and wider than `size` pixels."""
    return tf.reduce_all(boxes[..., 2:] - boxes[..., :2] > size, axis=-1)


def clip(boxes: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Clips boxes to their images.

    Args:
        boxes: [B, ..., 4].
        sizes: [B, 2], height and width of each image without its padding.

    Returns:
        [B, ..., 4], y in [0, height], x in [0, width].
    """
    sizes = tf.cast(sizes, boxes.dtype)
    limits = tf.reshape(tf.concat([sizes, sizes], axis=-1), [-1] + [1] * (boxes.shape.rank - 2) + [4])  # [B, 1..., 4]
    return tf.minimum(tf.maximum(boxes, 0.0), limits)


def encode(boxes: tf.Tensor, reference: tf.Tensor, target_stds: Sequence[float]) -> tf.Tensor:
    """Computes the deltas from reference boxes to boxes (R-CNN, arXiv:1311.2524, appendix C).

    Args:
        boxes, reference: [..., 4].
        target_stds: 4 floats in the order y, x, height, width; the deltas are divided by them.

    Returns:
        [..., 4] float32: dy and dx, the shift of the center in units of the reference's height and width; dh and dw,
        the logarithm of the ratio of heights and widths. 0 if either box is empty: padding must not produce NaN.
    """
    center, size = _center_and_size(boxes)
    reference_center, reference_size = _center_and_size(reference)
    usable = tf.reduce_all((size > 0) & (reference_size > 0), axis=-1, keepdims=True)  # [..., 1]
    size = tf.where(usable, size, 1.0)
    reference_size = tf.where(usable, reference_size, 1.0)
    shift = (center - reference_center) / reference_size
    scale = tf.math.log(size / reference_size)
    deltas = tf.concat([shift, scale], axis=-1) / tf.constant(target_stds, tf.float32)  # [..., 4]
    return tf.where(usable, deltas, 0.0)


def decode(
    deltas: tf.Tensor, reference: tf.Tensor, target_stds: Sequence[float], sizes: tf.Tensor | None = None
) -> tf.Tensor:
    """Applies deltas to reference boxes: the inverse of `encode`.

    dh and dw are limited to |log(16 / 1000)|, so that no delta overflows.

    Args:
        deltas: [..., 4].
        reference: [..., 4].
        target_stds: as in `encode`.
        sizes: [B, 2], height and width of the images that the boxes are clipped to, or None.

    Returns:
        [..., 4] float32.
    """
    deltas = tf.cast(deltas, tf.float32) * tf.constant(target_stds, tf.float32)
    center, size = _center_and_size(reference)
    center += size * deltas[..., :2]
    size *= tf.exp(tf.clip_by_value(deltas[..., 2:], -MAX_LOG_RATIO, MAX_LOG_RATIO))
    boxes = tf.concat([center - size * 0.5, center + size * 0.5], axis=-1)
    return boxes if sizes is None else clip(boxes, sizes)


def flip(boxes: tf.Tensor, width: float | tf.Tensor) -> tf.Tensor:
    """Mirrors boxes [..., 4] horizontally in an image of that width."""
    y1, x1, y2, x2 = tf.unstack(boxes, axis=-1)
    width = tf.cast(width, boxes.dtype)
    return tf.stack([y1, width - x2, y2, width - x1], axis=-1)


def _center_and_size(boxes):
    """Returns the centers and the sizes of boxes [..., 4], [..., 2] float32 each, in the order y, x."""
    boxes = tf.cast(boxes, tf.float32)
    first, last = boxes[..., :2], boxes[..., 2:]
    return (first + last) * 0.5, last - first
