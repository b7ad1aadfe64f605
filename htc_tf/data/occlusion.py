"""What is still seen of objects when a part of them is out of sight: cut off by a crop, or hidden by another object.

Before it: `data.large_scale_jitter` crops, `data.copy_paste` hides. After it: boxes that are tight around what is left.
"""

import tensorflow as tf

from htc_tf.ops import boxes as box_ops


def find_visible(boxes, masks, frames, size):
    """Boxes around what is seen of each object in an image.

    A side moves inward where the mask says so by more than a cell; else it stays where it was, or at the image's edge.

    Args:
      boxes: [G, 4] float32; of the whole object, they may cross the image's edge.
      masks: [G, M, M] uint8, coverage of each cell; what is hidden is 0.
      frames: [G, 4] float32, the boxes that the cells span.
      size: [2], height and width of the image.

    Returns:
      boxes [G, 4] float32, and which objects are seen at all, [G] bool. An object without a mask (its frame has no
      area) is seen where its box is.
    """
    cells = masks.shape[-1]
    size = tf.cast(size, tf.float32)
    start, cell = frames[:, :2], (frames[:, 2:] - frames[:, :2]) / cells
    centres = start[:, None] + (tf.range(cells, dtype=tf.float32)[:, None] + 0.5) * cell[:, None]  # [G, M, 2]
    inside = (centres > 0.0) & (centres < size)
    seen = (masks >= 128) & inside[:, :, None, 0] & inside[:, None, :, 1]
    profiles = tf.stack([tf.reduce_any(seen, axis=2), tf.reduce_any(seen, axis=1)], axis=1)  # [G, 2, M]: rows, columns
    profiles = tf.cast(profiles, tf.uint8)
    first = tf.cast(tf.argmax(profiles, axis=2), tf.float32)
    last = cells - tf.cast(tf.argmax(profiles[..., ::-1], axis=2), tf.float32)
    lower, upper = start + first * cell, start + last * cell
    clipped = box_ops.clip(boxes[None], size[None])[0]
    lower = tf.where(lower - clipped[:, :2] > cell, lower, clipped[:, :2])
    upper = tf.where(clipped[:, 2:] - upper > cell, upper, clipped[:, 2:])
    masked = tf.reduce_all(cell > 0.0, axis=1)
    tight = tf.where(masked[:, None], tf.concat([lower, upper], axis=1), clipped)
    any_area = tf.reduce_all(tight[:, 2:] > tight[:, :2], axis=1)
    return tight, any_area & (tf.reduce_any(profiles > 0, axis=[1, 2]) | ~masked)
